"""One run: its id, what it judges and through which door, and its folder shared by all workers."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from splatgate.container import sweep
from splatgate.container.layers.images import is_image
from splatgate.paths import DEFAULT_SCENE, ROOT, built_image

if TYPE_CHECKING:
    import pytest

#: Name of a file in the evidence, and the option by which it is given.
GIVEN = {
    "build.log": "--build-log",
    "Dockerfile": "--dockerfile",
    "lock/given.txt": "--lock",
    "subject.toml": "--subject",
    "request.json": "--request",
}
#: Folder of the runs under way, below the output's.
RUNS = "runs"


@dataclass(frozen=True)
class Run:
    """A run, the same in its controller and its workers."""

    id: str
    out: Path
    #: ``live``, ``layers``, ``process`` or ``recorded``.
    door: str
    #: Evidence of this run: collected here when live, the given folder when recorded.
    folder: Path
    #: Of this run alone; the next start removes it where this one is killed.
    scratch: Path
    image: str | None
    #: Where a local image was pushed to.
    pushed: str | None
    subject: Path | None
    scene: Path
    request: Path | None
    #: The trainer's source tree, for the process runtime.
    source: Path
    quick: bool
    #: Instance types that the image is meant for; none: those of the job definition.
    instance_types: tuple[str, ...]
    #: What is known of a build that was not made here, by its name in the evidence.
    given: dict[str, Path]
    #: Names the controller's process, so that a later run knows when it is gone.
    controller: str
    #: State machine and its input, in place of the reference or of the recorded one.
    pipeline: Path | None = None
    pipeline_input: Path | None = None

    @classmethod
    def of(cls, config: pytest.Config) -> Run:
        """The run of a pytest process: a worker is told, a controller makes it."""
        if hasattr(config, "workerinput"):
            told = config.workerinput["splatgate"]
            return msgspec.convert(told, cls, dec_hook=lambda kind, value: kind(value))
        option = config.getoption

        def path(name: str) -> Path | None:
            value = option(name)
            return (config.invocation_params.dir / value).resolve() if value else None

        out = (config.invocation_params.dir / option("--out")).resolve()
        recorded = path("--evidence")
        image = option("--image") or built_image()
        archive = path("--image")
        if archive is not None and is_image(archive):
            image = str(archive)
        identity, controller = uuid.uuid4().hex[:12], sweep.controller()
        scratch = out / RUNS / f"{controller}.{identity}"
        return cls(
            id=identity,
            out=out,
            door="recorded"
            if recorded
            else "process"
            if option("--process")
            else "layers"
            if option("--layers") or (archive is not None and is_image(archive))
            else "live",
            folder=recorded or scratch,
            scratch=scratch,
            image=image,
            pushed=option("--pushed"),
            subject=path("--subject"),
            scene=path("--scene") or DEFAULT_SCENE,
            request=path("--request"),
            source=path("--source") or ROOT / "image",
            quick=option("--quick"),
            instance_types=tuple(option("--instance-type")),
            given={
                name: found for name, asked in GIVEN.items() if (found := path(asked)) is not None
            },
            controller=controller,
            pipeline=path("--pipeline"),
            pipeline_input=path("--pipeline-input"),
        )

    def to_builtins(self) -> Any:
        """This run as JSON's own types, for a worker to read back."""
        return msgspec.to_builtins(self, enc_hook=str)

    @property
    def catalog(self) -> Path:
        """What the workers collected: xdist's controller collects nothing itself."""
        return self.scratch / "catalog.json"

    @property
    def labels(self) -> dict[str, str]:
        """Labels of everything that this run makes in the engine."""
        return {sweep.RUN_LABEL: self.id, sweep.CONTROLLER_LABEL: self.controller}

    def discard(self) -> None:
        """Remove what is left of this run's own folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        if (runs := self.scratch.parent).is_dir() and not any(runs.iterdir()):
            runs.rmdir()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long something took."""
        started = monotonic()
        try:
            yield
        finally:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "timings.jsonl").open("a") as file:
                file.write(json.dumps({name: round(monotonic() - started, 1)}) + "\n")
