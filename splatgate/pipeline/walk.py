"""Executes a state machine once for every way that one of its stages can end.

The data are what the starter sends and what services answer, partly unknown. At most one thing
goes wrong in each walk (a job fails or is stopped, a call is refused), and then one notifier; what
becomes of the execution is compared with what became of the job. A walk ends where it comes back
to a state with the same data.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from splatgate.pipeline.choice import choose
from splatgate.pipeline.definition import Machine, State
from splatgate.pipeline.lists import listed, objects
from splatgate.pipeline.paths import End, Finding, Gap, Path, Started, matches
from splatgate.pipeline.tasks import Tasks
from splatgate.pipeline.template import UNKNOWN, PathError, Scope, put, render
from splatgate.pipeline.template import evaluate as value_of
from splatgate.pipeline.ways import Joins, Ways

#: How often a walk may come to one state, and how often after a job ended before its poll loop
#: counts as endless.
MAX_VISITS, MAX_ASKED = 40, 6
#: How many states are entered before, of ways that only an execution can choose between, one alone
#: goes on from where they meet.
MOST_VISITS = 2000
TOO_MANY = (
    f"its Choices leave more ways open than can be walked ({MOST_VISITS} states were entered)"
)
#: Rules that rest on the way that an execution takes.
FLOW = ("failure-ends-in-fail", "status-leaves-loop", "waits-for-job", "succeeds", "reference")


class Walk:
    """Walks a machine; ``findings`` and ``started`` fill as it goes."""

    def __init__(self, machine: Machine, data: Any, name: str, *, faults: bool = True) -> None:
        self.machine = machine
        self.faults = faults
        self.findings: dict[Finding, None] = {}
        self.started: dict[str, Started] = {}
        #: What every other Task sends, where it is known.
        self.called: dict[str, tuple[State, Any]] = {}
        self.gaps: dict[Gap, None] = {}
        self.tasks = Tasks(self)
        self.ways = Ways()
        self._joins: dict[int, Joins] = {}
        #: Whether the step that is taken holds for this one walk alone: it looked at its jobs or
        #: its fault, or found something.
        self.own = False
        #: Where it put its result into the data, or None.
        self.where: str | None = None
        #: How many states were entered.
        self.visited = 0
        self.context = {
            "Execution": {
                "Id": f"arn:aws:states:us-west-2:123456789012:execution:pipeline:{name}",
                "Input": data,
                "Name": name,
                "RoleArn": "arn:aws:iam::123456789012:role/pipeline",
                "StartTime": "2026-01-01T00:00:00.000Z",
                "RedriveCount": 0,
            },
            "StateMachine": {
                "Id": "arn:aws:states:us-west-2:123456789012:stateMachine:pipeline",
                "Name": "pipeline",
            },
        }
        self.scope = Scope(self.context)
        self.ends = list(self.run(machine, Path(machine.start, data), self.scope))

    def find(self, state: str, rule: str, reason: str, *, must: bool = True) -> None:
        """Note a finding, once."""
        self.own = True
        self.findings.setdefault(Finding(state, rule, "must" if must else "should", reason))

    def gap(self, state: str, reason: str, *rules: str) -> None:
        """Note what cannot be judged, once."""
        self.gaps.setdefault(Gap(state, rules, reason))

    def run(self, machine: Machine, path: Path, scope: Scope) -> Iterator[End]:
        """Every end of a walk through a machine, from ``path``."""
        # The faultless walk goes first, so that what it started is known to the others, and then
        # fault by fault: what comes after one comes after the next as well.
        todo, faulted = deque([path]), deque[Path]()
        joins, met = self._joined(machine), set[object]()
        while todo or faulted:
            here = todo.popleft() if todo else faulted.popleft()
            if key := joins.key(here):
                if self.visited > MOST_VISITS and (
                    few := (here.at, here.fault and here.fault.told)
                ):
                    key = few
                    if key in met:
                        self.gap("", TOO_MANY, *FLOW)
                if key in met:
                    continue
                met |= {key, (here.at, here.fault and here.fault.told)}
            taken = self.ways.along(machine, here, scope) if here.fault else here
            steps = [taken] if isinstance(taken, End) else self._from(machine, taken, scope)
            for step in steps:
                if isinstance(step, End):
                    yield step
                elif step.fault is here.fault:
                    todo.append(step)
                else:
                    faulted.append(step)

    def _joined(self, machine: Machine) -> Joins:
        if id(machine) not in self._joins:
            self._joins[id(machine)] = Joins(machine, inner=machine is not self.machine)
        return self._joins[id(machine)]

    def _from(self, machine: Machine, path: Path, scope: Scope) -> list[Path | End]:
        """Every way on from where a walk is."""
        state = machine.states.get(path.at)
        entered = self._enter(state, path) if state else None
        if state is None or entered is None:
            return []  # a state that is not there, statelint names
        inner = scope.within(State=_entered(state, scope))
        inner.variables = entered.variables
        before, self.own, self.where = self.own, False, None
        try:
            steps = list(self._step(state, entered, inner))
        except PathError as error:
            steps = [self._lost(state, entered, error)]
        if path.fault and not self.own and len(steps) == 1:
            self.ways.keep(state, path, steps[0], self.where, scope)
        self.own |= before
        return steps

    def _enter(self, state: State, path: Path) -> Path | None:
        """The walk in a state, or None where it goes round in a circle."""
        self.visited += 1
        count = path.visits.get(state.name, 0) + 1
        asked = [j for j in path.jobs if j.asked >= MAX_ASKED] if count > 3 else []
        if asked and not path.guessed:
            job = asked[0]
            self.find(
                job.state,
                "status-leaves-loop",
                f"once its job is {job.final}, the loop through {state.name} goes on asking; "
                f"let its Choice leave on Completed, Failed and Stopped",
            )
            return None
        if count > MAX_VISITS:
            self.gap(state.name, f"visited more than {MAX_VISITS} times", "status-leaves-loop")
            return None
        seen = path.seen
        if count > 1:
            jobs = [(j.name, j.asked, j.observed) for j in path.jobs]
            key = json.dumps([state.name, path.data, jobs], default=repr)
            if key in seen:
                if not path.guessed:
                    self.find(
                        state.name, "ends", "goes round for ever: comes back with the same data"
                    )
                return None
            seen |= {key}
        return path.to(
            trail=(*path.trail, state.name),
            visits={**path.visits, state.name: count},
            seen=seen,
        )

    def _lost(self, state: State, path: Path, error: PathError) -> End:
        """An execution that ends because a path leads nowhere."""
        after = f" (after {path.fault.told})" if path.fault else ""
        # A function that fails on an error's text ends the execution all the same, in other words.
        sure = not path.guessed and not (path.fault and "IntrinsicFailure" in str(error))
        self.find(state.name, "reference", f"{error}{after}", must=sure)
        return End(path, "States.Runtime", str(error))

    def _step(self, state: State, path: Path, scope: Scope) -> Iterator[Path | End]:
        kind, body = state.type, state.body
        if kind == "Fail":
            for name in () if state.jsonata else ("ErrorPath", "CausePath"):
                if name in body:
                    value_of(str(body[name]), path.data, scope)
            yield End(path, str(body.get("Error", "States.Fail")), body.get("Cause", ""))
            return
        data = UNKNOWN if state.jsonata else self._given(state, path.data, scope)
        if kind == "Choice" and state.jsonata:
            self.gap(state.name, "it chooses by JSONata", *FLOW)
        if kind == "Choice":
            yield from self._choice(state, path, data, scope)
        elif kind == "Task":
            yield from self.tasks.run(state, path, data, scope)
        elif kind in ("Parallel", "Map"):
            yield from self._inner(state, path, data, scope)
        else:
            for name in ("SecondsPath", "TimestampPath"):
                if kind == "Wait" and name in body:
                    value_of(str(body[name]), data, scope)
            result = data
            if kind == "Pass" and not state.jsonata:
                result = render(body["Parameters"], data, scope) if "Parameters" in body else data
                result = body.get("Result", result)
            elif state.jsonata and "Output" in body:
                result = UNKNOWN
            elif state.jsonata:
                result = path.data
            yield self.leave(state, path, data, result, scope, raw=kind != "Pass")

    def _given(self, state: State, data: Any, scope: Scope) -> Any:
        chosen = state.body.get("InputPath", "$")
        return {} if chosen is None else value_of(str(chosen), data, scope)

    def leave(
        self, state: State, path: Path, data: Any, result: Any, scope: Scope, *, raw: bool = False
    ) -> Path | End:
        """Go on to the next state with a state's result."""
        body = state.body
        variables = path.variables
        if isinstance(body.get("Assign"), dict):
            variables = {**variables, **self._assigned(state, body["Assign"], result, scope)}
        self.where = None
        if state.jsonata:
            output = UNKNOWN if "Output" in body else result
        elif raw:
            output = result
        else:
            if isinstance(body.get("ResultSelector"), dict):
                result = render(body["ResultSelector"], result, scope)
            where = body.get("ResultPath", "$")
            # Into the raw input, whatever InputPath chose of it (Amazon States Language).
            output = path.data if where is None else put(path.data, str(where), result)
            copied = state.type == "Pass" and result is data
            self.where = None if where is None or (copied and where == "$") else str(where)
        if not state.jsonata:
            chosen = body.get("OutputPath", "$")
            output = {} if chosen is None else value_of(str(chosen), output, scope)
        after = path.to(data=output, variables=variables)
        if body.get("End") is True or state.type == "Succeed":
            return End(after)
        return after.to(at=str(body.get("Next", "")))

    def _assigned(self, state: State, wanted: Any, result: Any, scope: Scope) -> dict[str, Any]:
        if state.jsonata:
            return dict.fromkeys(wanted, UNKNOWN)
        found = {}
        for key, value in wanted.items():
            try:
                found.update(render({key: value}, result, scope))
            except PathError:
                found[key.removesuffix(".$")] = UNKNOWN
        return found

    def _choice(self, state: State, path: Path, data: Any, scope: Scope) -> Iterator[Path | End]:
        for rule, certain, told in choose(state, data, scope, path.jobs):
            jobs = path.jobs
            if told and certain and jobs:
                last = jobs[-1]
                jobs = (*jobs[:-1], replace(last, observed=last.observed or last.asked > 1))
            target = state.body.get("Default") if rule is None else rule.get("Next")
            if target is None:
                yield End(path, "States.NoChoiceMatched", "")
                continue
            yield path.to(
                at=str(target),
                data=self._output(state, data, scope),
                jobs=jobs,
                guessed=path.guessed or not certain,
            )

    def _output(self, state: State, data: Any, scope: Scope) -> Any:
        chosen = state.body.get("OutputPath", "$")
        return data if state.jsonata or chosen is None else value_of(str(chosen), data, scope)

    def handle(
        self, state: State, path: Path, data: Any, error: str, cause: Any, scope: Scope
    ) -> Path | End:
        """Go where a state's catchers send an error, or end."""
        for catcher in objects(state.body.get("Catch")):
            if not any(matches(error, str(e)) for e in listed(catcher.get("ErrorEquals"))):
                continue
            told = {"Error": error, "Cause": cause}
            if state.jsonata:
                output = UNKNOWN if "Output" in catcher else told
            else:
                where = catcher.get("ResultPath", "$")
                output = path.data if where is None else put(path.data, str(where), told)
                self.where = None if where is None else str(where)
            return path.to(at=str(catcher.get("Next", "")), data=output)
        return End(path, error, cause)

    def _inner(self, state: State, path: Path, data: Any, scope: Scope) -> Iterator[Path | End]:
        """A Parallel or a Map: all branches, or up to two items."""
        given: list[tuple[Machine, Any, Scope]] = []
        items: Any = UNKNOWN
        if state.type == "Parallel":
            sent = data
            if "Parameters" in state.body and not state.jsonata:
                sent = render(state.body["Parameters"], data, scope)
            given = [(branch, sent, scope) for branch in state.branches]
        elif state.branches:
            if not state.jsonata and "ItemReader" not in state.body:
                items = value_of(str(state.body.get("ItemsPath", "$")), data, scope)
            some = self._items(state, items, data, scope)
            given = [(state.branches[0], item, inner) for item, inner in some]
        results: list[Any] = []
        on, new = path, path.jobs
        ends: list[tuple[int, End]] = []
        for number, (machine, sent, inner) in enumerate(given):
            # The branches of a Parallel know nothing of each other; items come one by one here, so
            # that names which they share are found.
            before = path if state.type == "Parallel" else on
            start = before.to(at=machine.start, data=sent, visits={}, seen=frozenset())
            mine = list(self.run(machine, start, inner))
            good = [e for e in mine if e.error is None and e.path.fault is path.fault]
            bad = [e for e in mine if e not in good[:1]]
            ends += [(number, e) for e in bad]
            if not good:
                break
            results.append(good[0].path.data)
            on = good[0].path
            apart = state.type == "Parallel" and path.fault is None
            for job in on.jobs[len(path.jobs) :] if apart else ():
                self.tasks.named(job, path.to(jobs=new))
                new = (*new, job)
        if state.type == "Parallel" and path.fault is None:
            on = on.to(jobs=new)

        def back(of: Path) -> Path:
            return of.to(
                data=path.data, visits=path.visits, seen=path.seen, variables=path.variables
            )

        # Items that were not walked end as the last that was.
        more = len(items) - len(given) if isinstance(items, list) else 0

        def joined(of: list[Any]) -> Any:
            return UNKNOWN if "ResultWriter" in state.body else [*of, *of[-1:] * more]

        if len(results) == len(given):
            yield self.leave(state, back(on), data, joined(results), scope)
        tolerant = any(name.startswith("ToleratedFailure") for name in state.body)
        for number, end in ends:
            of = back(end.path)
            if end.error is None:
                others = [*results]
                while len(others) <= number:
                    others.append(UNKNOWN)
                others[number] = end.path.data
                yield self.leave(state, of, data, joined(others), scope)
            elif tolerant:
                yield self.leave(state, of.to(guessed=True), data, UNKNOWN, scope)
            else:
                yield self.handle(state, of, data, end.error, end.cause, scope)

    def _items(
        self, state: State, items: Any, data: Any, scope: Scope
    ) -> Iterator[tuple[Any, Scope]]:
        """The first two, and inside the second of an outer Map the first: one number varies."""
        known = isinstance(items, list) and items
        selector = state.body.get("ItemSelector", state.body.get("Parameters"))
        for index, item in enumerate(items[: 1 if scope.later else 2] if known else [UNKNOWN]):
            inner = scope.within(Map={"Item": {"Index": index, "Value": item, "Key": UNKNOWN}})
            inner.variables, inner.later = scope.variables, scope.later or index > 0
            if selector is not None and not state.jsonata:
                item = render(selector, data, inner)
            yield item, inner


def _entered(state: State, scope: Scope) -> dict[str, Any]:
    """The context object's State; each entry has a time of its own."""
    scope.counter[0] += 1
    return {"EnteredTime": f"entry {scope.counter[0]}", "Name": state.name, "RetryCount": 0}
