"""Executes a state machine once for every way that one of its stages can end.

The data are what the starter sends and what services answer, partly unknown. At most one thing
goes wrong in each walk (a job fails or is stopped, a call is refused), and then one notifier; what
becomes of the execution is compared with what became of the job. Equivalent paths are explored
once; a walk ends where it comes back to a state with the same data.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from splatgate.pipeline import jsonata
from splatgate.pipeline.choice import asks_for, choose
from splatgate.pipeline.definition import Machine, State
from splatgate.pipeline.expressions import UNKNOWN, Open, PathError, Scope, put, render
from splatgate.pipeline.expressions import evaluate as value_of
from splatgate.pipeline.findings import Finding, Gap
from splatgate.pipeline.jobs import Tasks
from splatgate.pipeline.json_values import listed, member, objects
from splatgate.pipeline.trace import End, Path, Started, matches

#: How often a walk may come to one state, and how often after a job ended before its poll loop
#: counts as endless.
MAX_VISITS, MAX_ASKED = 40, 6
#: How many states are entered before, of ways that only an execution can choose between, one alone
#: goes on; and how many in all.
MOST_VISITS, ALL_VISITS = 4000, 60_000
TOO_MANY = "its Choices leave more ways open than can be walked"
TOO_LONG = f"not all its ways are walked: {ALL_VISITS} states were entered"
#: Rules that rest on the way that an execution takes.
FLOW = ("failure-ends-in-fail", "status-leaves-loop", "waits-for-job", "succeeds", "reference")


class Simulator:
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
        self.choices = {s.name for s in machine.every() if s.type == "Choice"}
        #: States entered while nothing is wrong, and all.
        self.plain: set[str] = set()
        self.entered: set[str] = set()
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
                "RedriveTime": UNKNOWN,
            },
            "StateMachine": {
                "Id": "arn:aws:states:us-west-2:123456789012:stateMachine:pipeline",
                "Name": "pipeline",
            },
        }
        self.scope = Scope(self.context)
        self.ends = list(self.run(machine, Path(machine.start, data), self.scope))

    def find(
        self, state: str, rule: str, reason: str, *, must: bool = True, root: str = ""
    ) -> None:
        """Note a finding, once."""
        self.findings.setdefault(Finding(state, rule, "must" if must else "should", reason, root))

    def gap(self, state: str, reason: str, *rules: str) -> None:
        """Note what cannot be judged, once."""
        self.gaps.setdefault(Gap(state, rules, reason))

    def run(self, machine: Machine, path: Path, scope: Scope) -> Iterator[End]:
        """Every end of a walk through a machine, from ``path``."""
        # The faultless walk goes first, so that what it started is known to the others.
        todo, faulted, met = deque([path]), deque[Path](), set[object]()
        while todo or faulted:
            here = todo.popleft() if todo else faulted.popleft()
            if self.visited > ALL_VISITS:
                self.gap("", TOO_LONG, *FLOW)
                return
            if here.guessed and self._met(here, met):
                continue
            for step in self._from(machine, here, scope):
                if isinstance(step, End):
                    yield step
                elif step.fault is here.fault:
                    todo.append(step)
                else:
                    faulted.append(step)

    def _met(self, path: Path, met: set[object]) -> bool:
        """Whether a path was taken already that differs in nothing that follows."""
        few: tuple[object, ...] = (path.at, path.fault and path.fault.told, path.unheard)
        jobs = tuple((j.state, j.name, j.final, j.asked, j.observed) for j in path.jobs)
        again = path.visits.get(path.at, 0)
        key = (*few, jobs, again, path.seen, repr(path.data), repr(path.variables))
        if key in met:
            return True
        if self.visited > MOST_VISITS and few in met:
            self.gap("", TOO_MANY, *FLOW)
            return True
        met |= {key, few}
        return False

    def _from(self, machine: Machine, path: Path, scope: Scope) -> list[Path | End]:
        """Every way on from where a walk is."""
        state = machine.states.get(path.at)
        entered = self._enter(state, path) if state else None
        if state is None or entered is None:
            return []  # a state that is not there, the grammar names
        inner = scope.within(State=_entered(state, scope))
        inner.variables = entered.variables
        try:
            return list(self._step(state, entered, inner))
        except PathError as error:
            return [self._lost(state, entered, error, inner)]

    def _enter(self, state: State, path: Path) -> Path | None:
        """The walk in a state, or None where it goes round in a circle."""
        self.visited += 1
        self.entered.add(state.name)
        if path.fault is None:
            self.plain.add(state.name)
        count = path.visits.get(state.name, 0) + 1
        asked = [j for j in path.jobs if j.asked >= MAX_ASKED] if count > 3 else []
        if asked and not path.guessed:
            job = asked[0]
            choices = (n for n in reversed(path.trail) if n in self.choices)
            self.find(
                next(choices, job.state),
                "status-leaves-loop",
                f"once its job is {job.final}, the loop through {state.name} goes on asking; "
                f"let its Choice leave on {', '.join((job.kind.good, *job.kind.bad))}",
                root=f"loop {job.state} {job.final}",
            )
            return None
        if count > MAX_VISITS:
            self.gap(state.name, f"visited more than {MAX_VISITS} times", "status-leaves-loop")
            return None
        seen = path.seen
        if count > 1:
            jobs = [(j.name, j.asked, j.observed) for j in path.jobs]
            key = json.dumps([state.name, path.data, path.variables, jobs], default=repr)
            if key in seen:
                if not path.guessed:
                    # A branch ends as well when another one fails.
                    alone = state.name in self.machine.states
                    told = "goes round for ever: comes back with the same data"
                    self.find(state.name, "ends", told, must=alone)
                return None
            seen |= {key}
        again = path.fault is not None and not path.guessed and state.name in self.plain
        return path.to(
            rejoined=path.rejoined or again,
            trail=(*path.trail, state.name),
            visits={**path.visits, state.name: count},
            seen=seen,
        )

    def _lost(self, state: State, path: Path, error: PathError, scope: Scope) -> Path | End:
        """An execution that ends because a path leads nowhere, or goes where JSONata's error is
        caught.
        """
        after = f" (after {path.fault.told})" if path.fault else ""
        # A function that fails on an error's text ends the execution all the same, in other words.
        sure = error.sure and not path.guessed
        sure = sure and not (path.fault and "IntrinsicFailure" in str(error))
        root = f"{state.name} {error}"
        self.find(state.name, "reference", f"{error}{after}", must=sure, root=root)
        return End(path, "States.Runtime", str(error))

    def _step(self, state: State, path: Path, scope: Scope) -> Iterator[Path | End]:
        kind, body = state.type, state.body
        if kind == "Fail":
            for name in () if state.jsonata else ("ErrorPath", "CausePath"):
                if name in body:
                    value_of(str(body[name]), path.data, scope)
            yield End(path, str(body.get("Error", "States.Fail")), body.get("Cause", ""))
            return
        data = path.data if state.jsonata else self._given(state, path.data, scope)
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
            for name in ("Seconds", "Timestamp") if state.jsonata else ():
                jsonata.render(body.get(name), scope, input=data)
            result = data
            if kind == "Pass" and not state.jsonata:
                result = render(body["Parameters"], data, scope) if "Parameters" in body else data
                result = body.get("Result", result)
            yield self.leave(state, path, data, result, scope, raw=kind != "Pass")

    def _given(self, state: State, data: Any, scope: Scope) -> Any:
        chosen = state.body.get("InputPath", "$")
        return {} if chosen is None else value_of(str(chosen), data, scope)

    def leave(
        self, state: State, path: Path, data: Any, result: Any, scope: Scope, *, raw: bool = False
    ) -> Path | End:
        """Go on to the next state with a state's result."""
        body = state.body
        if state.jsonata:
            known = {"input": path.data} | ({} if raw else {"result": result})
            output = result
            if "Output" in body:
                output = jsonata.render(body["Output"], scope, **known)
            variables = self._assigned(state, path, body.get("Assign"), None, scope, **known)
        else:
            if not raw and isinstance(body.get("ResultSelector"), dict):
                result = render(body["ResultSelector"], result, scope)
            variables = self._assigned(state, path, body.get("Assign"), result, scope)
            where = "$" if raw else body.get("ResultPath", "$")
            # Into the raw input, whatever InputPath chose of it (Amazon States Language).
            output = path.data if where is None else put(path.data, str(where), result)
            if raw:
                output = result
            chosen = body.get("OutputPath", "$")
            output = {} if chosen is None else value_of(str(chosen), output, scope)
        after = path.to(data=output, variables=variables)
        if body.get("End") is True or state.type == "Succeed":
            return End(after)
        return after.to(at=str(body.get("Next", "")))

    def _assigned(
        self, state: State, path: Path, wanted: Any, selected: Any, scope: Scope, **known: Any
    ) -> dict[str, Any]:
        if not isinstance(wanted, dict):
            return path.variables
        found = dict(path.variables)
        found |= (
            jsonata.render(wanted, scope, **known)
            if state.jsonata
            else render(wanted, selected, scope)
        )
        return found

    def _choice(self, state: State, path: Path, data: Any, scope: Scope) -> Iterator[Path | End]:
        for rule, certain in choose(state, data, scope, path.jobs):
            jobs, fault = path.jobs, path.fault
            if jobs and certain and asks_for(state, jobs[-1].kind.good):
                last = jobs[-1]
                jobs = (*jobs[:-1], replace(last, observed=last.observed or last.asked > 1))
            named = fault is not None and fault.status and asks_for(state, fault.status)
            body = state.body if rule is None else rule
            target = body.get("Default" if rule is None else "Next")
            if target is None:
                yield End(path, "States.NoChoiceMatched", "")
                continue
            output = data
            if state.jsonata:
                if "Output" in body:
                    output = jsonata.render(body["Output"], scope, input=data)
            else:
                chosen = state.body.get("OutputPath", "$")
                output = data if chosen is None else value_of(str(chosen), data, scope)
            yield path.to(
                at=str(target),
                data=output,
                jobs=jobs,
                variables=self._assigned(
                    state, path, body.get("Assign"), data, scope, input=path.data
                ),
                named=path.named or bool(named),
                guessed=path.guessed or not certain,
            )

    def handle(
        self, state: State, path: Path, data: Any, error: str, cause: Any, scope: Scope
    ) -> Path | End:
        """Go where a state's catchers send an error, or end."""
        for catcher in objects(state.body.get("Catch")):
            if not any(matches(error, str(e)) for e in listed(catcher.get("ErrorEquals"))):
                continue
            told = {"Error": error, "Cause": cause}
            known = {"input": path.data, "errorOutput": told}
            if state.jsonata:
                output = told
                if "Output" in catcher:
                    output = jsonata.render(catcher["Output"], scope, **known)
            else:
                where = catcher.get("ResultPath", "$")
                output = path.data if where is None else put(path.data, str(where), told)
            variables = self._assigned(state, path, catcher.get("Assign"), told, scope, **known)
            return path.to(at=str(catcher.get("Next", "")), data=output, variables=variables)
        return End(path, error, cause)

    def _inner(self, state: State, path: Path, data: Any, scope: Scope) -> Iterator[Path | End]:
        """Walk the branches of a Parallel, or the items of a Map."""
        items: Any = []
        if state.type == "Parallel":
            sent = data
            if state.jsonata and "Arguments" in state.body:
                sent = jsonata.render(state.body["Arguments"], scope, input=data)
            elif "Parameters" in state.body and not state.jsonata:
                sent = render(state.body["Parameters"], data, scope)
            given = [(branch, sent, scope) for branch in state.branches]
        else:
            items = self._all_items(state, data, scope)
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
        # Whether all of the results are known: those of a batch, or of items not known, are not.
        whole = state.type == "Parallel" or (
            isinstance(items, list) and "ItemBatcher" not in state.body
        )

        def joined(of: list[Any]) -> Any:
            if "ResultWriter" in state.body:
                return Open({"MapRunArn": UNKNOWN, "ResultWriterDetails": UNKNOWN})
            return [*of, *of[-1:] * more] if whole else UNKNOWN

        if len(results) == len(given):
            yield self.leave(state, back(on), data, joined(results), scope)
        tolerant = any(name.startswith("ToleratedFailure") for name in state.body)
        for number, end in ends:
            of = back(end.path)
            if end.error is None:
                # An item whose failure leads to an end of its own says so in its result.
                last = end.path.trail[-1]
                of = of.to(noted=of.noted or (state.type == "Map" and last not in self.plain))
                others = [*results]
                while len(others) <= number:
                    others.append(UNKNOWN)
                others[number] = end.path.data
                yield self.leave(state, of, data, joined(others), scope)
            elif tolerant:
                yield self.leave(state, of.to(guessed=True), data, UNKNOWN, scope)
            else:
                yield self.handle(state, of, data, end.error, end.cause, scope)

    def _all_items(self, state: State, data: Any, scope: Scope) -> Any:
        if "ItemReader" in state.body:
            return UNKNOWN
        if state.jsonata:
            items = state.body.get("Items")
            return data if items is None else jsonata.render(items, scope, input=data)
        return value_of(str(state.body.get("ItemsPath", "$")), data, scope)

    def _items(
        self, state: State, items: Any, data: Any, scope: Scope
    ) -> Iterator[tuple[Any, Scope]]:
        """The first two, and inside the second of an outer Map the first: one number varies."""
        known = isinstance(items, list) and items
        selector = state.body.get("ItemSelector", state.body.get("Parameters"))
        batcher = state.body.get("ItemBatcher")
        mode = member(state.body, "ItemProcessor", "ProcessorConfig", "Mode")
        many = 1 if scope.later or isinstance(batcher, dict) else 2
        for index, item in enumerate(items[:many] if known else [UNKNOWN] * many):
            inner = scope.within(Map={"Item": {"Index": index, "Value": item, "Key": UNKNOWN}})
            inner.variables, inner.later = scope.variables, scope.later or index > 0
            if selector is not None:
                item = self._rendered(state, selector, data, inner)
            if isinstance(batcher, dict):
                item = {"Items": [item]}
                if "BatchInput" in batcher:
                    item["BatchInput"] = self._rendered(state, batcher["BatchInput"], data, scope)
            if mode == "DISTRIBUTED":
                # Each child is an execution of its own.
                name = inner.fresh()
                run = f"arn:aws:states:us-west-2:123456789012:execution:pipeline/map:{name}"
                own = {"Id": run, "Name": name, "Input": item}
                inner.context["Execution"] = {**scope.context["Execution"], **own}
            yield item, inner

    def _rendered(self, state: State, template: Any, data: Any, scope: Scope) -> Any:
        if state.jsonata:
            return jsonata.render(template, scope, input=data)
        return render(template, data, scope)


def _entered(state: State, scope: Scope) -> dict[str, Any]:
    """The context object's State; each entry has a time of its own."""
    scope.counter[0] += 1
    return {"EnteredTime": f"entry {scope.counter[0]}", "Name": state.name, "RetryCount": 0}
