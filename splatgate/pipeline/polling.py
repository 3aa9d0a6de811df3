"""What can be told without walking: loops that ask for a status, and names of errors.

A job that a Lambda function starts is seen only by the status that it hands on: where a Choice
compares it with a service's own words, every way that such a job can end is followed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from splatgate.pipeline import jsonata, services
from splatgate.pipeline.choice import compare, comparisons
from splatgate.pipeline.definition import Machine, State
from splatgate.pipeline.findings import Finding, Gap
from splatgate.pipeline.grammar import targets
from splatgate.pipeline.json_values import listed, objects, words
from splatgate.pipeline.services import KINDS, Kind
from splatgate.pipeline.trace import matches

#: Words of jobs that still run, besides those that a walk uses.
_RUNNING = words(
    "Stopping Pending SUBMITTED PENDING RUNNABLE STARTING QUEUED STOPPING WAITING PROVISIONING"
)
#: Functions that seem to start a job, by their names.
_STARTS = re.compile(
    r"(start|submit|launch|create|trigger|run|begin|kick).{0,20}(train|job|batch|process|sfm|colmap"
    r"|reconstruct|splat|transform)|(train|job).{0,12}(start|submit|launch|trigger)", re.IGNORECASE
)  # fmt: skip
FLOW = ("failure-ends-in-fail", "status-leaves-loop", "waits-for-job")


class Loops:
    """The ways of one machine or branch, without its catchers."""

    def __init__(self, machine: Machine) -> None:
        self.states = machine.states
        self.next = {
            n: [t for m, t in targets(s.body) if not m.startswith("Catch") and t in machine.states]
            for n, s in machine.states.items()
        }

    def reached(self, start: str, without: Iterable[str] = ()) -> set[str]:
        """The states that can be come to from one, and not through some."""
        found, todo, never = set[str](), list(self.next.get(start, ())), set(without)
        while todo:
            name = todo.pop()
            if name not in found and name not in never:
                found.add(name)
                todo += self.next[name]
        return found

    def around(self, name: str) -> set[str]:
        """The states of the loops through one."""
        return {s for s in self.reached(name) if name in self.reached(s)}


def may_start(state: State) -> bool:
    """Whether a state calls a function that seems to start a job, by its name."""
    named = f"{state.name} {state.function}"
    return bool(state.function and _STARTS.search(named) and not state.looks_up)


def polls(machine: Machine) -> Iterator[Finding | Gap]:
    """Loops that ask for a status: without a Wait, without a bound, with words that never leave."""
    started = {services.starts(s.call) for s in machine.every()} - {None}
    for part in machine.machines():
        loops = Loops(part)
        for state in part.states.values():
            if state.type == "Choice" and (around := loops.around(state.name)):
                yield from _poll(machine, loops, state, around, started)
    for state in machine.every():
        if may_start(state):
            why = f"it may start a job inside {state.function}, which is not looked into"
            yield Gap(state.name, FLOW, why)


def _poll(
    machine: Machine, loops: Loops, choice: State, around: set[str], started: set[Kind | None]
) -> Iterator[Finding | Gap]:
    words: dict[str, list[str]] = {}
    for rule in comparisons(_rules(choice)):
        if isinstance(rule.get("StringEquals"), str):
            words.setdefault(str(rule.get("Variable")), []).append(rule["StringEquals"])
    inside = [loops.states[n] for n in sorted(around)]
    asks = [s for s in inside if s.type == "Task" and s.looks_up]
    others = [s for s in asks if services.asks_about(s.call) not in started - {None}]
    kinds = {v: k for v, w in words.items() if (k := _by_answer(v, others) or _kind_of(v, w))}
    functions = [s for s in inside if s.function and not s.keeps_house]
    # A loop that turns pages asks for something, and waits for nothing.
    if (kinds and (asks or functions)) or [
        s for s in asks if s.function or services.asks_about(s.call)
    ]:
        waits = {s.name for s in inside if s.type == "Wait" or (s.call and s.call.pattern)}
        if choice.name in loops.reached(choice.name, waits):
            told = "asks again and again without a Wait between: an execution's history is full"
            yield Finding(choice.name, "poll", "must", f"{told} after 25,000 events")
        counts = any(
            any("Numeric" in k for k in rule)
            for s in inside if s.type == "Choice"
            for rule in comparisons(_rules(s))
        )  # fmt: skip
        if machine.timeout is None and not counts:
            told = "nothing bounds this loop: without TimeoutSeconds it may ask for a year"
            yield Finding(choice.name, "poll", "should", told)
    for variable, said in words.items():
        kind = kinds.get(variable)
        if (
            kind is None
            and functions
            and "Default" in choice.body
            and (choice.body["Default"] in around and not started)
        ):
            yield Gap(
                choice.name,
                FLOW,
                f"what {functions[0].name} can answer besides {', '.join(dict.fromkeys(said))}, of "
                f"which {choice.body['Default']} follows on the rest",
            )
        if kind and not any(k and k.words == kind.words for k in started):
            yield from _ways(loops, choice, around, variable, kind)


def _by_answer(variable: str, asks: list[State]) -> Kind | None:
    """The kind of job whose status a variable is, by what the loop asks for."""
    for state in asks:
        where = state.body.get("ResultPath", "$")
        selector = state.body.get("ResultSelector")
        if state.jsonata:
            assigned = state.body.get("Assign")
            text = assigned.get(variable[1:]) if isinstance(assigned, dict) else None
            said = re.fullmatch(r"\$states\.result\.([\w.]+)", jsonata.expression(text) or "")
            kind = (
                services.kind_by_model(state.call, said[1].split("."))
                if said and state.call
                else None
            )
            if kind:
                return kind
            continue
        if not isinstance(where, str) or state.call is None or state.call.service == "lambda":
            continue
        if variable != where and not variable.startswith((f"{where}.", f"{where}[")):
            continue
        rest = [p for p in re.split(r"[.\['\]]+", variable[len(where) :]) if p]
        if isinstance(selector, dict):
            source = selector.get(f"{rest[0]}.$") if rest else None
            if not isinstance(source, str):
                continue
            rest = [p for p in re.split(r"[.\['\]]+", source) if p][1:] + rest[1:]
        if kind := services.kind_by_model(state.call, rest):
            return kind
    return None


def _kind_of(variable: str, words: list[str]) -> Kind | None:
    """The kind of job whose status words a Choice knows, or None."""
    last = re.split(r"[.\['\]]+", variable.rstrip("]'"))[-1]
    named = [k for k in KINDS if k.status[-1] == last and last != "Status"]
    fitting = [k for k in named or KINDS if set(words) <= {*k.words, *_RUNNING}]
    return next((k for k in fitting if set(words) & {k.good, *k.bad}), None)


def _ways(
    loops: Loops, choice: State, around: set[str], variable: str, kind: Kind
) -> Iterator[Finding | Gap]:
    """Where each end of a job leads that is seen by its status alone."""
    last = re.split(r"[.\['\]]+", variable)[-1]
    certain = kind not in KINDS or (last == kind.status[-1] and last != "Status")
    for status in (kind.good, *kind.bad):
        target = _target(choice, variable, status)
        if target not in loops.states:
            continue  # not told, or not there
        after = {target} | loops.reached(target, {choice.name})
        leaves = any(not loops.next[n] or services.starts(loops.states[n].call) for n in after)
        if not leaves:
            told = f"a job that is {status} goes back to {target}, and is asked about for ever"
            if certain:
                yield Finding(choice.name, "status-leaves-loop", "must", told)
            else:
                yield Gap(choice.name, FLOW, f"if {variable} is {kind.word}'s own status, {told}")
        elif status in kind.bad and (end := _straight(loops, target)):
            told = f"a job that is {status} leads to {target}, and the execution SUCCEEDS at {end}"
            level = "must" if certain or kind.sagemaker else "should"
            yield Finding(choice.name, "failure-ends-in-fail", level, told)


_EQUALS = re.compile(r"(\$[\w.]+)\s*=\s*(?:'([^']*)'|\"([^\"]*)\")")


def _rules(choice: State) -> list[dict[str, Any]]:
    """The rules of a Choice; of a Condition in JSONata, the equalities that `or` joins."""
    rules = objects(choice.body.get("Choices"))
    if not choice.jsonata:
        return rules
    found = []
    for rule in rules:
        text = jsonata.expression(rule.get("Condition")) or ""
        equal = [_EQUALS.fullmatch(part.strip(" ()")) for part in text.split(" or ")]
        tests: list[dict[str, Any]] = [
            {"Variable": e[1], "StringEquals": e[2] or e[3] or ""} if e else {} for e in equal
        ]
        counts = {"NumericLessThan": 0} if re.search(r"[<>]", text) else {}
        found.append({"Or": [*tests, counts] if counts else tests, "Next": rule.get("Next")})
    return found


def _target(choice: State, variable: str, status: str) -> str | None:
    """Where a Choice leads when one variable is known; None: it is not told."""
    for rule in _rules(choice):
        holds = _holds(rule, variable, status)
        if holds is None:
            return None
        if holds:
            return str(rule.get("Next"))
    return choice.body.get("Default")


def _holds(rule: dict[str, Any], variable: str, value: str) -> bool | None:
    if isinstance(rule.get("Not"), dict):
        inner = _holds(rule["Not"], variable, value)
        return None if inner is None else not inner
    for word, decides in (("And", False), ("Or", True)):
        if isinstance(rule.get(word), list):
            found = [_holds(r, variable, value) for r in objects(rule[word])]
            if decides in found:
                return decides
            return None if None in found else not decides
    if rule.get("Variable") != variable:
        return None
    if "IsPresent" in rule:
        return rule["IsPresent"] is True
    test = next((k for k in rule if re.match(r"String|Is", k)), None)
    return None if test is None or test.endswith("Path") else compare(test, value, rule[test])


def _straight(loops: Loops, name: str) -> str | None:
    """The end in success to which a state leads, whatever happens; None: there is none."""
    for _ in range(len(loops.states)):
        state = loops.states.get(name)
        if state is None or state.type in ("Choice", "Fail") or services.starts(state.call):
            return None
        if not loops.next[name]:
            return name
        name = loops.next[name][0]
    return None


#: The names that Step Functions gives errors ("Handling errors", "Error names").
_STATES = tuple(
    f"States.{name}"
    for name in words(
        "ALL BranchFailed DataLimitExceeded ExceedToleratedFailureThreshold HeartbeatTimeout "
        "Http.Socket IntrinsicFailure ItemReaderFailed NoChoiceMatched ParameterPathFailure "
        "Permissions QueryEvaluationError ResultPathMatchFailure ResultWriterFailed Runtime "
        "TaskFailed Timeout"
    )
)
#: Errors of a client, not of a service.
_CLIENT = ("Unknown", "SdkClientException", "ClientExecutionTimeoutException")
_PREFIXES = {"amazonecs": "ecs", "states": "stepfunctions", "stepfunctions": "states"}


def error_names(machine: Machine) -> Iterator[Finding]:
    """Retriers and catchers of errors that no service has, or that an earlier one takes."""
    raised = {str(s.body.get("Error")) for s in machine.every() if s.type == "Fail"}
    for state in machine.every():
        for member in ("Retry", "Catch"):
            before: list[tuple[str, object]] = []
            for handler in objects(state.body.get(member)):
                names = [n for n in listed(handler.get("ErrorEquals")) if isinstance(n, str)]
                for name in names:
                    if name not in raised:
                        yield from _error_name(state, member, name)
                    yield from _masked(state, member, name, handler, before)
                before += [(n, handler.get("Next")) for n in names]


def _error_name(state: State, member: str, name: str) -> Iterator[Finding]:
    if name.startswith("States.") and name not in _STATES:
        near = difflib.get_close_matches(name, _STATES, 1, 0.6)
        told = f"{member} of {name}: Step Functions has no such error" + (
            f"; {near[0]}" if near else ""
        )
        yield Finding(state.name, "error-name", "must", told)
        return
    prefix, dot, error = name.partition(".")
    call = state.call
    if not dot or call is None or prefix == "States" or not prefix[:1].isupper():
        return
    mine = call.service.replace("-", "")
    theirs = _PREFIXES.get(prefix.lower(), prefix.lower())
    if theirs != mine and _PREFIXES.get(mine) != theirs:
        if mine != "lambda" and services.botocore_name(theirs) and theirs in services.OPTIMIZED:
            told = f"{member} of {name}: {call.service} has no errors of {prefix}"
            yield Finding(state.name, "error-name", "should", told)
        return
    if error in _CLIENT or error.endswith("Exception"):
        return
    known = services.errors_of(call) or frozenset()
    near = difflib.get_close_matches(f"{error}Exception", known, 1, 0.7)
    instead = f"{prefix}.{near[0]}" if near else "States.TaskFailed is what a failed job gives"
    told = f"{member} of {name}: {prefix} has no such error; {instead}"
    yield Finding(state.name, "error-name", "must", told)


def _masked(
    state: State, member: str, name: str, handler: dict[str, Any], before: list[tuple[str, object]]
) -> Iterator[Finding]:
    if name == "States.ALL":
        return
    for earlier, target in before:
        if earlier != "States.ALL" and matches(name, earlier):
            other = member == "Catch" and target != handler.get("Next")
            told = f"{member} of {name} is never reached: {earlier} before it takes that error"
            yield Finding(state.name, "error-name", "must" if other else "should", told)
            return
