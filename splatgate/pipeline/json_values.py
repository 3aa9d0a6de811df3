"""JSON helpers: members of documents that may be malformed, and walks over values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def listed(value: Any) -> list[Any]:
    """A list, or none where something else stands for it."""
    return value if isinstance(value, list) else []


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; what else stands there, the grammar tells."""
    return [v for v in listed(value) if isinstance(v, dict)]


def member(value: Any, *path: str) -> Any:
    """What lies at a path of members, or None."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no object and no list, with its path (``A.B[0]``)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{where}[{number}]")
    else:
        yield where, value


def texts(value: Any) -> list[str]:
    """Every text inside a value."""
    return [v for _, v in leaves(value) if isinstance(v, str)]


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value with each of its leaves changed."""
    if isinstance(value, dict):
        return {k: changed(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [changed(v, change) for v in value]
    return change(value)


def words(text: str) -> tuple[str, ...]:
    """The words of a text: a table that is read more easily in lines than in quotes."""
    return tuple(text.split())
