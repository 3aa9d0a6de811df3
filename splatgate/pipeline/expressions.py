"""Evaluates JSONPath, intrinsic functions and payload templates, over data partly unknown.

A value that is not known stays ``UNKNOWN`` through all that is computed from it.

Step Functions' own interpreter cannot be had; moto's cannot say that a value is unknown, and takes
seconds to load. Unit tests hold this one against moto's, template by template.
Source: Step Functions Developer Guide, "Intrinsic functions", "Paths", "Context object".
"""

from __future__ import annotations

import base64
import functools
import hashlib
import inspect
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Unknown:
    """A value that only a real execution knows: a function's answer, a placeholder's."""

    def __repr__(self) -> str:
        """As it is shown in a message."""
        return "?"


UNKNOWN = Unknown()


class SomeText(str):
    """Text of unknown content: it has no members, and that is all that is known of it."""


def unknown(value: Any) -> bool:
    """Whether a value's content is not known."""
    return value is UNKNOWN or isinstance(value, SomeText)


class Open(dict[str, Any]):
    """An object of which only some members are known; every other is there, and unknown."""

    def __repr__(self) -> str:
        """Not to be taken for one of which all is known."""
        return f"Open({super().__repr__()})"


class PathError(Exception):
    """A path leads nowhere, or a function refuses its arguments: the execution would end with
    States.Runtime. ``sure``: whatever the context object holds, of which some is made up here.
    """

    def __init__(self, reason: str, *, sure: bool = True) -> None:
        super().__init__(reason)
        self.sure = sure


#: CloudFormation, SAM and Terraform put values here when they deploy.
PLACEHOLDER = re.compile(r"[$%]\{[^}]+\}|\{\{[^}]+\}\}")


@dataclass
class Scope:
    """What templates may refer to besides the data: context object and variables."""

    context: dict[str, Any]
    variables: dict[str, Any] = field(default_factory=dict)
    counter: list[int] = field(default_factory=lambda: [0])
    #: Inside an item of a Map that is not the first.
    later: bool = False

    def fresh(self) -> str:
        """A value that no earlier call gave: of States.UUID."""
        self.counter[0] += 1
        run = self.context.get("Execution", {}).get("Id", "")
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run} {self.counter[0]}"))

    def within(self, **context: Any) -> Scope:
        """The same with other members of the context object."""
        return Scope({**self.context, **context}, self.variables, self.counter, self.later)

    def bindings(self, **states: Any) -> dict[str, Any]:
        """What a JSONata expression may refer to; ``states`` are members of $states."""
        return {**self.variables, "states": {"context": self.context, **states}}


_STEP = re.compile(
    r"""\.(?P<name>[^.\[\]\s'"()*?,:@]++)(?!\()|\.?\[\s*(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*\]"""
    r"""|\.?\[\s*(?P<index>-?[0-9]{1,9})\s*\]|(?P<all>\.\*|\.?\[\s*\*\s*\])"""
    r"""|\.?\[\s*(?P<low>-?[0-9]{0,9})\s*:\s*(?P<high>-?[0-9]{0,9})\s*\]"""
    # A filter, a deep scan, a function of JSONPath: what it finds is not followed.
    r"""|(?P<other>\.?\[\?\(.*?\)\]|\.\.(?:[^.\[\]\s'"()]+|\*|(?=\[))|\.?\[[^\]]*\]|\.\w+\(\))"""
)


def look_up(path: str, data: Any, scope: Scope) -> Any:
    """The value at a path: ``$.a.b`` of the data, ``$$.a`` of the context, ``$a`` of a variable.

    Raises:
        PathError: there is none.
    """
    if path == "$":
        return data
    if path.startswith("$$"):
        value, rest, where = scope.context, path[2:], "the context object"
    elif re.match(r"\$[A-Za-z_]", path):
        name = re.match(r"\$(\w+)", path)[1]  # type: ignore[index]
        if name not in scope.variables:
            raise PathError(f"{path}: no variable {name}")
        value, rest, where = scope.variables[name], path[len(name) + 1 :], "the variable"
    elif path.startswith("$"):
        value, rest, where = data, path[1:], "what the state is given"
    else:
        raise PathError(f"{path!r} is no path")
    return _steps(value, rest, path, where)


@functools.cache
def _parsed(rest: str) -> tuple[re.Match[str], ...] | None:
    """The steps of a path, or None where it is none; a walk asks for the same few again."""
    position, found = 0, []
    while position < len(rest):
        step = _STEP.match(rest, position)
        if step is None:
            return None
        position = step.end()
        found.append(step)
    return tuple(found)


def _steps(value: Any, rest: str, path: str, where: str) -> Any:
    many, steps = False, _parsed(rest)
    if steps is None:
        raise PathError(f"{path!r} is no path")
    for step in steps:
        if value is UNKNOWN or step["other"]:
            value = UNKNOWN
        elif step["all"] or step["low"] is not None:
            if isinstance(value, list):
                low, high = (int(step[n]) if step[n] else None for n in ("low", "high"))
                value = value if step["all"] else value[low:high]
            elif isinstance(value, dict) and step["all"]:
                value = list(value.values())
            else:
                raise PathError(f"{path}: nothing to select from in {where}")
            many = True
        elif many:
            value = [_one(v, step, path, where) for v in value]
        else:
            value = _one(value, step, path, where)
    return value


def _one(value: Any, step: re.Match[str], path: str, where: str) -> Any:
    if value is UNKNOWN:
        return UNKNOWN
    if step["index"] is not None:
        if isinstance(value, list) and -len(value) <= int(step["index"]) < len(value):
            return value[int(step["index"])]
        raise PathError(f"{path}: no element {step['index']} in {where}")
    name = step["name"] or re.sub(r"\\(.)", r"\1", step["quoted"][1:-1])
    if isinstance(value, dict) and name in value:
        return value[name]
    if isinstance(value, Open):
        return UNKNOWN
    has = (
        f"it has {', '.join(sorted(value)[:8]) or 'nothing'}"
        if isinstance(value, dict)
        else (f"{json.dumps(value, default=repr)[:40]} has no members")
    )
    raise PathError(f"{path}: no {name!r} in {where}; {has}")


#: What States.ArrayRange gives at most (Step Functions Developer Guide, "Intrinsic functions").
MOST_ELEMENTS = 1000
_TOKEN = re.compile(
    r"""\s*(?:(?P<call>States\.\w+)\s*\(|(?P<text>'(?:[^'\\]|\\.)*')|(?P<path>\$(?:\[[^\]]*\]"""
    r"""|[^\s,()\[\]])*)|(?P<number>-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"""
    r"""|(?P<word>true|false|null)"""
    r"""|(?P<mark>[,)]))"""
)


def evaluate(expression: str, data: Any, scope: Scope) -> Any:
    """The value of a path or an intrinsic function (the text after a key that ends in ``.$``).

    Raises:
        PathError: it is neither, or has none.
    """
    if expression == "$":
        return data
    if not expression.strip().startswith("States."):
        return look_up(expression.strip(), data, scope)
    return _value(_compiled(expression), expression, data, scope)


@dataclass(frozen=True)
class _Part:
    """A part of an expression: a function with its arguments, a path, or else a value."""

    call: str = ""
    arguments: tuple[_Part, ...] = ()
    path: str = ""
    value: Any = None

    @property
    def of_context(self) -> bool:
        """Whether the context object has a part in it."""
        return self.path.startswith("$$") or any(a.of_context for a in self.arguments)


@functools.cache
def _compiled(expression: str) -> _Part:
    part, end = _term(expression, 0)
    if expression[end:].strip():
        raise PathError(f"{expression!r}: {expression[end:].strip()!r} after the function")
    return part


def _term(text: str, at: int) -> tuple[_Part, int]:
    token = _TOKEN.match(text, at)
    if token is None or token["mark"]:
        raise PathError(f"{text!r} is no intrinsic function")
    if token["text"] is not None:
        # Format has escapes of its own, \{ and \}.
        return _Part(value=re.sub(r"\\(['\\])", r"\1", token["text"][1:-1])), token.end()
    if token["path"]:
        return _Part(path=token["path"]), token.end()
    if token["number"] or token["word"]:
        return _Part(value=json.loads(token["number"] or token["word"])), token.end()
    arguments: list[_Part] = []
    at = token.end()
    while True:
        mark = _TOKEN.match(text, at)
        if mark and mark["mark"] == ")":
            _fits(token["call"], arguments, text)
            return _Part(token["call"], tuple(arguments)), mark.end()
        if mark and mark["mark"] == "," and arguments:
            at = mark.end()
        elif arguments or mark is None:
            raise PathError(f"{text!r} is no intrinsic function")
        value, at = _term(text, at)
        arguments.append(value)


def _fits(call: str, arguments: list[_Part], text: str) -> None:
    """Raise PathError where a function takes another number of arguments, whatever they are."""
    function = FUNCTIONS.get(call.removeprefix("States."))
    if function is None:
        return  # said where it is called
    if call == "States.Format" and arguments and isinstance(arguments[0].value, str):
        places = len(_pieces(arguments[0].value)) - 1
        if places != len(arguments) - 1:
            raise PathError(f"{text}: {places} places ({{}}) for {len(arguments) - 1} values")
    elif function is not json.loads and function is not len:
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise PathError(f"{text}: {call}: {error}") from None


def _value(part: _Part, text: str, data: Any, scope: Scope) -> Any:
    if part.call:
        arguments = [_value(a, text, data, scope) for a in part.arguments]
        return _call(part, arguments, text, scope)
    return look_up(part.path, data, scope) if part.path else part.value


def _call(part: _Part, arguments: list[Any], text: str, scope: Scope) -> Any:
    name = part.call
    function = FUNCTIONS.get(name.removeprefix("States."))
    if function is None:
        raise PathError(f"{name}: no such intrinsic function")
    if name == "States.UUID":
        return scope.fresh()
    if any(map(unknown, arguments)) and name != "States.Array":
        return UNKNOWN
    try:
        return function(*arguments)
    except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        reason = f"{text}: refused (States.IntrinsicFailure): {error}"
        raise PathError(reason, sure=not part.of_context) from None


def _format(template: str, *values: Any) -> str:
    parts = _pieces(template)
    if len(parts) != len(values) + 1:
        raise ValueError(f"{len(parts) - 1} places for {len(values)} values")
    return "".join(a + b for a, b in zip(parts, [*map(_text, values), ""], strict=True))


@functools.cache
def _pieces(template: str) -> tuple[str, ...]:
    parts = re.split(r"(?<!\\)\{\}", template)
    return tuple(re.sub(r"\\([{}\\'])", r"\1", part) for part in parts)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        raise ValueError("States.Format takes text, numbers, true, false and null")
    return json.dumps(value)


def _split(text: str, marks: str) -> list[str]:
    return [p for p in re.split("[" + re.escape(marks) + "]", text) if p]


def _hash(data: Any, algorithm: str) -> Any:
    if holds_unknown(data):
        return UNKNOWN
    names = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384"}
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return hashlib.new({**names, "SHA-512": "sha512"}[algorithm], text.encode()).hexdigest()


def _to_text(value: Any) -> Any:
    return UNKNOWN if holds_unknown(value) else json.dumps(value, separators=(",", ":"))


def holds_unknown(value: Any) -> bool:
    """Whether anything inside a value is unknown."""
    if isinstance(value, dict):
        return isinstance(value, Open) or any(map(holds_unknown, value.values()))
    if isinstance(value, list):
        return any(map(holds_unknown, value))
    return unknown(value)


def _range(first: int, last: int, step: int) -> list[int]:
    found = range(first, last + (1 if step > 0 else -1), step)
    if len(found) > MOST_ELEMENTS:
        raise ValueError(f"more than {MOST_ELEMENTS} elements")
    return list(found)


def _unique(values: list[Any]) -> list[Any]:
    return [v for n, v in enumerate(values) if v not in values[:n]]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Format": _format,
    "StringToJson": json.loads,
    "JsonToString": _to_text,
    "Array": lambda *values: list(values),
    "ArrayPartition": lambda a, n: [a[i : i + n] for i in range(0, len(a), n)],
    "ArrayContains": lambda a, v: v in a,
    "ArrayRange": _range,
    "ArrayGetItem": lambda a, n: a[n],
    "ArrayLength": len,
    "ArrayUnique": _unique,
    "Base64Encode": lambda t: base64.b64encode(t.encode()).decode(),
    "Base64Decode": lambda t: base64.b64decode(t).decode(),
    "Hash": _hash,
    "JsonMerge": lambda a, b, deep: {**a, **b},
    "MathRandom": lambda *a: UNKNOWN,
    "MathAdd": lambda a, b: a + b,
    "StringSplit": _split,
    "UUID": lambda: UNKNOWN,
}


def render(template: Any, data: Any, scope: Scope) -> Any:
    """A payload template (Parameters, ResultSelector) with its ``.$`` members evaluated.

    Raises:
        PathError: a path of it leads nowhere.
    """
    if isinstance(template, dict):
        return {
            key.removesuffix(".$") if key.endswith(".$") else key: (
                evaluate(value, data, scope)
                if key.endswith(".$") and isinstance(value, str)
                else render(value, data, scope)
            )
            for key, value in template.items()
        }
    if isinstance(template, list):
        return [render(value, data, scope) for value in template]
    if isinstance(template, str) and PLACEHOLDER.search(template):
        return UNKNOWN
    return template


def put(data: Any, path: str, value: Any) -> Any:
    """``data`` with ``value`` at a reference path, as ResultPath puts it.

    Raises:
        PathError: it cannot be put there.
    """
    if path == "$":
        return value
    steps = [s["name"] or (s["quoted"] or "")[1:-1] for s in _STEP.finditer(path[1:])]
    if not path.startswith("$.") and not path.startswith("$["):
        raise PathError(f"ResultPath {path!r} is no reference path")
    return _put(data, steps, value, path)


def _put(data: Any, steps: list[str], value: Any, path: str) -> Any:
    if not steps:
        return value
    if data is UNKNOWN:
        data = Open()
    if not isinstance(data, dict):
        shown = json.dumps(data, default=repr)[:40]
        raise PathError(f"ResultPath {path}: cannot be put into {shown}")
    inner = data.get(steps[0], UNKNOWN if isinstance(data, Open) else {})
    return type(data)({**data, steps[0]: _put(inner, steps[1:], value, path)})
