"""Mutants: edits of the good evidence, each of which some check must notice.

They prove the judgement, not the eyes: every field and every recorded command of the evidence is
removed, emptied, or swapped for a bad value, and the checks are called as plain functions on what
``splatgate.provide`` gives them. A mutant is *killed* when any check's state changes or its record
is refused, *equivalent* by a rule written below, and a *survivor* otherwise: the to-do list.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splatgate.container.backends import NotRecorded, Recording, ReplayBackend
from splatgate.doors import Recorded
from splatgate.evidence import BadInput, Command, Facts, Image, Job, from_json
from splatgate.outcomes import Blocked, NotVerified
from splatgate.provide import PROVIDERS
from splatgate.record import State
from splatgate.run import ROOT

#: Fields that no check should judge, with the reason. Patterns over ``file:path``.
EQUIVALENT = {
    "image.json:ref": "the name under which the image was given",
    "image.json:bytes": "judged by the size budget of a policy",
    "image.json:layers*": "judged by the layer scan",
    "image.json:manifest_digest": "judged from a registry",
    "image.json:origin": "where evidence comes from, not what it says",
    "image.json:cmd*": "SageMaker replaces it",
    "image.json:labels*": "judged by the supply chain's checks, but for the driver floor",
    "image.json:workdir": "the entry point is absolute, and is started from two directories",
    "image.json:env*": "what counts is the environment inside the container (facts)",
    "*facts.json:origin": "where evidence comes from",
    "*facts.json:uid": "named in a message; what it may write is judged",
    "*facts.json:python": "named in messages",
    "*facts.json:subject": "describes the subject",
    "*facts.json:entry_script_mode": "judged from testinfra's look at the file",
    "*facts.json:*.mode": "judged from testinfra's look at the file",
    "*facts.json:environment.*": "variables that the design does not name decide nothing",
    "*facts.json:compilers*": "advice",
    "*job.json:*seconds*": "times differ from run to run",
    "*job.json:started": "times differ from run to run",
    "*job.json:phases*": "times differ from run to run",
    "*job.json:origin": "where evidence comes from",
    "*job.json:env_names*": "what the host set",
    "*job.json:limits_*": "what the host set",
    "*job.json:unverified*": "what the host could not do",
    "*job.json:command*": "what the host ran",
    "*job.json:name": "what the host called it",
    "*job.json:key": "what the host called it",
    "*job.json:image_id": "what the host was given",
    "*job.json:channels*": "what the host was given",
    "*job.json:request*": "what the host was given",
}


@dataclass(frozen=True)
class Case:
    """One check with the values of its parameters."""

    name: str
    function: Callable[..., Any]
    values: dict[str, Any]


@dataclass(frozen=True)
class Mutant:
    """One edit: file, path of the field in it, what was done, and the edited record."""

    file: str
    field: str
    mutation: str
    value: Any


class Mutated(Recorded):
    """Good evidence with one record exchanged, in memory."""

    def __init__(self, good: Recorded, mutant: Mutant | None) -> None:
        super().__init__(good.folder, good.scene_path, good.request_path)
        self.good, self.mutant = good, mutant
        self._made = good._made

    def _record(self, name: str, kind: type[Any]) -> Any:
        if self.mutant is not None and name == self.mutant.file:
            return self.mutant.value
        return self.good.once(name, lambda: Recorded._record(self.good, name, kind))

    def profile(self) -> Any:
        """The good image's profile: it describes, and is not what is judged here."""
        return self.good.once("profile", lambda: Recorded.profile(self.good))

    def scene(self) -> Path:
        """The scene, checked against the evidence once."""
        return self.good.once("scene", lambda: Recorded.scene(self.good))

    def backend(self) -> Any:
        """Replay, with one answer exchanged."""
        recording = self.good.once("recording", lambda: self._recording())
        if self.mutant is not None and self.mutant.file.endswith("commands.jsonl"):
            return ReplayBackend("mutant", Exchanged(recording, self.mutant.value))
        return ReplayBackend("good", recording)

    def _recording(self) -> Recording:
        recording = Recording(self.folder / "container" / "commands.jsonl")
        recording.find("")
        return recording


class Exchanged(Recording):
    """A recording in which one command has another answer."""

    def __init__(self, recording: Recording, command: Command) -> None:
        super().__init__(recording.path)
        self._seen = {**recording._seen, command.command: command}
        self._offset = recording._offset


def cases(*lanes: str) -> list[Case]:
    """Every check of some lanes as a plain function, one case for each set of parameters."""
    found = []
    for lane in lanes:
        for path in sorted((ROOT / "tests" / lane).glob("test_*.py")):
            spec = importlib.util.spec_from_file_location(f"checks_{lane}_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if name.startswith("test_") and function.__module__ == module.__name__:
                    found += [Case(f"{name}{i}", function, v) for i, v in _parameters(function)]
    return found


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    marks = [m for m in getattr(function, "pytestmark", ()) if m.name == "parametrize"]
    if not marks:
        yield "", {}
        return
    (mark,) = marks
    names = (
        [n.strip() for n in mark.args[0].split(",")]
        if isinstance(mark.args[0], str)
        else [*mark.args[0]]
    )
    for value in mark.args[1]:
        values = value if len(names) > 1 else (value,)
        yield f"[{value}]", dict(zip(names, values, strict=True))


def state(case: Case, door: Recorded) -> str:
    """State of one check over some evidence; an error in judging has its own word."""
    try:
        arguments = {
            name: door if name == "door" else PROVIDERS[name](door)
            for name in inspect.signature(case.function).parameters
            if name not in case.values
        }
    except Blocked:
        return State.BLOCKED
    except (NotVerified, NotRecorded):
        return State.NOT_VERIFIED
    except Exception as error:
        return f"error: {type(error).__name__}"
    try:
        case.function(**arguments, **case.values)
    except (AssertionError, pytest.fail.Exception):
        return State.FAILED
    except (Blocked, NotVerified, NotRecorded):
        return State.NOT_VERIFIED
    except Exception as error:
        return f"error: {type(error).__name__}"
    return State.PASSED


def edits(value: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every edit of a JSON value as (path, mutation, edited value).

    Of a list the first element stands for all; the others add time and no new field.
    """
    if isinstance(value, dict):
        if value:
            yield path, "emptied", {}
        for key in value:
            below = f"{path}.{key}" if path else key
            yield below, "removed", {k: v for k, v in value.items() if k != key}
            for where, what, edited in edits(value[key], below):
                yield where, what, {**value, key: edited}
    elif isinstance(value, list):
        if value:
            yield path, "emptied", []
            yield f"{path}[0]", "removed", value[1:]
            for where, what, edited in edits(value[0], f"{path}[0]"):
                yield where, what, [edited, *value[1:]]
    elif isinstance(value, bool):
        yield path, "flipped", not value
    elif isinstance(value, int | float):
        for other in (0, -1, 10**9):
            if value != other:
                yield path, f"set to {other}", other
    elif isinstance(value, str):
        if value:
            yield path, "emptied", ""
        yield path, "swapped", "mutant"
    else:
        yield path, "swapped", "mutant"


def mutants(good: Recorded) -> Iterator[tuple[Mutant | None, str, str, str]]:
    """Every mutant: (mutant, file, field, mutation), the first None where its record is refused."""
    kinds: dict[str, type[Any]] = {"image.json": Image, "container/facts.json": Facts}
    kinds |= {
        str(path.relative_to(good.folder)): Job
        for path in sorted(good.folder.glob("jobs/*/job.json"))
    }
    for name, kind in kinds.items():
        value = msgspec.json.decode((good.folder / name).read_bytes())
        for field, mutation, edited in edits(value):
            try:
                record = from_json(msgspec.json.encode(edited), kind, name)
            except BadInput:
                yield None, name, field, mutation
            else:
                yield Mutant(name, field, mutation, record), name, field, mutation
    name = "container/commands.jsonl"
    path = good.folder / name
    for line in path.read_bytes().splitlines() if path.exists() else ():
        command = msgspec.json.decode(line, type=Command)
        for changes in (
            {"status": 0 if command.status else 1},
            {"stdout": ""},
            {"stdout": "mutant"},
        ):
            edited = msgspec.json.decode(
                msgspec.json.encode({**msgspec.to_builtins(command), **changes}), type=Command
            )
            if edited != command:
                yield (
                    Mutant(name, command.command, str(changes), edited),
                    name,
                    command.command,
                    str(changes),
                )


def equivalent(file: str, field: str) -> bool:
    """Whether a written rule says that no check should notice."""
    return any(fnmatch.fnmatch(f"{file}:{field}", pattern) for pattern in EQUIVALENT)


@dataclass(frozen=True)
class Tally:
    """What became of all mutants."""

    tried: int
    killed: int
    equivalent: int
    survivors: tuple[dict[str, str], ...]


def run(good: Recorded, *lanes: str) -> Tally:
    """Try every mutant of some evidence on the checks of some lanes."""
    checks = cases(*(lanes or ("container", "sagemaker")))
    # Only what reads a file can notice an edit of it: found by removing each in turn.
    before = {c.name: state(c, Mutated(good, None)) for c in checks}
    tried = killed = same = 0
    survivors = []
    for mutant, file, field, mutation in mutants(good):
        tried += 1
        if mutant is None:
            killed += 1
            continue
        door = Mutated(good, mutant)
        if any(state(c, door) != before[c.name] for c in checks):
            killed += 1
        elif equivalent(file, field):
            same += 1
        else:
            survivors.append({"field": f"{file}:{field}", "mutation": mutation})
    return Tally(tried, killed, same, tuple(survivors))
