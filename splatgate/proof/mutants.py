"""Mutants: edits of the good evidence, each of which some check must notice.

They prove the judgement, not the eyes. Every file, every field and every recorded command of the
evidence is removed, emptied or swapped, and set to the documented bad values; the edit lies in a
copy of the folder, and the checks are called as plain functions through the door that
``judge --evidence`` opens. A mutant is *killed* when the state of any check changes, *equivalent*
by a rule of ``splatgate.proof.mutations``, and a *survivor* otherwise: the to-do list. A documented
bad value is killed only by a check that fails, and no rule excuses it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from splatgate.evidence import (
    Command,
    Compression,
    Facts,
    Header,
    Image,
    Job,
    Pipeline,
    Registry,
    from_json,
)
from splatgate.judge.in_process import Case, cases, judge
from splatgate.paths import DEFAULT_SCENE
from splatgate.proof.edit import COMMANDS, agreed, decode, encode, put
from splatgate.proof.mutations import BAD, edits, equivalent
from splatgate.record import Check, State
from splatgate.sources.recorded import Recorded

T = TypeVar("T")
LANES = ("container", "sagemaker")
#: Kinds of the typed records; every other ``.json`` is edited as it is.
KINDS: dict[str, type[Any]] = {
    "evidence.json": Header,
    "image.json": Image,
    "registry.json": Registry,
    "container/facts.json": Facts,
    "pipeline.json": Pipeline,
    "jobs/*/job.json": Job,
    "jobs/*/compressed.json": Compression,
    COMMANDS: dict[str, Command],
}
#: In a folder of evidence, and none: the verdict of the run that looked.
NO_EVIDENCE = ("record.json",)


@dataclass(frozen=True)
class Mutant:
    """One edit. ``contents`` holds the files that it exchanges; None: removed."""

    file: str
    field: str
    mutation: str
    contents: dict[str, bytes | None]
    #: Entries of a trace (`reads`), one of which a check must have to notice the edit.
    touches: frozenset[str]
    documented: bool = False


class Traced(Recorded):
    """Good evidence that notes what is read of it: files, and fields of records.

    An edit of a field that a check does not read on the good evidence cannot change its way
    through the rest, so that only the checks that read it need to judge the mutant.
    """

    def __init__(self, folder: Path, scene: Path, known: dict[str, Any]) -> None:
        super().__init__(folder, scene)
        self.seen: set[str] = set()
        self.records: set[str] = set()
        self._known = known

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Read what the value is made of, also when it is known."""
        value: T = (
            self._known[name] if name in self._known else self._known.setdefault(name, make())
        )
        return value

    def _record(self, name: str, kind: type[T]) -> T:
        self.seen.add(name)
        self.records.add(name)
        record = super()._record(name, kind)
        return self._spied(record, name) if is_dataclass(record) else record

    def _spied(self, record: Any, name: str) -> Any:
        kind, seen = type(record), self.seen
        names = {f.name for f in fields(record)}

        def look(spied: Any, attribute: str) -> Any:
            if attribute in names:
                seen.add(f"{name}:{attribute}")
            return object.__getattribute__(spied, attribute)

        spied: Any = object.__new__(type(kind.__name__, (kind,), {"__getattribute__": look}))
        spied.__dict__.update(record.__dict__)
        return spied

    def file(self, name: str) -> Path | None:
        """A file of the evidence that is no record, or None."""
        self.seen.add(name)
        return super().file(name)

    def backend(self) -> Any:
        """The testinfra backend behind ``host``."""
        self.seen.add(COMMANDS)
        return super().backend()


class Mutated(Recorded):
    """A copy of good evidence in which a mutant lies. What it leaves alone is read once."""

    def __init__(self, folder: Path, scene: Path, known: dict[str, Any], mutant: Mutant) -> None:
        super().__init__(folder, scene)
        self._made, self.mutant = known, mutant
        self._records: dict[str, Any] = {}

    def _record(self, name: str, kind: type[T]) -> T:
        kept = self._records if name in self.mutant.contents else self._made
        key = f"record {name}"
        if key not in kept:
            content = self.mutant.contents.get(name)
            kept[key] = from_json(content, kind, name) if content else super()._record(name, kind)
        record: T = kept[key]
        return record

    def _content(self, name: str) -> tuple[int, str]:
        if name in self.mutant.contents:
            return super()._content(name)
        return self.once(f"content {name}", lambda: super(Mutated, self)._content(name))


def mutants(good: Path) -> Iterator[Mutant]:
    """Every mutant of a folder of evidence."""
    for path in sorted(p for p in good.rglob("*") if p.is_file()):
        name, data = path.relative_to(good).as_posix(), path.read_bytes()
        if name in NO_EVIDENCE:
            continue
        whole = [("removed", None), ("emptied", b""), ("cut in half", data[: len(data) // 2])]
        for mutation, content in whole:
            touches = frozenset({"*"} if content is None else {name})
            yield Mutant(name, "", mutation, _files(good, name, content), touches)
        if path.suffix not in (".json", ".jsonl"):
            continue
        kind = next((k for pattern, k in KINDS.items() if Path(name).match(pattern)), None)
        value = decode(name, data)
        found = [(where, what, edited, False) for where, what, edited in edits(value)]
        for bad in BAD:
            if Path(name).match(bad.file):
                what = f"{bad.name} ({bad.source})"
                found.append(((), what, agreed(put(value, bad.changes)), True))
        for where, what, edited, documented in found:
            content = encode(name, edited)
            try:
                msgspec.convert(edited, kind or dict)
                top = {name} if kind is None or name == COMMANDS else {f"{name}:{where[0]}"}
            except (msgspec.ValidationError, IndexError):
                top = {name}  # refused as a whole, or several fields at once
            contents = _files(good, name, content)
            field = ".".join(map(str, where))
            yield Mutant(name, field, what, contents, frozenset(top), documented)


def _files(good: Path, name: str, content: bytes | None) -> dict[str, bytes | None]:
    """What is exchanged with ``name``: a job's record names its artefacts by their hash, so that an
    edited artefact is judged, and not just refused as another file.
    """
    exchanged: dict[str, bytes | None] = {name: content}
    parts = name.split("/")
    if parts[0] == "jobs" and parts[2] == "model":
        record = f"jobs/{parts[1]}/job.json"
        job = msgspec.json.decode((good / record).read_bytes())
        path = "/".join(parts[3:])
        job["members"] = [
            {
                **m,
                "bytes": len(content or b""),
                "sha256": hashlib.sha256(content or b"").hexdigest(),
            }
            if m["path"] == path
            else m
            for m in job["members"]
            if m["path"] != path or content is not None
        ]
        exchanged[record] = msgspec.json.encode(job)
    return exchanged


@dataclass(frozen=True)
class Tally:
    """What became of all mutants."""

    tried: int
    killed: int
    equivalent: int
    survivors: tuple[dict[str, str], ...]


def run(good: Path, scene: Path = DEFAULT_SCENE, lanes: tuple[str, ...] = LANES) -> Tally:
    """Try every mutant of a folder of evidence on the checks of some lanes."""
    tried = killed = excused = 0
    survivors = []
    with tempfile.TemporaryDirectory(prefix="splatgate-mutants-") as temporary:
        bench = Bench(good, scene, Path(temporary) / "evidence", lanes)
        for mutant in mutants(good):
            tried += 1
            if bench.notices(mutant):
                killed += 1
            elif not mutant.documented and equivalent(mutant.file, mutant.field, mutant.mutation):
                excused += 1
            else:
                field = f"{mutant.file}:{mutant.field}"
                survivors.append({"field": field, "mutation": mutant.mutation})
    return Tally(tried, killed, excused, tuple(survivors))


class Bench:
    """A copy of good evidence in which mutants lie one after the other, and the checks on it."""

    def __init__(self, good: Path, scene: Path, work: Path, lanes: tuple[str, ...] = LANES) -> None:
        self.good, self.scene, self.work = good, scene, work
        shutil.copytree(good, work)
        self.known: dict[str, Any] = {}
        self.records: set[str] = set()
        self.cases = cases(*lanes)
        self.before: dict[str, tuple[State, bool]] = {}
        self.reads: dict[str, set[str]] = {}
        for case in self.cases:
            door = Traced(good, scene, self.known)
            found = judge(case, door)
            self.before[found.node] = found.state, found.error
            self.reads[found.node] = door.seen | {"*"}
            self.records |= door.records

    def states(self, mutant: Mutant, chosen: list[Case]) -> Iterator[Check]:
        """Judge a mutant with some checks, one by one."""
        # A record's bytes are handed to its decoder; what checks open lies on the disk.
        laid = [n for n, content in mutant.contents.items() if not content or n not in self.records]
        for name in laid:
            path, content = self.work / name, mutant.contents[name]
            path.unlink() if content is None else path.write_bytes(content)
        try:
            door = Mutated(self.work, self.scene, self.known, mutant)
            for case in chosen:
                yield judge(case, door)
        finally:
            for name in laid:
                shutil.copyfile(self.good / name, self.work / name)

    def notices(self, mutant: Mutant) -> bool:
        """Whether some check changes its state; for a documented bad value, whether one fails."""
        able = [c for c in self.cases if self.reads[c.check.node] & mutant.touches]
        for found in self.states(mutant, able):
            before = self.before[found.node]
            changed = (found.state, found.error) != before
            if changed and (found.state == State.FAILED or not mutant.documented):
                return True
        return False
