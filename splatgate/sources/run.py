"""One run: its id, what it judges and through which door, and its folder shared by all workers."""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from splatgate.container import sweep
from splatgate.container.layers.images import is_image
from splatgate.evidence import BadInput
from splatgate.paths import DEFAULT_SCENE, ROOT, built_image

if TYPE_CHECKING:
    import pytest

#: Name of a file in the evidence, and the option by which it is given; ``{}``: any number of them.
GIVEN = {
    "build.log": "--build-log",
    "Dockerfile": "--dockerfile",
    "lock/given{}.txt": "--lock",
    "subject.toml": "--subject",
    "request.json": "--request",
}
#: An amount that nobody means.
MOST_USD = 1e6
#: Folder of the runs under way, below the output's.
RUNS = "runs"
#: Folder of the last run that is less than the one whose record lies in the output's.
PART = "part"


@dataclass(frozen=True)
class Account:
    """``judge --live``: the job's role, where it may write, and what it may cost.

    ``price`` is USD an hour of the instance type, ``ceiling`` USD for the whole job.
    """

    role: str
    output: str
    price: float
    ceiling: float

    @classmethod
    def of(cls, option: Callable[[str], Any]) -> Account:
        """The account of a command line.

        Raises:
            BadInput: something is missing, or is no amount.
        """
        names = ("role", "output", "price-per-hour", "ceiling")
        given = {name: option(f"--{name}") for name in names}
        if missing := [f"--{name}" for name, value in given.items() if not value]:
            raise BadInput(f"--live needs {', '.join(missing)}: no price and no place is assumed")
        amounts = []
        for name in names[2:]:
            try:
                amounts.append(float(given[name]))
            except ValueError:
                amounts.append(math.nan)
            if not 0 < amounts[-1] < MOST_USD:
                raise BadInput(f"--{name} {given[name]}: not an amount in USD")
        return cls(given["role"], given["output"], *amounts)


@dataclass(frozen=True)
class Run:
    """A run, the same in its controller and its workers."""

    id: str
    out: Path
    #: ``live``, ``layers``, ``process``, ``account`` or ``recorded``.
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
    #: Takes over no job of an earlier run that was cut short.
    fresh: bool = False
    #: State machine and its input, in place of the reference or of the recorded one.
    pipeline: Path | None = None
    pipeline_input: Path | None = None
    #: With --live: the one job in an account.
    account: Account | None = None

    @classmethod
    def of(cls, config: pytest.Config) -> Run:
        """The run of a pytest process: a worker is told, a controller makes it."""
        if hasattr(config, "workerinput"):
            told = config.workerinput["splatgate"]
            return msgspec.convert(told, cls, dec_hook=lambda kind, value: kind(value))
        option = config.getoption

        def paths(name: str) -> list[Path]:
            value = option(name)
            values = value if isinstance(value, list) else [value] if value else []
            return [(config.invocation_params.dir / one).resolve() for one in values]

        def path(name: str) -> Path | None:
            return next(iter(paths(name)), None)

        out = paths("--out")[0]
        recorded = path("--evidence")
        image = option("--image") or built_image()
        archive = path("--image")
        if archive is not None and is_image(archive):
            image = str(archive)
        identity, controller = uuid.uuid4().hex[:12], sweep.controller()
        account = Account.of(option) if option("--live") and not recorded else None
        door = "account" if account else "process" if option("--process") else "live"
        if option("--layers") or (archive is not None and is_image(archive)):
            door = "layers"
        door = "recorded" if recorded else door
        scratch = out / RUNS / f"{controller}.{identity}"
        return cls(
            id=identity,
            out=out,
            door=door,
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
                name.format(f"-{number}" if number else ""): found
                for name, asked in GIVEN.items()
                for number, found in enumerate(paths(asked))
            },
            fresh=option("--fresh"),
            controller=controller,
            pipeline=path("--pipeline"),
            pipeline_input=path("--pipeline-input"),
            account=account,
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

    def place(self, *, whole: bool) -> Path:
        """Where this run's record goes: beside one of more worth, never over it.

        What was looked at is worth more than what was judged again, and the whole more than a part.
        """
        try:
            there = json.loads((self.out / "record.json").read_bytes())
            known = (
                there["door"] != "recorded",
                not there.get("part") and not there["interrupted"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return self.out
        return self.out / PART if known > (self.door != "recorded", whole) else self.out

    def discard(self) -> None:
        """Remove what is left of this run's own folder, and of those of runs that were killed."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        sweep.sweep_folders(self.out / RUNS, "")
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
