"""Steps that walks after a fault have taken, for the next one that comes there with the same data.

Without them a chain of stages is walked as often as it has stages, once for what fails in each.
"""

from __future__ import annotations

import functools
import operator
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from splatgate.pipeline.answers import Job
from splatgate.pipeline.definition import Machine, State
from splatgate.pipeline.paths import End, Path
from splatgate.pipeline.template import Scope

#: The members whose expressions a step evaluates over what the state is given.
_READ = {
    "Task": ("Parameters", "TimeoutSecondsPath", "HeartbeatSecondsPath"),
    "Pass": ("Parameters",),
    "Wait": ("SecondsPath", "TimestampPath"),
    "Choice": ("Choices",),
    "Fail": ("ErrorPath", "CausePath"),
    "Map": ("ItemsPath", "ItemSelector", "Parameters"),
    "Parallel": ("Parameters",),
    "Succeed": (),
}
#: All of the data, not some members of it.
ALL = ("$",)
_REFERENCE = re.compile(r"\$(?P<other>[$\w{])?(?:\.(?P<name>[^.\[\]\s'\"()*?,:@]+))?")
_ABSENT = object()


@functools.cache
def _reads(text: str) -> frozenset[str]:
    """The members of the data that an expression may look at."""
    found = (m for m in _REFERENCE.finditer(text) if not m["other"])
    return frozenset(m["name"] or "$" for m in found)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
    elif isinstance(value, str) and "$" in value:
        yield value


def reads(state: State) -> tuple[str, ...]:
    """The members of the data on which a step from a state rests, and what it adds to them."""
    body, kind, call = state.body, state.type, state.call
    asks = bool(call and (call.creates or call.describes))
    where = body.get("ResultPath", "$")
    handed = "ItemsPath" in body if kind == "Map" else "Parameters" in body
    copied = kind == "Pass" and where is not None and not {"Parameters", "Result"} & body.keys()
    if (
        state.jsonata
        or kind not in _READ
        or (not handed and (kind in ("Parallel", "Map") or asks))
        or (copied and where != "$")
        or {"InputPath", "OutputPath"} & body.keys()
    ):
        return ALL
    found: set[str] = set()
    for member in (*_READ[kind], "Assign"):
        for text in _texts(body.get(member)):
            # What another Task sends decides nothing: only whether it can be made.
            if text != "$" or kind != "Task" or asks or member != "Parameters":
                found |= _reads(text)
    paths = [where, *(c.get("ResultPath", "$") for c in _dicts(body.get("Catch")))]
    # Below a member, a result changes what is there.
    found |= {name for p in paths if isinstance(p, str) and p != "$" for name in _below(p)}
    return ALL if "$" in found else tuple(sorted(found))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _below(path: str) -> frozenset[str]:
    return frozenset() if re.fullmatch(r"\$\.[^.\[\]]+", path) else _reads(path) or frozenset("$")


@dataclass(frozen=True)
class Step:
    """What a step adds to any walk that takes it."""

    #: Where the first walk that took it came.
    to: Path
    end: End | None
    #: The member that it puts into the data; "": all of them, None: nothing.
    put: str | None
    trail: tuple[str, ...]
    jobs: tuple[Job, ...]
    since: tuple[Job, ...]

    def data(self, data: Any) -> Any:
        """The data after it."""
        if self.put and isinstance(data, dict):
            changed = data.copy() if type(data) is dict else type(data)(data)
            changed[self.put] = self.to.data[self.put]
            return changed
        return data if self.put is None else self.to.data


class Joins:
    """Where ways meet between which only an execution can choose: of those that differ in nothing
    that follows, one goes on.
    """

    def __init__(self, machine: Machine, *, inner: bool) -> None:
        self._machine = machine
        #: Whether what it ends with is a branch's result.
        self._inner = inner

    @functools.cached_property
    def _joins(self) -> frozenset[str]:
        into = Counter(n for state in self._machine.states.values() for n in _next(state))
        return frozenset(name for name, count in into.items() if count > 1)

    @functools.cached_property
    def _after(self) -> dict[str, frozenset[str]]:
        return _reached(self._machine)

    @functools.cached_property
    def _live(self) -> dict[str, tuple[str, ...]]:
        """What the states from one on read of the data."""
        read = {name: frozenset(reads(state)) for name, state in self._machine.states.items()}
        found = {
            name: frozenset[str]().union(*(read[n] for n in (name, *after) if n in read))
            for name, after in self._after.items()
        }
        return {n: ALL if self._inner or "$" in r else tuple(sorted(r)) for n, r in found.items()}

    def key(self, path: Path) -> tuple[object, ...] | None:
        """Equal for walks of which one is enough; None: it goes on."""
        if not path.guessed or path.at not in self._joins or path.at not in self._after:
            return None
        after, names, data = self._after[path.at], self._live[path.at], path.data
        some = names is not ALL and type(data) is dict
        return (
            path.at,
            path.fault and (path.fault.told, path.fault.job and path.fault.job.name),
            path.unheard,
            bool(path.between),
            path.seen,
            repr([data.get(n, _ABSENT) for n in names] if some else data),
            repr(path.variables),
            tuple((j.state, j.name, j.final, j.asked, j.observed) for j in path.jobs),
            len(path.since),
            tuple((n, count) for n, count in path.visits.items() if n in after),
        )


def _next(state: State) -> Iterator[str]:
    body = state.body
    ways = [body, *_dicts(body.get("Choices")), *_dicts(body.get("Catch"))]
    yield from (str(w["Next"]) for w in ways if "Next" in w)
    if "Default" in body:
        yield str(body["Default"])


def _reached(machine: Machine) -> dict[str, frozenset[str]]:
    """The states that can be come to from each."""
    ways = {name: frozenset(_next(state)) for name, state in machine.states.items()}
    reached, changed = dict(ways), True
    while changed:
        changed = False
        for name in reversed(ways):  # mostly written in the order in which they follow
            more = ways[name].union(*(reached.get(n, frozenset()) for n in ways[name]))
            changed |= len(more) > len(reached[name])
            reached[name] = more
    return reached


class Ways:
    """Steps by state and what it reads: those that are the only one, whatever the fault was."""

    def __init__(self) -> None:
        #: By the ids of state and what it reads, with these: an id lasts as long as they do.
        self._same: dict[tuple[int, ...], tuple[Step, object]] = {}
        self._equal: dict[tuple[int, str], Step] = {}
        self._reads: dict[int, tuple[str, ...] | None] = {}

    def _given(self, state: State, data: Any, *others: Any) -> tuple[Any, ...] | None:
        """What a step from a state rests on; None: also on what no two walks share."""
        if id(state) not in self._reads:
            fresh = re.search(r"States\.UUID|EnteredTime", repr(state.body))
            self._reads[id(state)] = None if fresh else reads(state)
        names = self._reads[id(state)]
        if names is None:
            return None
        if names is ALL or type(data) is not dict:
            return ALL, data, *others
        return names, *(data.get(n, _ABSENT) for n in names), *others

    def _find(self, state: State, given: tuple[Any, ...]) -> Step | None:
        key = (id(state), *map(id, given))
        if found := self._same.get(key):
            return found[0]
        step = self._equal.get((id(state), repr(given)))
        if step:
            self._same[key] = step, given
        return step

    def along(self, machine: Machine, path: Path, scope: Scope) -> Path | End:
        """A walk carried over the steps that are known from where it is."""
        at, data, variables, end = path.at, path.data, path.variables, None
        item = scope.context.get("Map")
        last = path.jobs
        names: dict[str, int] = {}
        taken: list[Step] = []
        while end is None and _quiet(last) and at not in path.visits and at not in names:
            state = machine.states.get(at)
            given = self._given(state, data, variables, item) if state else None
            step = self._find(state, given) if state and given else None
            if step is None:
                break
            taken.append(step)
            names[at] = 1
            at, data, variables, end = step.to.at, step.data(data), step.to.variables, step.end
            last = step.jobs or last
        if not taken:
            return path
        on = path.to(
            at=at,
            data=data,
            variables=variables,
            trail=path.trail + tuple(name for step in taken for name in step.trail),
            jobs=path.jobs + tuple(job for step in taken for job in step.jobs),
            since=path.since + tuple(job for step in taken for job in step.since),
            visits=path.visits | names,
        )
        return End(on, end.error, end.cause) if end else on

    def keep(
        self, state: State, path: Path, step: Path | End, where: str | None, scope: Scope
    ) -> None:
        """Note the only step from a state, if it adds to the walk and changes nothing in it.

        ``where``: the reference path at which it put its result, or None.
        """
        to = step.path if isinstance(step, End) else step
        if path.guessed or to.guessed or to.unheard != path.unheard or to.fault is not path.fault:
            return
        if state.name in path.visits or not (_quiet(path.jobs) and _begins(to.jobs, path.jobs)):
            return
        given = self._given(state, path.data, path.variables, scope.context.get("Map"))
        if given is None:
            return
        top = re.match(r"\$\.([^.\[\]]+)", where) if where else None
        if self._reads[id(state)] is ALL or type(path.data) is not dict:
            put: str | None = ""
        else:
            put = top[1] if top else where and ""
        kept = Step(
            to,
            step if isinstance(step, End) else None,
            put,
            to.trail[len(path.trail) :],
            to.jobs[len(path.jobs) :],
            to.since[len(path.since) :],
        )
        self._same[id(state), *map(id, given)] = kept, given
        self._equal[id(state), repr(given)] = kept


def _quiet(jobs: tuple[Job, ...]) -> bool:
    """Whether nothing that follows can ask how the last job does."""
    return not jobs or (jobs[-1].observed and jobs[-1].asked == 0)


def _begins(jobs: tuple[Job, ...], with_these: tuple[Job, ...]) -> bool:
    return len(jobs) >= len(with_these) and all(map(operator.is_, jobs, with_these))
