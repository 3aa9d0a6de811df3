"""What a run that was cut short has left: the jobs that another run of the same may take over."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from splatgate.container import sweep
from splatgate.evidence import BadInput, Header, Job, read
from splatgate.record import Record
from splatgate.sagemaker.result import contradictions
from splatgate.sources.run import PART, RUNS, Run

#: Name in the header's extra of the content hash of the code that collects.
SUITE = "suite_sha256"


def take_over(run: Run, header: Header, say: Callable[[str], None]) -> Header:
    """Copy the jobs that runs of the same left when they were cut short into the folder of ``run``.

    The same: image or source, scene, machine and suite. Which request and data a job is of, its key
    says. Returns ``header``, as old as the oldest evidence.
    """
    for folder in () if run.fresh else cut_short(run.out):
        try:
            earlier = read(folder / "evidence.json", Header)
        except BadInput:
            continue
        if _same(earlier) != _same(header):
            continue
        jobs = [path for path in sorted(folder.glob("jobs/*")) if complete(path, header)]
        for path in jobs:
            # What was compressed is made again, in seconds.
            kept = shutil.ignore_patterns("compressed*", "*.lock")
            shutil.copytree(path, run.folder / "jobs" / path.name, ignore=kept, dirs_exist_ok=True)
        if jobs:
            say(f"taking over {len(jobs)} jobs of a run that was cut short (--fresh runs all anew)")
            header = replace(header, created=min(header.created, earlier.created))
    return header


def _same(header: Header) -> Header:
    """What two runs must have in common. A GPU's clock of the moment is none of it."""
    gpu = header.machine.gpu
    machine = replace(header.machine, gpu=",".join(gpu.split(",")[:4]) if gpu else None)
    return replace(header, run="", created="", machine=machine)


def cut_short(out: Path) -> Iterator[Path]:
    """Folders of evidence of runs that did not reach their end: killed, interrupted, or left by
    their engine.
    """
    for folder in sorted((out / RUNS).glob("*")):
        if sweep.is_gone(folder.name.rpartition(".")[0]):
            yield folder
    for folder in (out, out / PART):
        try:
            record = read(folder / "record.json", Record)
            if record.interrupted or any(check.error for check in record.checks):
                yield folder / "evidence"
        except BadInput:
            continue


def complete(folder: Path, header: Header) -> bool:
    """Whether a job's evidence is whole, and all that a check may ask of it is there."""
    try:
        job = read(folder / "job.json", Job)
    except BadInput:
        return False
    if (
        job.key != folder.name
        or contradictions(job)
        or job.image_id != (header.image_id or job.image_id)
    ):
        return False
    # Another job may start from where a stopped one was, and checkpoints are no evidence.
    if job.status == "Stopped" and not (folder / "checkpoints").is_dir():
        return False
    if header.machine.gpu and not (folder / "gpu.json").is_file():
        return False
    return (folder / "log.txt").is_file() and all(
        (path := folder / "model" / member.path).is_file()
        and hashlib.sha256(path.read_bytes()).hexdigest() == member.sha256
        for member in job.members
        if member.kind == "file"
    )
