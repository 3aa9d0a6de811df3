"""Which way a Choice goes: one rule, or several where the data do not tell."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from typing import Any

from splatgate.pipeline.answers import ENDS, RUNNING, STOPPING, Job
from splatgate.pipeline.definition import State
from splatgate.pipeline.lists import objects
from splatgate.pipeline.template import UNKNOWN, PathError, Scope, evaluate

_STATUSES = frozenset({*ENDS, RUNNING, STOPPING})


def choose(
    state: State, data: Any, scope: Scope, jobs: tuple[Job, ...]
) -> Iterator[tuple[dict[str, Any] | None, bool, bool]]:
    """Each rule that may be taken (None: Default), whether it is certain to be, and whether the
    choice is by a job's status that a function handed on.

    Raises:
        PathError: a rule compares what is not there.
    """
    certain, told = True, '"Completed"' in json.dumps(state.body.get("Choices"), default=repr)
    for rule in objects(state.body.get("Choices")):
        holds = None if state.jsonata else _holds(rule, data, scope, jobs)
        if holds is False:
            continue
        yield rule, certain and holds is True, told
        if holds is True:
            return
        certain = False
    yield None, certain, told


def _holds(rule: dict[str, Any], data: Any, scope: Scope, jobs: tuple[Job, ...]) -> bool | None:
    """Whether a rule holds; None: only an execution can tell."""
    for word in ("And", "Or"):
        if isinstance(rule.get(word), list):
            inner = (_holds(r, data, scope, jobs) for r in rule[word] if isinstance(r, dict))
            return _all(inner) if word == "And" else _any(inner)
    if isinstance(rule.get("Not"), dict):
        value = _holds(rule["Not"], data, scope, jobs)
        return None if value is None else not value
    variable = str(rule.get("Variable", ""))
    found = next(((k, v) for k, v in rule.items() if k not in NO_TEST), None)
    if found is None:
        return None
    test, expected = found
    try:
        value = evaluate(variable, data, scope)
    except PathError:
        if test == "IsPresent":
            return expected is False
        raise
    if test == "IsPresent":
        return None if value is UNKNOWN else expected is True
    if test.endswith("Path") and isinstance(expected, str):
        test, expected = test.removesuffix("Path"), evaluate(expected, data, scope)
    if value is UNKNOWN and test == "StringEquals" and expected in _STATUSES:
        # A function that asks for a job's status and hands on SageMaker's own word.
        return jobs[-1].status == expected if jobs and jobs[-1].asked else None
    if value is UNKNOWN or expected is UNKNOWN:
        return None
    return _test(test, value, expected)


#: Members of a rule that compare nothing.
NO_TEST = ("Variable", "Next", "Comment", "Assign", "Output")


def _all(values: Iterator[bool | None]) -> bool | None:
    """And, as an execution evaluates it: what comes after a rule that fails is not looked at."""
    unknown = False
    for value in values:
        if value is False:
            return False
        unknown |= value is None
    return None if unknown else True


def _any(values: Iterator[bool | None]) -> bool | None:
    unknown = False
    for value in values:
        if value is True:
            return True
        unknown |= value is None
    return None if unknown else False


def _test(test: str, value: Any, expected: Any) -> bool | None:
    kinds = {
        "IsNull": value is None,
        "IsString": isinstance(value, str),
        "IsNumeric": isinstance(value, int | float) and not isinstance(value, bool),
        "IsBoolean": isinstance(value, bool),
    }
    if test in kinds:
        return kinds[test] is bool(expected)
    if test == "StringMatches":
        if not isinstance(value, str):
            return False
        pattern = re.sub(r"[?\[]", lambda m: f"[{m[0]}]", str(expected))
        return fnmatch.fnmatchcase(value, pattern)
    found = re.fullmatch(
        r"(String|Numeric|Boolean|Timestamp)"
        r"(Equals|LessThan|GreaterThan|LessThanEquals|GreaterThanEquals)",
        test,
    )
    if found is None or found[1] == "Timestamp":
        return None
    wanted: Any = {"String": str, "Numeric": int | float, "Boolean": bool}[found[1]]
    if not isinstance(value, wanted) or not isinstance(expected, wanted):
        return False
    order = (value > expected) - (value < expected)
    holds: bool = {
        "Equals": order == 0,
        "LessThan": order < 0,
        "GreaterThan": order > 0,
        "LessThanEquals": order <= 0,
        "GreaterThanEquals": order >= 0,
    }[found[2]]
    return holds
