"""The recorded evidence source: reads a folder. Every other source fills such a folder first."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from splatgate import subject
from splatgate.container.backends import NotRecorded, Recording, ReplayBackend
from splatgate.evidence import (
    SCHEMA,
    BadInput,
    Command,
    Compression,
    Contents,
    Facts,
    Header,
    Image,
    Job,
    LayerFiles,
    Lint,
    Pipeline,
    Registry,
    Use,
    read,
)
from splatgate.evidence.missing import NotVerified
from splatgate.evidence.text import pattern

T = TypeVar("T")
NOT_PUSHED = (
    "no registry was asked: push the image, and judge it by its name there (--image HOST/NAME:TAG) "
    "or say where it is (--pushed HOST/NAME:TAG)"
)
#: What the layers hold, in a folder of evidence.
CONTENTS = "contents.json"
#: The request given with --request, in a folder of evidence.
REQUEST = "request.json"
#: Which matching line of the log stops a job: at the third line of progress it is between two steps
#: like any other, not at its first.
STOP_AT = 3


@dataclass(frozen=True)
class JobSpec:
    """One training job that a check asks for. Equal specs are one job in a run."""

    name: str
    hyperparameters: dict[str, str] = field(default_factory=dict)
    #: What the training channel holds: the ``scene``, or a variant of it by its name
    #: (``splatgate.sagemaker.variants``).
    data: str = "scene"
    environment: dict[str, str] = field(default_factory=dict)
    #: ContainerEntrypoint and ContainerArguments, where the request has them.
    command: dict[str, list[str]] = field(default_factory=dict)
    #: No hyperparameters.json at all, where none are given.
    no_file: bool = False
    #: StopTrainingJob at the log line that matches this regular expression for the n-th time.
    stop_on: str | None = None
    stop_at: int = STOP_AT
    #: Starts with the checkpoints of this job, as after a spot interruption.
    resumes: JobSpec | None = None
    #: Bytes that the input leaves of the instance's disk; None: as much as it has.
    room: int | None = None
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
        pipeline: Path | None = None,
        pipeline_input: Path | None = None,
    ) -> None:
        self.pipeline_path, self.pipeline_input = pipeline, pipeline_input
        self.folder = folder
        self.scene_path = scene
        self.request_path = request
        self.say = say
        #: What was asked for beside the evidence: ``instance_types``.
        self.options: dict[str, Any] = {}
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

    def contents(self) -> Contents:
        """What the image holds, as its layers say; of evidence without those, as its own Python
        does.
        """
        if (self.folder / CONTENTS).exists():
            return self._record(CONTENTS, Contents)
        return Recorded.facts(self)

    def build(self) -> dict[str, Any]:
        """The build record (``splatgate/build/1``) of the image."""
        return self._record("build.json", dict)

    def registry(self) -> Registry:
        """What a registry serves.

        Raises:
            NotVerified: none was asked.
        """
        try:
            return self._record("registry.json", Registry)
        except NotRecorded:
            raise NotVerified(NOT_PUSHED) from None

    def sbom(self) -> dict[str, Any]:
        """What is installed, as CycloneDX."""
        return self._record("sbom.cdx.json", dict)

    def layers(self) -> tuple[LayerFiles, ...]:
        """What each layer of the image holds."""
        found: tuple[LayerFiles, ...] = self._record("layers.json", tuple[LayerFiles, ...])
        return found

    def lint(self) -> Lint:
        """What hadolint says of the Dockerfile.

        Raises:
            NotVerified: there is no Dockerfile, or it is another one.
        """
        text = self.file("Dockerfile")
        if text is None:
            raise NotVerified("no Dockerfile at hand: give it with --dockerfile FILE")
        found = self._record("hadolint.json", Lint)
        if hashlib.sha256(text.read_bytes()).hexdigest() != found.dockerfile_sha256:
            raise NotVerified("hadolint.json is of another Dockerfile; record it anew")
        return found

    def hardened(self) -> Command:
        """The start with `train` on a read-only root, without capabilities.

        Raises:
            NotRecorded: it was not tried.
        """
        return self._record("container/hardened.json", Command)

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

    def gpu_use(self, job: Job) -> Use:
        """The GPU's memory before and after a job."""
        return self._record(f"jobs/{job.key}/gpu.json", Use)

    def kernels(self) -> dict[str, Any]:
        """What the trainer's kernels report of themselves on the GPU."""
        return self._record("gpu/kernels.json", dict)

    def scene_of(self, job: Job) -> Path:
        """The scene with the cameras and photographs of ``job``: one of the suite's, or the run's,
        also where the job got a spoilt copy of that.

        Raises:
            NotVerified: it is not at hand.
        """
        from splatgate.paths import ROOT
        from splatgate.sagemaker.channels import tree_hash

        given = job.channels["training"]
        if given != self.header.scene:
            for path in sorted(p for p in (ROOT / "tests" / "scenes").iterdir() if p.is_dir()):
                if tree_hash(path) == given:
                    return path
        return self.scene()

    def pipeline(self) -> Pipeline:
        """The state machine: the one given, else the one recorded.

        Raises:
            BadInput: the file given cannot be read.
        """
        if self.pipeline_path is None:
            return self._record("pipeline.json", Pipeline)
        from splatgate.pipeline.source import beside

        return beside(self.pipeline_path, self.pipeline_input)

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
        given = self.file("subject.toml")
        return given.read_text() if given else self.contents().subject

    def request(self, spec: JobSpec) -> Any:
        """The CreateTrainingJob request of ``spec``, over the one given with --request."""
        known = f"request {self._request_hash} {spec}"
        return self.once(known, lambda: self._request(spec, self.base_request()))

    def base_request(self) -> Any:
        """The request from which those of the jobs are made: given, recorded, or the suite's."""
        from splatgate.sagemaker.request import load, smoke_request

        path = self.request_file
        return self.once(
            f"base request {self._request_hash}", lambda: load(path) if path else smoke_request()
        )

    @cached_property
    def request_file(self) -> Path | None:
        """The request given, or recorded with the evidence; None: there is none."""
        return self.request_path or self.file(REQUEST)

    @cached_property
    def _request_hash(self) -> str:
        path = self.request_file
        return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else ""

    def _request(self, spec: JobSpec, base: Any) -> Any:
        from splatgate.sagemaker.request import parse

        raw = {
            **base.raw,
            "TrainingJobName": f"splatgate-{spec.name}",
            "HyperParameters": spec.hyperparameters,
            "Environment": {**base.environment, **spec.environment},
        }
        if spec.command:
            algorithm = raw.get("AlgorithmSpecification", {})
            raw["AlgorithmSpecification"] = {**algorithm, **spec.command}
        return parse(raw, f"request of job {spec.name}")

    def job_key(self, spec: JobSpec) -> str:
        """Memo key of a job: its name, and a hash of request, data and stop."""
        known = f"key {self._request_hash} {spec} {self.header.scene}"
        return self.once(known, lambda: self._job_key(spec))

    def _job_key(self, spec: JobSpec) -> str:
        from splatgate.sagemaker.request import job_key

        data = {"training": f"{spec.data} of {self.header.scene}" if spec.data != "empty" else ""}
        before = self.job_key(spec.resumes) if spec.resumes else None
        variant: list[Any] | None = [spec.stop_on, before] if spec.stop_on or before else None
        if spec.stop_at != STOP_AT or spec.no_file:
            variant = [*(variant or []), spec.stop_at, spec.no_file]
        if spec.room is not None:
            variant = [*(variant or []), "room", spec.room]
        return job_key(spec.name, self.request(spec), data, variant)

    def _record(self, name: str, kind: type[T]) -> T:
        path = self.folder / name
        if not path.exists():
            if not (self.folder / "evidence.json").exists():
                raise BadInput(f"{self.folder}: no evidence.json in it; give a folder of evidence")
            raise NotRecorded(f"not recorded: {name}")
        return read(path, kind)


def account_job(run: str) -> str:
    """Name of the one job that a run starts in an account, which no other run uses."""
    return f"live-{run}"


def stop_when(expression: str | None, number: int = STOP_AT) -> Callable[[str], bool] | None:
    """A predicate over log lines that is true from the ``number``-th match on, or None."""
    if expression is None:
        return None
    compiled, seen = pattern(expression), itertools.count(1)
    return lambda line: compiled.search(line) is not None and next(seen) >= number
