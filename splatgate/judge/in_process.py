"""Every check as a plain function, and the judgement of a folder of evidence in this process.

What pytest would do with a check, without pytest: its parameters, its evidence by name, the outcome
by the plugin's own rule. So an edit of evidence is judged in a fraction of a second.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from splatgate import checklist as checklists
from splatgate import verdict
from splatgate.checklist import LANES
from splatgate.judge.fixtures import gpu, image, jobs
from splatgate.judge.plugin import is_live, origin, outcome
from splatgate.judge.session import look_back
from splatgate.paths import ROOT
from splatgate.record import Check, Record, fingerprint, suite
from splatgate.sources.recorded import Recorded

#: The lanes that the verb ``judge`` takes by itself.
JUDGED = LANES[:3]


@dataclass(frozen=True)
class Case:
    """One check with the values of its parameters."""

    check: Check
    function: Callable[..., Any]
    values: dict[str, Any]


@cache
def cases(*lanes: str) -> tuple[Case, ...]:
    """Every check of some lanes, one case for each set of parameters."""
    found: list[Case] = []
    for lane in lanes:
        for path in sorted((ROOT / "tests" / lane).glob("test_*.py")):
            spec = importlib.util.spec_from_file_location(f"checks_{lane}_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if name.startswith("test_") and function.__module__ == module.__name__:
                    node = f"{path.relative_to(ROOT)}::{name}"
                    marks = [*_marks(module), *_marks(function)]
                    found += [
                        Case(_check(node + case, lane, marks, function), function, values)
                        for case, values in _parameters(marks)
                    ]
    return tuple(found)


def _marks(where: Any) -> list[pytest.Mark]:
    """Marks of a function, or of a module, which may have one or a list of them."""
    marks = getattr(where, "pytestmark", [])
    marks = marks if isinstance(marks, list) else [marks]
    return [m.mark if isinstance(m, pytest.MarkDecorator) else m for m in marks]


def _check(node: str, lane: str, marks: list[pytest.Mark], function: Callable[..., Any]) -> Check:
    items = checklists.load().by_marker
    return Check(
        node=node,
        item=next((items[m.name].id for m in marks if m.name in items), ""),
        level="should" if any(m.name == "should" for m in marks) else "must",
        lane=lane,
        origin=origin(inspect.signature(function).parameters, lane),
        needs=tuple(name for m in marks if m.name == "needs" for name in m.args),
    )


def _parameters(marks: list[pytest.Mark]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each case's part of the node id, and the values of its parameters."""
    axes = []
    for mark in marks:
        if mark.name == "parametrize":
            names, rows = mark.args[:2]
            names = [n.strip() for n in names.split(",")] if isinstance(names, str) else names
            ids = mark.kwargs.get("ids") or [str(row) for row in rows]
            ids = [ids(row) for row in rows] if callable(ids) else ids
            axes.append(
                [
                    (case, dict(zip(names, row if len(names) > 1 else [row], strict=True)))
                    for case, row in zip(ids, rows, strict=True)
                ]
            )
    for chosen in itertools.product(*axes):
        values = {name: value for _, given in chosen for name, value in given.items()}
        yield f"[{'-'.join(case for case, _ in chosen)}]" if chosen else "", values


class Fixtures:
    """The values of fixtures over some evidence, each made once: pytest's part of a check."""

    def __init__(self, evidence: Recorded) -> None:
        self._made: dict[str, Any] = {"evidence": evidence, "request": self}

    def getfixturevalue(self, name: str) -> Any:
        """The value of a fixture; made as pytest makes it, what it takes first and in order."""
        if name not in self._made:
            wanted = _takes(_fixture(name))
            values = {other: self.getfixturevalue(other) for other in wanted}
            self._made[name] = _fixture(name)(**values)
        return self._made[name]


@cache
def _fixture(name: str) -> Callable[..., Any]:
    """The function that a fixture's decorator wraps."""
    found = [vars(module)[name] for module in (image, jobs, gpu) if name in vars(module)]
    function: Callable[..., Any] = inspect.unwrap(found[0])
    return function


def live(case: Case) -> bool:
    """Whether a check is of lane ``live`` too."""
    names = [name for name in _takes(case.function) if name not in case.values]
    for name in names:  # grows by what each fixture takes
        if name not in ("evidence", "request"):
            names += [other for other in _takes(_fixture(name)) if other not in names]
    return is_live(names, checklists.load().by_id[case.check.item])


@cache
def _takes(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def judge(case: Case, evidence: Recorded) -> Check:
    """What becomes of one check over some evidence, by the plugin's own rule."""
    error: Exception | None = None
    when, fixtures = "setup", Fixtures(evidence)
    try:
        wanted = [name for name in _takes(case.function) if name not in case.values]
        given = {name: fixtures.getfixturevalue(name) for name in wanted}
        when = "call"
        case.function(**given, **case.values)
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as raised:
        error = cast(Exception, raised)
    return outcome(case.check, cast(pytest.TestReport, SimpleNamespace(when=when)), error)


def judged(
    folder: Path,
    scene: Path,
    known: dict[str, Any] | None = None,
    lanes: tuple[str, ...] = JUDGED,
) -> Record:
    """Judge a folder of evidence, as ``judge --evidence`` would: all that the record says comes
    from the evidence and from the checks of this suite. What the process runtime saw is supporting,
    a job in an account is of lane ``live``.

    Args:
        folder: the evidence.
        scene: the scene that its jobs were given.
        known: what was computed from evidence before, by what it was computed from; added to.
        lanes: those to judge.

    Raises:
        BadInput: the folder holds no evidence.
    """
    evidence = Recorded(folder, scene)
    header = evidence.header
    if known is not None:
        evidence._made = known
    checklist = checklists.load()
    asked, beside = cases(*lanes), header.outside
    if header.live:
        asked = tuple(
            replace(case, check=replace(case.check, lane="live", origin=origin((), "live")))
            for case in asked
            if live(case)
        )
    checks = verdict.settle(replace(judge(case, evidence), supporting=beside) for case in asked)
    states, seen = verdict.items(checklist, checks), look_back(folder)
    return Record(
        image=seen.image,
        suite=suite(checklist.sha256),
        machine=seen.machine,
        items=states,
        checks=checks,
        jobs=seen.jobs,
        timings={},
        leftovers=seen.leftovers,
        verdict=verdict.verdict(states),
        run=header.run,
        door="recorded",
        created=header.created,
        evidence=fingerprint(folder),
    )
