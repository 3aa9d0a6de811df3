"""What Amazon States Language does not allow: by statelint, and what it lets pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from splatgate.pipeline.choice import NO_TEST
from splatgate.pipeline.definition import Machine, State, machine_of
from splatgate.pipeline.lists import listed, objects
from splatgate.pipeline.paths import Finding
from splatgate.pipeline.template import UNKNOWN, Open, PathError, Scope, evaluate

#: What statelint takes for wrong and Step Functions does not: its grammar is older than `Assign` in
#: JSONPath machines; whole numbers are floats to everyone else (statelint 3.1.0).
_NOT_WRONG = (
    'Field "Assign" not allowed',
    "but should be a Float",
    # Members of a distributed Map that are younger.
    'Field "Label" not allowed',
    ".ReaderConfig",
    # Its paths know no quoted steps and no variables; `expressions` looks at these.
    "is not a JSONPath or intrinsic function expression",
)
#: A number or a list that a JSONata state computes, of which statelint knows nothing.
_COMPUTED = re.compile(
    r'is "\{%.*%\}" but should be an? (Integer|Float|Number|Array|Boolean)', re.DOTALL
)
#: The token in what a Task sends, or all of the context object that holds it.
_TOKEN = re.compile(r"(\$\$|context)(\.Task)?(\.Token\b|'|\s|\)|,|})")
#: Longest interval of a retrier, in seconds (Step Functions Developer Guide, "Retrying").
LONGEST_INTERVAL = 31622400


def grammar(document: dict[str, Any]) -> Iterator[Finding]:
    """What the language does not allow: members, types, targets, what is never reached."""
    from statelint.linter import Linter

    try:
        problems = Linter.validate(document)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        problems = [f"not Amazon States Language: {type(error).__name__}: {error}"]
    computing = {s.name for s in machine_of(document).every() if s.jsonata}
    for problem in problems:
        if any(text in problem for text in _NOT_WRONG) or _sound_all_the_same(problem):
            continue
        where = _place(problem, document)
        if where in computing and _COMPUTED.search(problem):
            continue
        yield Finding(where, "asl", "must", problem)


def _sound_all_the_same(problem: str) -> bool:
    """Whether a deployment puts something else in the place of what statelint refuses."""
    return "${" in problem and "A URI" in problem


def _place(problem: str, document: dict[str, Any]) -> str:
    """The innermost state that statelint's complaint names, or ""."""
    names = set(_names(document))
    words = problem.replace('"', "").rpartition("States.")[2]
    words = words.rpartition("to state State Machine.")[2]
    fitting = [n for n in names if words.startswith(n)]
    return max(fitting, key=len, default="")


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("States"), dict):
            yield from value["States"]
        for inner in value.values():
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def expressions(machine: Machine) -> Iterator[Finding]:
    """Members that end in ``.$`` and hold neither a path nor an intrinsic function."""
    for state in machine.every():
        for text in () if state.jsonata else _dynamic(state.body):
            try:
                evaluate(text, UNKNOWN, Scope(Open(), _Any()))
            except PathError as error:
                if "refused" not in str(error):
                    yield Finding(state.name, "asl", "must", f"{text!r}: {error}")


class _Any(dict[str, Any]):
    """Variables of every name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return UNKNOWN


def _dynamic(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key.endswith(".$") and isinstance(inner, str):
                yield inner
            elif key not in ("Branches", "ItemProcessor", "Iterator"):
                yield from _dynamic(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _dynamic(inner)


def members(machine: Machine) -> Iterator[Finding]:
    """Members that a state needs and statelint does not ask for, and numbers out of range."""
    for state in machine.every():
        for problem in _of(state):
            yield Finding(state.name, "asl", "must", problem)


def _of(state: State) -> Iterator[str]:
    if state.type == "Task" and not state.body.get("Resource"):
        yield "a Task without a Resource"
    beat, limit = state.body.get("HeartbeatSeconds"), state.body.get("TimeoutSeconds")
    if isinstance(beat, int) and isinstance(limit, int) and beat >= limit:
        yield f"HeartbeatSeconds {beat}: less than TimeoutSeconds, {limit}"
    call = state.call
    if call and call.pattern == "waitForTaskToken" and not _TOKEN.search(str(state.arguments)):
        yield "waits for a task token that it hands to nobody; put $$.Task.Token into Parameters"
    for rule in _rules(objects(state.body.get("Choices"))) if state.type == "Choice" else ():
        if state.jsonata:
            if not rule.get("Condition"):
                yield "a rule of this Choice has no Condition"
        elif len([k for k in rule if k not in NO_TEST]) != 1 or not rule.get("Variable"):
            yield f"a rule of this Choice compares nothing: {rule}"
    for retrier in objects(state.body.get("Retry")):
        rate, interval = retrier.get("BackoffRate", 2), retrier.get("IntervalSeconds", 1)
        if not isinstance(rate, int | float) or rate < 1:
            yield f"BackoffRate {rate}: at least 1"
        if isinstance(interval, int) and interval > LONGEST_INTERVAL:
            yield f"IntervalSeconds {interval}: at most {LONGEST_INTERVAL}"


def _rules(choices: list[Any]) -> Iterator[dict[str, Any]]:
    """The comparisons of a Choice, those inside And, Or and Not as well."""
    for rule in choices:
        if not isinstance(rule, dict):
            continue
        inner = [*listed(rule.get("And")), *listed(rule.get("Or"))]
        inner += [rule["Not"]] if isinstance(rule.get("Not"), dict) else []
        if inner:
            yield from _rules(inner)
        else:
            yield rule
