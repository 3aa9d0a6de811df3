"""Variants of the good image, made, judged and taken away again.

Edits of evidence are judged in this process. What an engine must see is judged by the verb
``judge`` in processes of their own, some at a time: derived images are built in one pass first, and
share the good image's layers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from splatgate.container import lint, sweep
from splatgate.evidence import BadInput, Header, Job, Member, read, write
from splatgate.judge.in_process import JUDGED, cases, judged
from splatgate.paths import BUILD, DEFAULT_SCENE, ROOT
from splatgate.pipeline import source
from splatgate.proof.catalogue import OF_SOURCE, RECORDED_GPU, Fault, spoil
from splatgate.record import Record
from splatgate.sagemaker.channels import tree_hash

RECORDED = ROOT / "tests" / "evidence" / "good"
#: What the request of a job fault sends: without a limit of the trainer's own, none can be judged.
JOB_LIMIT = {"max_minutes": "30"}
#: On every derived image: the process that made it, so that a later one may remove it.
LABEL = "splatgate.faults"
#: Seconds that a judge gets to sweep, when this process is interrupted.
GRACE = 30.0
#: Judges at a time: each may load torch, in up to two GB of memory.
AT_ONCE = 4


class Bench:
    """Judges variants of one good image, against what the good image itself gives."""

    def __init__(self, image: str, out: Path, workers: str, say: Callable[[str], None]) -> None:
        self.image = image
        self.out = out
        self.workers = workers
        self.say = say
        self._good: dict[str, Record] = {}
        self._alone = threading.Lock()
        self._known: dict[str, Any] = {}
        self._running: set[subprocess.Popen[bytes]] = set()
        self._tags: dict[str, str] = {}
        self._refused: dict[str, str] = {}

    def good(self, fault: Fault) -> Record:
        """The record of the good image, looked at or judged again from its evidence, to compare
        with.
        """
        if fault.of_evidence:
            door = f"recorded {fault.lane}"
            if door not in self._good:
                self._good[door] = self._judged(fault, self.good_evidence(fault.lane))
            return self._good[door]
        if fault.kind == OF_SOURCE:
            with self._alone:
                if "source" not in self._good:
                    self._good["source"] = self.judge("good-source", "--lane", "gpu")
                return self._good["source"]
        with self._alone:
            for door in ("whole", "quick") if fault.is_quick else ("whole",):
                if door in self._good:
                    return self._good[door]
            door = "quick" if fault.is_quick else "whole"
            self._good[door] = self._judged_here(fault.is_quick) or self.judge(
                f"good-{door}", "--image", self.image, *(["--quick"] if fault.is_quick else [])
            )
            return self._good[door]

    @property
    def records(self) -> tuple[Record, ...]:
        """What the good image gave, through every door that was used."""
        return tuple(self._good.values())

    def _judged_here(self, quick: bool) -> Record | None:
        """The record of the last run here, if it says of the good image what a new one would."""
        path = BUILD / "record.json"
        if not path.exists():
            return None
        record = read(path, Record)
        whole = quick or any(job.status == "Completed" for job in record.jobs)
        fresh = record.door == "live" and not record.interrupted
        known = {case.check.name for case in cases(*JUDGED)} <= {c.name for c in record.checks}
        return record if fresh and whole and known and record.image.image_id == self.image else None

    def _judged(self, fault: Fault, folder: Path) -> Record:
        """Evidence judged in this process: in the fault's own lane, if it has one."""
        lanes = (fault.lane,) if fault.lane else JUDGED
        return judged(folder, DEFAULT_SCENE, self._known, lanes)

    def good_evidence(self, lane: str = "") -> Path:
        """Evidence of the good image: what was recorded with the suite is whole, else what was just
        seen. Of the gpu lane, only what was recorded.
        """
        if lane == "gpu":
            return RECORDED_GPU
        if (RECORDED / "evidence.json").exists():
            return RECORDED
        return BUILD / "evidence"

    def judge(self, name: str, *arguments: str) -> Record:
        """Run the verb ``judge`` in a process of its own.

        Raises:
            BadInput: it left no record.
        """
        out = self.out / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        command = [sys.executable, "-m", "splatgate", "judge", "--json", "-n", self.workers]
        with (out / "judge.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--out", str(out), *arguments],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=log,
                # A Ctrl-C reaches us, and we end it in order.
                start_new_session=True,
            )
            self._running.add(process)
            process.wait()
            self._running.discard(process)
        if not (out / "record.json").exists():
            last = (out / "judge.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise BadInput(f"judging {name} left no record: {last}")
        return read(out / "record.json", Record)

    def variant(self, name: str, fault: Fault, folder: Path) -> Record:
        """Make the variant and judge it.

        Raises:
            BadInput: it cannot be made, or judging it left no record.
        """
        options = ["--quick"] if fault.is_quick else []
        options += ["--lane", fault.lane] if fault.lane else []
        work = self.out / f"{name}.work"
        shutil.rmtree(work, ignore_errors=True)
        try:
            if fault.kind == "image":
                if name in self._refused:
                    raise BadInput(self._refused[name])
                return self.judge(name, "--image", self._tags[name], *options)
            if fault.kind == "pipeline":
                copied = shutil.copytree(source.REFERENCE.parent, work / "pipeline")
                spoil(fault, folder, copied, script_on=source.REFERENCE.name)
                machine = copied / source.REFERENCE.name
                if not fault.of_evidence:
                    given = ("--image", self.image, "--pipeline", str(machine))
                    return self.judge(name, *given, *options)
                shutil.copytree(self.good_evidence(), work / "evidence")
                seen = source.beside(machine)
                write(work / "evidence" / "pipeline.json", seen)
                return judged(work / "evidence", DEFAULT_SCENE, self._known)
            if fault.recorded:
                evidence = shutil.copytree(self.good_evidence(), work / "evidence")
                scene = shutil.copytree(DEFAULT_SCENE, work / "scene")
                spoil(fault, folder, scene)
                header = read(evidence / "evidence.json", Header)
                write(evidence / "evidence.json", replace(header, scene=tree_hash(scene)))
                return judged(evidence, scene)
            if fault.of_evidence:
                shutil.copytree(self.good_evidence(fault.lane), work)
                spoil(fault, folder, work)
                remember(fault.kind, work)
                return self._judged(fault, work)
            if fault.kind == OF_SOURCE:
                shutil.copytree(ROOT / "image", work)
                spoil(fault, folder, work)
                return self.judge(name, "--lane", "gpu", "--source", str(work))
            if fault.kind == "scene":
                shutil.copytree(DEFAULT_SCENE, work)
                spoil(fault, folder, work)
                return self.judge(name, "--image", self.image, "--scene", str(work), *options)
            if fault.kind == "job":
                from splatgate.sagemaker.request import smoke_request

                work.mkdir(parents=True)
                request = work / "request.json"
                sent = smoke_request(hyperparameters=JOB_LIMIT).raw
                request.write_text(json.dumps(dict(sent), indent=1))
                spoil(fault, folder, request)
                return self.judge(name, "--image", self.image, "--request", str(request), *options)
            raise BadInput(f"{folder}: kind {fault.kind} cannot be made yet")
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def derived(self, faults: Mapping[str, Fault], folder: Path) -> Iterator[None]:
        """Every derived image of a catalogue, there for as long as it is judged.

        What cannot be built is said when it is to be judged.
        """
        wanted = [name for name, fault in faults.items() if fault.kind == "image"]
        if not wanted:
            yield
            return
        from splatgate.container import engine

        client, owner = engine.client(), sweep.controller()
        _remove(client, sweep.is_gone)
        self.say(f"building {len(wanted)} derived images")
        try:
            for name in wanted:
                try:
                    built, _ = client.images.build(
                        path=str(folder / name),
                        buildargs={"GOOD": self.image},
                        labels={LABEL: owner},
                        rm=True,
                        forcerm=True,
                    )
                    self._tags[name] = str(built.id)
                except _not_built() as error:
                    self._refused[name] = f"{folder / name}/Dockerfile: {error}"
            yield
        finally:
            _remove(client, lambda label: label == owner)

    def spread(
        self, todo: Iterable[str], work: Callable[[str], None], inline: Callable[[str], bool]
    ) -> None:
        """Do ``work`` on every name: what is ``inline`` in this thread, the rest some at a time."""
        todo, waiting = list(todo), []
        pool = ThreadPoolExecutor(max_workers=min(AT_ONCE, os.cpu_count() or 1))
        try:
            waiting += [pool.submit(work, name) for name in todo if not inline(name)]
            for name in todo:
                if inline(name):
                    work(name)
            for future in waiting:
                future.result()
        except BaseException:
            for future in waiting:
                future.cancel()
            for process in list(self._running):
                process.send_signal(signal.SIGINT)
            for process in list(self._running):
                try:
                    process.wait(timeout=GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
            raise
        finally:
            pool.shutdown()


def _not_built() -> tuple[type[Exception], ...]:
    import docker.errors

    return (docker.errors.BuildError, docker.errors.APIError, TypeError)


def _remove(client: Any, wanted: Callable[[str], bool]) -> None:
    """Remove derived images by the label of who made them."""
    import docker.errors

    for image in client.images.list(all=True, filters={"label": LABEL}):
        if wanted(image.labels.get(LABEL, "")):
            try:
                client.images.remove(image.id, force=True)
            except docker.errors.APIError:
                continue  # a parent of another, which takes it along


def remember(kind: str, evidence: Path) -> None:
    """Let the records speak of the artefacts, or of the build's log and Dockerfile, as they are
    after an edit.
    """
    if kind == "build":
        build = evidence / "build.json"
        log = hashlib.sha256((evidence / "build.log").read_bytes()).hexdigest()
        write(build, {**read(build, dict), "log_sha256": log})
        if lint.program():
            write(evidence / "hadolint.json", lint.look(evidence / "Dockerfile"))
    if kind == "artefact":
        for path in evidence.glob("jobs/*/job.json"):
            job = read(path, Job)
            members = tuple(_now(member, path.parent / "model") for member in job.members)
            write(path, replace(job, members=members))


def _now(member: Member, model: Path) -> Member:
    path = model / member.path
    # What is large may not be kept with the evidence.
    if member.kind != "file" or not path.exists():
        return member
    data = path.read_bytes()
    return replace(member, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
