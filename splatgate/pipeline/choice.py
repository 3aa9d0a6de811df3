"""Which way a Choice goes: one rule, or several where the data do not tell."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from typing import Any

from splatgate.pipeline import jsonata
from splatgate.pipeline.answers import STOPPING, Job
from splatgate.pipeline.definition import State
from splatgate.pipeline.expressions import UNKNOWN, PathError, Scope, evaluate, unknown
from splatgate.pipeline.json_values import listed, objects

#: Members of a rule that compare nothing.
NO_TEST = ("Variable", "Next", "Comment", "Assign", "Output")


def choose(
    state: State, data: Any, scope: Scope, jobs: tuple[Job, ...]
) -> Iterator[tuple[dict[str, Any] | None, bool]]:
    """Each rule that may be taken (None: Default), and whether it is certain to be.

    Raises:
        PathError: a rule compares what is not there.
    """
    certain = True
    for rule in objects(state.body.get("Choices")):
        if state.jsonata:
            holds = condition(rule.get("Condition"), data, scope)
        else:
            holds = _holds(rule, data, scope, jobs)
        if holds is False:
            continue
        yield rule, certain and holds is True
        if holds is True:
            return
        certain = False
    yield None, certain


def condition(given: Any, data: Any, scope: Scope) -> bool | None:
    """What a rule's Condition gives; None: only an execution can tell."""
    value = jsonata.render(given, scope, input=data)
    return value if isinstance(value, bool) else None


def asks_for(state: State, word: str) -> bool:
    """Whether a Choice compares something with a word."""
    text = json.dumps(state.body.get("Choices"), default=repr)
    return f'"{word}"' in text or f"'{word}'" in text or f'\\"{word}\\"' in text


def comparisons(rules: list[Any]) -> Iterator[dict[str, Any]]:
    """The comparisons of a Choice, those inside And, Or and Not as well."""
    for rule in rules:
        if not isinstance(rule, dict):
            continue
        inner = [*listed(rule.get("And")), *listed(rule.get("Or"))]
        inner += [rule["Not"]] if isinstance(rule.get("Not"), dict) else []
        if inner:
            yield from comparisons(inner)
        else:
            yield rule


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
    if value is UNKNOWN and test == "StringEquals" and isinstance(expected, str):
        # A function that asks for a job's status, and hands on the service's own word.
        asked = [j for j in jobs if j.asked and expected in (*j.kind.words, STOPPING)]
        return asked[-1].status == expected if asked and asked[-1] is jobs[-1] else None
    if unknown(value) or unknown(expected):
        return None
    return compare(test, value, expected)


def _all(values: Iterator[bool | None]) -> bool | None:
    """And, as an execution evaluates it: what comes after a rule that fails is not looked at."""
    open_ = False
    for value in values:
        if value is False:
            return False
        open_ |= value is None
    return None if open_ else True


def _any(values: Iterator[bool | None]) -> bool | None:
    open_ = False
    for value in values:
        if value is True:
            return True
        open_ |= value is None
    return None if open_ else False


def compare(test: str, value: Any, expected: Any) -> bool | None:
    """Whether a comparison of known values holds; None: it is not followed (timestamps)."""
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
