"""Evaluates JSONata, where every value that an expression reads is known.

The language is jsonata-python's. What Step Functions adds to it is given to it; what it reads of an
unknown value makes the whole expression unknown.
Source: Step Functions Developer Guide, "Transforming data with JSONata".
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from splatgate.pipeline.expressions import UNKNOWN, Open, PathError, Scope, holds_unknown, unknown

_EXPRESSION = re.compile(r"\s*\{%(.*)%\}\s*", re.DOTALL)
#: Milliseconds and calls within one another that an expression may take.
_LIMITS = (2000, 200)
_NOWHERE = object()
_HASHES = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384"}


def expression(text: Any) -> str | None:
    """The JSONata inside ``{% … %}``, or None."""
    found = _EXPRESSION.fullmatch(text) if isinstance(text, str) else None
    return found[1].strip() if found else None


def problem(text: str) -> str | None:
    """Why a text is no JSONata, or None."""
    try:
        _compiled(text)
    except PathError as error:
        return str(error)
    return None


@functools.cache
def _compiled(text: str) -> Any:
    from jsonata import Jsonata
    from jsonata.jexception import JException

    try:
        return Jsonata(text)
    except (JException, RecursionError, IndexError, ValueError) as error:
        raise PathError(f"{text[:80]!r} is no JSONata: {error}") from None


def render(template: Any, scope: Scope, **states: Any) -> Any:
    """A template with its ``{% … %}`` evaluated; ``states`` are members of $states.

    Raises:
        PathError: an expression gives nothing, or is refused.
    """
    if isinstance(template, dict):
        return {key: render(value, scope, **states) for key, value in template.items()}
    if isinstance(template, list):
        return [render(value, scope, **states) for value in template]
    text = expression(template)
    if text is not None:
        return evaluate(text, scope, **states)
    if isinstance(template, str) and re.search(r"[$%]\{[^}]+\}|\{\{[^}]+\}\}", template):
        return UNKNOWN
    return template


def evaluate(text: str, scope: Scope, **states: Any) -> Any:
    """The value of an expression.

    Raises:
        PathError: it gives nothing (undefined), or is refused: States.QueryEvaluationError.
    """
    compiled, bindings = _compiled(text), scope.bindings(**states)
    reads = list(_reads(compiled.ast, frozenset()))
    missing = []
    plain = compiled.ast.steps if compiled.ast.type == "path" else [compiled.ast]
    whole = len(reads) == 1 and len(plain) == len(reads[0][1]) + 1 and not any(map(_selects, plain))
    for name, steps in reads:
        if name == "":
            return UNKNOWN
        if name not in bindings:
            raise PathError(f"${name}: no such variable or function")
        found = _reached(bindings[name], steps)
        if found is _NOWHERE:
            missing.append(".".join((f"${name}", *steps)))
        elif whole and plain[0].type == "variable" and not isinstance(found, list):
            return found  # also where only a part of it is known
        elif holds_unknown(found):
            return UNKNOWN
    value = _evaluated(text, compiled, bindings, scope)
    if value is None and not _evaluated(f"$exists(({text}))", None, bindings, scope):
        where = f": there is no {missing[0]}" if missing else ""
        sure = "$states.context" not in text
        raise PathError(f"{text[:80]!r} gives nothing{where}", sure=sure)
    return value


def _evaluated(text: str, compiled: Any, bindings: dict[str, Any], scope: Scope) -> Any:
    from jsonata import Jsonata
    from jsonata.jexception import JException

    compiled = Jsonata(text)  # it keeps what is assigned to it
    for name, value in (_ADDED | {"uuid": scope.fresh} | bindings).items():
        if callable(value):
            compiled.register_lambda(name, value)
        else:
            compiled.assign(name, value)
    compiled.environment.set_runtime_bounds(*_LIMITS)
    try:
        return _plain(compiled.evaluate(None))
    except (JException, RecursionError, TypeError, ValueError, AttributeError, KeyError) as error:
        sure = "$states.context" not in text
        raise PathError(f"{text[:80]!r}: refused: {error}", sure=sure) from None


def _plain(value: Any) -> Any:
    """A result in Python's own lists and objects; a function is nothing to hand on."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float) else UNKNOWN


#: What Step Functions adds; of random numbers nothing is known.
_ADDED: dict[str, Any] = {
    "partition": lambda values, size: [values[i : i + size] for i in range(0, len(values), size)],
    "range": lambda first, last, step: list(range(first, last + (1 if step > 0 else -1), step)),
    "hash": lambda text, name: hashlib.new(_HASHES.get(name, "sha512"), text.encode()).hexdigest(),
    "parse": json.loads,
}
#: Functions of which a time or chance decides.
_OPEN = ("random", "now", "millis", "shuffle")


@functools.cache
def _built_in() -> frozenset[str]:
    from jsonata import Jsonata

    Jsonata("1")
    return frozenset(Jsonata.static_frame.bindings) | _ADDED.keys() | {"uuid"}


def _reads(node: Any, local: frozenset[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The variables that an expression reads, each with the members that follow its name.

    An empty name stands for what nobody knows: chance, the time.
    """
    kind = getattr(node, "type", None)
    if kind == "lambda":
        local |= {a.value for a in node.arguments or ()}
        yield from _reads(node.body, local)
        return
    if kind == "block":
        for inner in node.expressions or ():
            if getattr(inner, "type", None) == "bind":
                local |= {inner.lhs.value}
            yield from _reads(inner, local)
        return
    if kind == "bind":
        yield from _reads(node.rhs, local | {node.lhs.value})
        return
    if kind == "path":
        first, *others = node.steps
        plain: list[str] = []
        if getattr(first, "type", None) == "variable" and not _selects(first):
            for step in others:
                if step.type != "name":
                    break
                plain.append(step.value)
                if _selects(step):
                    break
            yield from _variable(first, tuple(plain), local)
        else:
            others = node.steps
        for step in node.steps if first in others else others:
            yield from _inner(step, local)
        return
    if kind == "variable":
        yield from _variable(node, (), local)
    yield from _inner(node, local)


def _selects(step: Any) -> bool:
    return bool(getattr(step, "stages", None) or getattr(step, "predicate", None))


def _variable(
    node: Any, steps: tuple[str, ...], local: frozenset[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    name = str(node.value)
    if name in _OPEN:
        yield "", ()
    elif name and name != "$" and name not in local and name not in _built_in():
        yield name, steps


def _inner(node: Any, local: frozenset[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What lies below a node of the syntax tree."""
    for name in _BELOW:
        below = getattr(node, name, None)
        for inner in below if isinstance(below, list | tuple) else (below,):
            for one in inner if isinstance(inner, list | tuple) else (inner,):
                if hasattr(one, "type") and hasattr(one, "position"):
                    yield from _reads(one, local)


_BELOW = (
    "lhs", "rhs", "lhs_object", "rhs_object", "expression", "expressions", "arguments", "procedure",
    "condition", "then", "_else", "stages", "predicate", "expr", "terms", "pattern", "update",
    "delete", "group", "steps", "body", "slots", "rhs_terms",
)  # fmt: skip


def _reached(value: Any, steps: tuple[str, ...]) -> Any:
    """What lies at members of a value, as far as lists let it be told."""
    for step in steps:
        if unknown(value):
            return UNKNOWN
        if not isinstance(value, dict):
            return value
        if step not in value:
            return UNKNOWN if isinstance(value, Open) else _NOWHERE
        value = value[step]
    return value
