"""Variants of the good image, made, judged and taken away again."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from splatgate.evidence import BadInput, Job, Member, read, write
from splatgate.proof.catalogue import OF_EVIDENCE, Fault, spoil
from splatgate.record import Record
from splatgate.run import DEFAULT_SCENE, ROOT

RECORDED = ROOT / "tests" / "evidence" / "good"


class Bench:
    """Judges variants of one good image, against what the good image itself gives."""

    def __init__(self, image: str, out: Path, workers: str, say: Callable[[str], None]) -> None:
        self.image = image
        self.out = out
        self.workers = workers
        self.say = say
        self._good: dict[str, Record] = {}

    def good(self, kind: str) -> Record:
        """The record of the good image, looked at or judged again from its evidence, to compare
        with.
        """
        door = "recorded" if kind in OF_EVIDENCE else "live"
        if door not in self._good:
            self._good[door] = (
                self.judge("good-evidence", "--evidence", str(self.good_evidence()))
                if door == "recorded"
                else self._good_live()
            )
        return self._good[door]

    def _good_live(self) -> Record:
        path = ROOT / "build" / "record.json"
        if path.exists():
            record = read(path, Record)
            fresh = record.door == "live" and not record.interrupted
            trained = any(j.status == "Completed" for j in record.jobs)
            if fresh and trained and record.image.image_id == self.image:
                return record
        return self.judge("good", "--image", self.image)

    def good_evidence(self) -> Path:
        """Evidence of the good image: what was just seen, else what was recorded with the suite."""
        for folder in (ROOT / "build" / "evidence", self.out / "good" / "evidence"):
            if (folder / "image.json").exists():
                return folder
        return RECORDED

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
            subprocess.run(
                [*command, "--out", str(out), *arguments],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=log,
                check=False,
            )
        if not (out / "record.json").exists():
            last = (out / "judge.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise BadInput(f"judging {name} left no record: {last}")
        return read(out / "record.json", Record)

    def variant(self, name: str, fault: Fault, folder: Path) -> Record:
        """Make the variant and judge it."""
        work = self.out / f"{name}.work"
        shutil.rmtree(work, ignore_errors=True)
        try:
            if fault.kind == "image":
                with self.built(name, folder) as tag:
                    return self.judge(name, "--image", tag, *(["--quick"] if fault.quick else []))
            if fault.kind in OF_EVIDENCE:
                shutil.copytree(self.good_evidence(), work)
                spoil(folder, work)
                if fault.kind == "artefact":
                    remember(work)
                return self.judge(name, "--evidence", str(work))
            if fault.kind == "scene":
                shutil.copytree(DEFAULT_SCENE, work)
                spoil(folder, work)
                return self.judge(name, "--image", self.image, "--scene", str(work))
            if fault.kind == "job":
                from splatgate.sagemaker.request import smoke_request

                work.mkdir(parents=True)
                request = work / "request.json"
                request.write_text(json.dumps(dict(smoke_request().raw), indent=1))
                spoil(folder, request)
                return self.judge(name, "--image", self.image, "--request", str(request))
            raise BadInput(f"{folder}: kind {fault.kind} cannot be made yet")
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def built(self, name: str, folder: Path) -> Iterator[str]:
        """The variant of an image, there for as long as it is judged; yields its reference."""
        import docker.errors

        from splatgate.container import engine

        tag, client = f"splatgate/fault:{name.lower()}", engine.client()
        try:
            client.images.build(
                path=str(folder), tag=tag, buildargs={"GOOD": self.image}, rm=True, forcerm=True
            )
        except docker.errors.BuildError as error:
            raise BadInput(f"{folder}/Dockerfile: {error.msg}") from None
        try:
            yield tag
        finally:
            client.images.remove(tag, force=True)


def remember(evidence: Path) -> None:
    """Let the records of the jobs speak of the artefacts as they are after an edit."""

    def now(member: Member, model: Path) -> Member:
        if member.kind != "file":
            return member
        data = (model / member.path).read_bytes()
        return replace(member, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    for path in evidence.glob("jobs/*/job.json"):
        job = read(path, Job)
        members = tuple(now(member, path.parent / "model") for member in job.members)
        write(path, replace(job, members=members))
