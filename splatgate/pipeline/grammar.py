"""What Amazon States Language does not allow, as CreateStateMachine would say it.

Sources: Amazon States Language specification (states-language.net); Step Functions Developer Guide,
"Using Amazon States Language" and its pages on Map, Choice and error handling.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from splatgate.pipeline import jsonata
from splatgate.pipeline.choice import NO_TEST, comparisons
from splatgate.pipeline.definition import Machine, State, machine_of
from splatgate.pipeline.expressions import (
    PLACEHOLDER,
    UNKNOWN,
    Open,
    PathError,
    Scope,
    evaluate,
)
from splatgate.pipeline.findings import Finding
from splatgate.pipeline.json_values import leaves, listed, objects, words

#: Bytes of a definition that CreateStateMachine takes.
MOST_BYTES = 1_048_576
#: Longest interval of a retrier, in seconds (Step Functions Developer Guide, "Retrying").
LONGEST_INTERVAL = 31622400
LONGEST_TIME = 99999999

_OUT = "Next End InputPath OutputPath Output Assign"
_ERRORS = "Retry Catch"
_RESULT = "ResultPath ResultSelector Parameters Arguments"
#: The members of each type of state, besides Type, Comment and QueryLanguage.
_MEMBERS = {
    "Task": f"{_OUT} {_ERRORS} {_RESULT} Resource TimeoutSeconds TimeoutSecondsPath "
    "HeartbeatSeconds HeartbeatSecondsPath Credentials",
    "Pass": f"{_OUT} Result ResultPath Parameters",
    "Wait": f"{_OUT} Seconds SecondsPath Timestamp TimestampPath",
    "Choice": "InputPath OutputPath Output Assign Choices Default",
    "Succeed": "InputPath OutputPath Output",
    "Fail": "Error ErrorPath Cause CausePath",
    "Parallel": f"{_OUT} {_ERRORS} {_RESULT} Branches",
    "Map": f"{_OUT} {_ERRORS} {_RESULT} Iterator ItemProcessor ItemsPath Items ItemSelector "
    "ItemReader ItemBatcher ResultWriter MaxConcurrency MaxConcurrencyPath ToleratedFailureCount "
    "ToleratedFailureCountPath ToleratedFailurePercentage ToleratedFailurePercentagePath Label",
}
_JSONPATH = words(
    "InputPath OutputPath ResultPath ResultSelector Parameters ItemsPath SecondsPath TimestampPath "
    "TimeoutSecondsPath HeartbeatSecondsPath ErrorPath CausePath MaxConcurrencyPath "
    "ToleratedFailureCountPath ToleratedFailurePercentagePath"
)
_JSONATA = ("Arguments", "Output", "Items")
_MACHINE = words("Comment QueryLanguage StartAt States TimeoutSeconds Version ProcessorConfig")
_CATCHER = words("ErrorEquals Next ResultPath Comment Assign Output")
_RETRIER = words(
    "ErrorEquals IntervalSeconds MaxAttempts BackoffRate MaxDelaySeconds JitterStrategy Comment"
)
#: Numbers of a state or a retrier: least, most.
_NUMBERS = {
    "TimeoutSeconds": (1, LONGEST_TIME),
    "HeartbeatSeconds": (1, LONGEST_TIME),
    "Seconds": (0, LONGEST_TIME),
    "MaxConcurrency": (0, LONGEST_TIME),
    "ToleratedFailureCount": (0, LONGEST_TIME),
    "IntervalSeconds": (1, LONGEST_INTERVAL),
    "MaxAttempts": (0, LONGEST_TIME),
    "MaxDelaySeconds": (1, LONGEST_INTERVAL),
}
_ENDS = ("Succeed", "Fail")
_TESTS = frozenset(
    f"{kind}{test}{path}"
    for kind in ("String", "Numeric", "Timestamp")
    for test in ("Equals", "LessThan", "GreaterThan", "LessThanEquals", "GreaterThanEquals")
    for path in ("", "Path")
) | {
    "BooleanEquals", "BooleanEqualsPath", "StringMatches", "IsNull", "IsPresent", "IsNumeric",
    "IsString", "IsBoolean", "IsTimestamp",
}  # fmt: skip
#: The token in what a Task sends, or all of the context object that holds it.
_TOKEN = re.compile(r"(\$\$|context)(\.Task)?(\.Token\b|'|\s|\)|,|})")
#: A path or a function that stands where text stands.
_PATH = re.compile(r"\$(\$?(\.[A-Za-z_\[][\w.\[\]'*-]*|\[.*\]))|\$|\$\$|States\.[A-Z]\w+\(.*\)")


def grammar(document: dict[str, Any]) -> Iterator[Finding]:
    """What the language does not allow: members, types, targets, what is never reached."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=repr)
    size = len(text.encode())
    if size > MOST_BYTES:
        told = f"the definition has {size:,} bytes; Step Functions takes {MOST_BYTES:,}"
        yield Finding("", "size", "must", told)
    yield from _machine(document, "")
    machine = machine_of(document)
    count = Counter(s.name for s in machine.every())
    for name, times in count.items():
        if times > 1:
            yield _asl(name, f"{times} states have this name; it is to be one's alone")
    for state in machine.every():
        yield from (_asl(state.name, problem) for problem in _state(state))


def _asl(state: str, problem: str) -> Finding:
    return Finding(state, "asl", "must", problem)


def _machine(document: Any, where: str) -> Iterator[Finding]:
    """A machine or a branch, and those inside it: its members, and where its states lead."""
    if not isinstance(document, dict):
        yield _asl(where, "a branch or a Map's processor is to be an object of StartAt and States")
        return
    yield from (_asl(where, p) for p in _unknown(document, _MACHINE))
    states, start = document.get("States"), document.get("StartAt")
    if not isinstance(states, dict) or not states:
        yield _asl(where, "no States")
        return
    if not isinstance(start, str):
        yield _asl(where, "no StartAt")
    elif start not in states:
        yield _asl(where, f'StartAt: No state found named "{start}"')
    yield from (_asl(where, p) for p in _numbers(document, ("TimeoutSeconds",), computes=False))
    if document.get("QueryLanguage", "JSONPath") not in ("JSONPath", "JSONata"):
        yield _asl(where, f"QueryLanguage {document['QueryLanguage']!r}: JSONPath or JSONata")
    into = {str(start)}
    for name, body in states.items():
        if not isinstance(body, dict):
            yield _asl(name, "a state is to be an object")
            continue
        for member, target in targets(body):
            into.add(target)
            if target not in states:
                yield _asl(name, f'{member}: No state found named "{target}"')
        branches = listed(body.get("Branches")) if body.get("Type") == "Parallel" else []
        if body.get("Type") == "Map":
            branches = [body[k] for k in ("ItemProcessor", "Iterator") if k in body]
        for branch in branches:
            yield from _machine(branch, name)
    for name in states:
        if name not in into:
            yield _asl(name, "no transition leads to this state")
    ends = [b for b in states.values() if isinstance(b, dict)]
    if ends and not any(b.get("End") is True or b.get("Type") in _ENDS for b in ends):
        yield _asl(where, "no state of it ends the execution (End, Succeed or Fail)")


def targets(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a state can lead, with the member that says so."""
    for member in ("Next", "Default"):
        if isinstance(body.get(member), str):
            yield member, body[member]
    for member in ("Choices", "Catch"):
        for one in objects(body.get(member)):
            if isinstance(one.get("Next"), str):
                yield f"{member}.Next", one["Next"]


def _unknown(body: dict[str, Any], known: Sequence[str]) -> Iterator[str]:
    for name in body:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.7)
            yield f"{name}: no such member" + (f"; {near[0]}" if near else "")


def _numbers(body: dict[str, Any], names: Any, *, computes: bool) -> Iterator[str]:
    for name in names:
        value = body.get(name)
        if name not in body or _later(value) or (computes and jsonata.expression(value)):
            continue
        low, high = _NUMBERS[name]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            yield f"{name} is {value!r}, and should be a whole number from {low} to {high}"


def _later(value: Any) -> bool:
    """Whether a deployment puts something else in a value's place."""
    return isinstance(value, str) and bool(PLACEHOLDER.search(value))


def _state(state: State) -> Iterator[str]:
    body, kind = state.body, state.type
    if len(state.name) > 80:
        yield f"a name of {len(state.name)} characters; at most 80"
    if kind not in _MEMBERS:
        near = difflib.get_close_matches(kind, _MEMBERS, 1, 0.6)
        yield f"Type {kind!r}: no such type" + (f"; {near[0]}" if near else "")
        return
    yield from _unknown(body, ["Type", "Comment", "QueryLanguage", *_MEMBERS[kind].split()])
    others = _JSONPATH if state.jsonata else _JSONATA
    language = "JSONata" if state.jsonata else "JSONPath"
    for name in others:
        if name in body and name in _MEMBERS[kind].split():
            yield f"{name}: not in a state of {language}"
    if "Next" in _MEMBERS[kind].split():
        if ("Next" in body) == ("End" in body):
            yield "give one of Next and End"
        elif "End" in body and body["End"] is not True and not _later(body["End"]):
            yield f"End is {body['End']!r}, and should be true"
        elif "Next" in body and not isinstance(body["Next"], str):
            yield f"Next is {body['Next']!r}, and should be a state's name"
    yield from _numbers(body, [n for n in _NUMBERS if n in body], computes=state.jsonata)
    for name in body:
        if name.endswith("Path") and name != "ResultPath" and name.removesuffix("Path") in body:
            yield f"give one of {name} and {name.removesuffix('Path')}"
        if name.endswith("Path") and body[name] is not None and not _later(body[name]):
            yield from _path(name, body[name])
    yield from _OF[kind](state) if kind in _OF else ()
    for name, known in (("Retry", _RETRIER), ("Catch", _CATCHER)):
        if name in body:
            yield from _handlers(state, name, known)
    yield from _expressions(state)


def _path(name: str, value: Any) -> Iterator[str]:
    computed = name in ("ErrorPath", "CausePath") and str(value).startswith("States.")
    if not isinstance(value, str) or not (value.startswith("$") or computed):
        yield f"{name} is {value!r}, and should be a path ($.…)"
    elif name == "ResultPath" and (
        value.startswith("$$") or re.search(r"\*|\?\(|\.\.|\[-?\d*[:,]|@", value)
    ):
        yield f"ResultPath {value!r}: should be a reference path to one member ($.a.b)"


def _task(state: State) -> Iterator[str]:
    body, call = state.body, state.call
    resource = body.get("Resource")
    if not isinstance(resource, str) or not resource:
        yield "a Task without a Resource"
    elif not _later(resource) and not re.match(r"arn:[a-z-]+:", resource):
        yield f"Resource {resource!r}: should be an ARN"
    beat, limit = body.get("HeartbeatSeconds"), body.get("TimeoutSeconds")
    if isinstance(beat, int) and isinstance(limit, int) and beat >= limit:
        yield f"HeartbeatSeconds {beat}: less than TimeoutSeconds, {limit}"
    if call and call.pattern == "waitForTaskToken" and not _TOKEN.search(str(state.arguments)):
        yield "waits for a task token that it hands to nobody; put $$.Task.Token into Parameters"


def _choice(state: State) -> Iterator[str]:
    rules = state.body.get("Choices")
    if not isinstance(rules, list) or not rules:
        yield "no Choices"
        return
    for rule in rules:
        if not isinstance(rule, dict) or not isinstance(rule.get("Next"), str):
            yield f"a rule of this Choice has no Next: {rule}"
    for rule in objects(rules) if state.jsonata else ():
        condition = rule.get("Condition")
        if not condition:
            yield "a rule of this Choice has no Condition"
        elif not isinstance(condition, bool) and jsonata.expression(condition) is None:
            yield f"Condition is {condition!r}, and should be an expression in {{% … %}}"
    for rule in comparisons(rules) if not state.jsonata else ():
        tests = [k for k in rule if k not in NO_TEST]
        if len(tests) != 1 or not rule.get("Variable"):
            yield f"a rule of this Choice compares nothing: {rule}"
        elif tests[0] not in _TESTS:
            near = difflib.get_close_matches(tests[0], _TESTS, 1, 0.7)
            yield f"{tests[0]}: no such comparison" + (f"; {near[0]}" if near else "")
        else:
            yield from _operand(tests[0], rule[tests[0]])


def _operand(test: str, value: Any) -> Iterator[str]:
    wanted: tuple[type, ...] = (str,)
    if not test.endswith("Path") and test.startswith(("Is", "Boolean")):
        wanted = (bool,)
    elif not test.endswith("Path") and test.startswith("Numeric"):
        wanted = (int, float)
    fits = isinstance(value, wanted) and (wanted == (bool,) or not isinstance(value, bool))
    if not fits and not _later(value):
        shown = {bool: "true or false", int: "a number", str: "text"}[wanted[0]]
        yield f"{test} is {value!r}, and should be {shown}"


def _wait(state: State) -> Iterator[str]:
    given = [n for n in ("Seconds", "SecondsPath", "Timestamp", "TimestampPath") if n in state.body]
    if len(given) != 1:
        yield "give one of Seconds, SecondsPath, Timestamp and TimestampPath"


def _parallel(state: State) -> Iterator[str]:
    if not listed(state.body.get("Branches")):
        yield "no Branches"


def _map(state: State) -> Iterator[str]:
    body = state.body
    if ("Iterator" in body) == ("ItemProcessor" in body):
        yield "give one of ItemProcessor and Iterator"
    rate = body.get("ToleratedFailurePercentage", 0)
    if isinstance(rate, int | float) and not 0 <= rate <= 100:
        yield f"ToleratedFailurePercentage is {rate}, and should be from 0 to 100"
    config = body.get("ItemProcessor", {})
    config = config.get("ProcessorConfig", {}) if isinstance(config, dict) else {}
    distributed = isinstance(config, dict) and config.get("Mode") == "DISTRIBUTED"
    for name in ("ItemReader", "ItemBatcher", "ResultWriter", "Label", "ToleratedFailureCount",
                 "ToleratedFailurePercentage"):  # fmt: skip
        if name in body and not distributed:
            yield f"{name}: in a distributed Map only (ItemProcessor.ProcessorConfig.Mode)"


_OF = {"Task": _task, "Choice": _choice, "Wait": _wait, "Parallel": _parallel, "Map": _map}


def _handlers(state: State, member: str, known: Sequence[str]) -> Iterator[str]:
    handlers = state.body[member]
    if not isinstance(handlers, list):
        yield f"{member} is to be a list"
        return
    for number, one in enumerate(handlers):
        where = f"{member}[{number}]"
        if not isinstance(one, dict):
            yield f"{where} is to be an object"
            continue
        yield from (f"{where}.{p}" for p in _unknown(one, known))
        names = one.get("ErrorEquals")
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            yield f"{where}.ErrorEquals is to be a list of names of errors"
        elif "States.ALL" in names and (len(names) > 1 or number + 1 < len(handlers)):
            yield f"{where}: States.ALL is to stand alone, and last: what follows is never reached"
        if member == "Catch" and not isinstance(one.get("Next"), str):
            yield f"{where} has no Next"
        rate = one.get("BackoffRate", 2)
        if not _later(rate) and (not isinstance(rate, int | float) or rate < 1):
            yield f"BackoffRate {rate}: at least 1"
        numbers = [n for n in _NUMBERS if n in one and member == "Retry"]
        yield from (f"{where}.{p}" for p in _numbers(one, numbers, computes=False))


def _expressions(state: State) -> Iterator[str]:
    """Members that end in ``.$`` and hold neither a path nor a function; JSONata that is none."""
    own = {
        k: v for k, v in state.body.items() if k not in ("Branches", "ItemProcessor", "Iterator")
    }
    for where, value in leaves(own):
        if not isinstance(value, str):
            if where.endswith(".$"):
                yield f"{where} is {value!r}, and should be a path or a function"
        elif state.jsonata and (text := jsonata.expression(value)) is not None:
            if problem := jsonata.problem(text):
                yield f"{where}: {problem}"
        elif not state.jsonata and where.endswith(".$") and not _later(value):
            try:
                evaluate(value, UNKNOWN, Scope(Open(), _Any()))
            except PathError as error:
                if "refused" not in str(error):
                    yield f"{value!r}: {error}"


class _Any(dict[str, Any]):
    """Variables of every name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return UNKNOWN


def paths_as_text(machine: Machine) -> Iterator[Finding]:
    """Paths that are sent as they stand, since their key does not end in ``.$``; tokens that are
    not there.
    """
    for state in machine.every():
        call = state.call
        if call and call.pattern != "waitForTaskToken" and "Task.Token" in str(state.arguments):
            told = "hands on a task token, which is there with .waitForTaskToken alone"
            yield Finding(state.name, "reference", "should", told)
        sent = {k: state.body.get(k) for k in ("Parameters", "ItemSelector", "ResultSelector",
                "Arguments", "Output") if k in state.body}  # fmt: skip
        for where, value in leaves(sent):
            key = re.split(r"[.\[]", where)[-1]
            if not isinstance(value, str) or where.endswith(".$") or "path" in where.lower():
                continue
            if state.jsonata:
                if re.fullmatch(r"\$states\.[\w.\[\]]+", value) or _PATH.fullmatch(value):
                    told = f"{where} is the text {value!r}; write {{% … %}} around it"
                    yield Finding(state.name, "path-as-text", "must", told)
            elif _PATH.fullmatch(value) and value not in ("$", "$$"):
                told = f"{where} is the text {value!r}: its key lacks .$ ({key}.$)"
                yield Finding(state.name, "path-as-text", "must", told)
