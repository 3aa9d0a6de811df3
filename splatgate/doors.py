"""The two doors to evidence. ``Recorded`` reads a folder; ``splatgate.live.Live`` fills the folder
first.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from splatgate import subject
from splatgate.container.backends import NotRecorded, Recording, ReplayBackend
from splatgate.evidence import SCHEMA, BadInput, Compression, Facts, Header, Image, Job, read
from splatgate.outcomes import NotVerified

T = TypeVar("T")
#: Which matching line of the log stops a job.
STOP_AT = 3


@dataclass(frozen=True)
class JobSpec:
    """One training job that a check asks for. Equal specs are one job in a run."""

    name: str
    hyperparameters: dict[str, str] = field(default_factory=dict)
    #: What the training channel holds: ``scene``, its model without photographs (``no-photos``), or
    #: nothing (``empty``).
    data: str = "scene"
    environment: dict[str, str] = field(default_factory=dict)
    #: StopTrainingJob at the third log line that matches this regular expression.
    stop_on: str | None = None
    #: Starts with the checkpoints of this job, as after a spot interruption.
    resumes: JobSpec | None = None
    #: Trains for more than a few steps, so that ``--quick`` leaves it out.
    trains: bool = True
    #: Seconds after which the host gives the job up.
    deadline: float = 900.0


class Recorded:
    """Evidence seen before, read from its folder. Needs no engine.

    Raises:
        BadInput: the folder holds no evidence.
    """

    def __init__(
        self,
        folder: Path,
        scene: Path,
        request: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder = folder
        self.scene_path = scene
        self.request_path = request
        self.say = say
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What is costly to compute from evidence, computed once in this process.

        ``name`` names all of the evidence that it is computed from.
        """
        if name not in self._made:
            self._made[name] = make()
        value: T = self._made[name]
        return value

    @cached_property
    def header(self) -> Header:
        """What the folder is about."""
        header = self._record("evidence.json", Header)
        if header.schema != SCHEMA:
            raise BadInput(f"{self.folder}: {header.schema}, not {SCHEMA}; record it anew")
        return header

    def image(self) -> Image:
        """The image's configuration.

        Raises:
            BadInput: it is another image than the evidence speaks of.
        """
        image = self._record("image.json", Image)
        if image.image_id != self.header.image_id:
            raise BadInput(f"{self.folder}: image.json is of {image.image_id}, another image")
        return image

    def facts(self) -> Facts:
        """What the probe saw inside the container."""
        return self._record("container/facts.json", Facts)

    def build(self) -> dict[str, Any]:
        """The build record (``splatgate/build/1``) of the image."""
        return self._record("build.json", dict)

    def sbom(self) -> dict[str, Any]:
        """What is installed, as CycloneDX."""
        return self._record("sbom.cdx.json", dict)

    def host(self) -> Any:
        """testinfra's host, bound to the container."""
        from testinfra.host import Host

        return Host(self.backend())

    def backend(self) -> Any:
        """The testinfra backend behind ``host``."""
        return ReplayBackend("recorded", Recording(self.folder / "container" / "commands.jsonl"))

    def job(self, spec: JobSpec) -> Job:
        """The job of ``spec``.

        Raises:
            NotRecorded: no such job was run, with this request and these data.
        """
        key = self.job_key(spec)
        job = self._record(f"jobs/{key}/job.json", Job)
        self._answers(job, key, spec)
        return job

    def _answers(self, job: Job, key: str, spec: JobSpec) -> None:
        """Refuse a record that is of another job than ``spec``, or that contradicts itself."""
        from splatgate.sagemaker.result import contradictions

        asked = self.request(spec)
        data = {"training": self.header.scene} if spec.data == "scene" else job.channels
        problems = contradictions(job)
        for what, found, expected in (
            ("key", job.key, key),
            ("name", job.name, asked.name),
            ("request", job.request, asked.raw),
            # The process runtime has no image.
            ("image", job.image_id, self.header.image_id or job.image_id),
            ("data", job.channels, data),
        ):
            if found != expected:
                problems.append(f"its {what} is another than was asked for")
        if problems:
            raise BadInput(f"{self.folder}/jobs/{key}: {'; '.join(problems)}; record it anew")

    def kernels(self) -> dict[str, Any]:
        """What the trainer's kernels report of themselves on the GPU."""
        return self._record("gpu/kernels.json", dict)

    def scene_of(self, job: Job) -> Path:
        """The scene with the cameras and photographs of ``job``: one of the suite's, or the run's,
        also where the job got a spoilt copy of that.

        Raises:
            NotVerified: it is not at hand.
        """
        from splatgate.run import ROOT
        from splatgate.sagemaker.channels import tree_hash

        given = job.channels["training"]
        if given != self.header.scene:
            for path in sorted(p for p in (ROOT / "tests" / "scenes").iterdir() if p.is_dir()):
                if tree_hash(path) == given:
                    return path
        return self.scene()

    def job_folder(self, job: Job) -> Path:
        """Where the artefacts of a job lie."""
        return self.folder / "jobs" / job.key

    def compressed(self, job: Job) -> Compression:
        """What the compression stage's tool made of the model of ``job``.

        Raises:
            NotRecorded: the tool was not run on it.
            NotVerified: the model is no longer the one that it was run on.
        """
        from splatgate.sagemaker.compression import archived

        found = self._record(f"jobs/{job.key}/compressed.json", Compression)
        if found.found != archived(self.job_folder(job)):
            raise NotVerified("the .ply is another than the one compressed; compress it again")
        return found

    def artefact(self, job: Job, name: str) -> Path | None:
        """A file of a job's model, or None where the job's record has no such member.

        Raises:
            BadInput: the file is missing, or is not the one that the record speaks of.
        """
        member = next((m for m in job.members if m.path == name), None)
        if member is None or member.kind != "file":
            return None
        path = self.file(f"jobs/{job.key}/model/{name}")
        if path is None:
            raise BadInput(f"{self.folder}/jobs/{job.key}: {name} is recorded and not there")
        if self._content(f"jobs/{job.key}/model/{name}") != (member.bytes, member.sha256):
            raise BadInput(f"{path}: not the file that the job's record speaks of; record it anew")
        return path

    def _content(self, name: str) -> tuple[int, str]:
        data = (self.folder / name).read_bytes()
        return len(data), hashlib.sha256(data).hexdigest()

    def file(self, name: str) -> Path | None:
        """A file of the evidence that is no record, or None."""
        path = self.folder / name
        return path if path.is_file() else None

    def scene(self) -> Path:
        """The scene that the jobs were given.

        Raises:
            NotVerified: it is not at hand, or is another one than the evidence speaks of.
        """
        from splatgate.sagemaker.channels import tree_hash

        found = self.once("scene hash", lambda: tree_hash(self.scene_path))
        if found != self.header.scene:
            raise NotVerified(
                f"evidence speaks of scene {self.header.scene_name}, {self.scene_path} is another; "
                "give it with --scene"
            )
        return self.scene_path

    def profile(self) -> subject.Profile:
        """The subject profile.

        Raises:
            NotVerified: the image has none, and none was given.
        """
        text = self._profile_text()
        if text is None:
            raise NotVerified("no subject profile: give one with --subject FILE")
        return subject.parse(text, "subject profile")

    def _profile_text(self) -> str | None:
        given = self.folder / "subject.toml"
        return given.read_text() if given.exists() else self.facts().subject

    def request(self, spec: JobSpec) -> Any:
        """The CreateTrainingJob request of ``spec``, over the one given with --request."""
        from splatgate.sagemaker.request import load, smoke_request

        base = self.once(
            "base request",
            lambda: load(self.request_path) if self.request_path else smoke_request(),
        )
        return self.once(f"request {spec}", lambda: self._request(spec, base))

    def _request(self, spec: JobSpec, base: Any) -> Any:
        from splatgate.sagemaker.request import parse

        raw = {
            **base.raw,
            "TrainingJobName": f"splatgate-{spec.name}",
            "HyperParameters": spec.hyperparameters,
            "Environment": {**base.environment, **spec.environment},
        }
        return parse(raw, f"request of job {spec.name}")

    def job_key(self, spec: JobSpec) -> str:
        """Memo key of a job: its name, and a hash of request, data and stop."""
        return self.once(f"key {spec} {self.header.scene}", lambda: self._job_key(spec))

    def _job_key(self, spec: JobSpec) -> str:
        from splatgate.sagemaker.request import job_key

        data = {"training": f"{spec.data} of {self.header.scene}" if spec.data != "empty" else ""}
        before = self.job_key(spec.resumes) if spec.resumes else None
        variant = [spec.stop_on, before] if spec.stop_on or before else None
        return job_key(spec.name, self.request(spec), data, variant)

    def _record(self, name: str, kind: type[T]) -> T:
        path = self.folder / name
        if not path.exists():
            if not (self.folder / "evidence.json").exists():
                raise BadInput(f"{self.folder}: no evidence.json in it; give a folder of evidence")
            raise NotRecorded(f"not recorded: {name}")
        return read(path, kind)


def stop_when(pattern: str | None) -> Callable[[str], bool] | None:
    """A predicate over log lines that is true from the third match on, or None.

    At the third line the job is between two steps like any other, not at its first.
    """
    if pattern is None:
        return None
    compiled, seen = re.compile(pattern), itertools.count(1)
    return lambda line: compiled.search(line) is not None and next(seen) >= STOP_AT
