"""TOML that people write: read into records, and refused where a key says nothing.

A misspelt key would otherwise bound, ask or require nothing, in silence.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from splatgate.evidence.files import BadInput

T = TypeVar("T")


def read(path: Path, kind: type[T], *, hint: str = "") -> T:
    """Read a TOML file; see :func:`parse`."""
    try:
        return parse(path.read_text(encoding="utf-8-sig"), kind, str(path), hint=hint)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}{hint}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: no UTF-8 text at byte {error.start}{hint}") from None


def parse(
    text: str,
    kind: type[T],
    where: str,
    *,
    retired: Mapping[str, frozenset[str]] = {},
    hint: str = "",
) -> T:
    """The record that a text holds.

    ``where`` names the text in errors, ``hint`` ends them. ``retired``: by table (``metrics``),
    keys of an older schema that are passed over.

    Raises:
        BadInput: broken TOML, a value that does not fit, or a key that nothing reads; names the
            nearest key that is read.
    """
    try:
        raw = tomllib.loads(text)
        record = msgspec.convert(raw, kind)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadInput(f"{where}: {error}{hint}") from None
    for table, key, known in unknown(raw, inspect.type_info(kind)):
        if key in retired.get(table, ()):
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        place = f"[{table}] " if table else ""
        meant = f"did you mean {near[0]}?" if near else "nothing is read there"
        raise BadInput(f"{where}: {place}{key}: unknown key; {meant}{hint}")
    return record


def unknown(
    value: object, kind: inspect.Type, table: str = ""
) -> Iterator[tuple[str, str, list[str]]]:
    """Keys of ``value`` that ``kind`` does not read: the table, the key, those that are read."""
    if isinstance(kind, inspect.UnionType):
        for of in kind.types:
            yield from unknown(value, of, table)
    elif isinstance(value, dict) and isinstance(kind, inspect.DataclassType):
        of_key = {field.encode_name: field.type for field in kind.fields}
        for key, inner in value.items():
            if key not in of_key:
                yield table, key, sorted(of_key)
            else:
                yield from unknown(inner, of_key[key], _join(table, key))
    elif isinstance(value, dict) and isinstance(kind, inspect.DictType):
        for key, inner in value.items():
            yield from unknown(inner, kind.value_type, _join(table, key))
    elif isinstance(value, list) and isinstance(kind, inspect.VarTupleType | inspect.ListType):
        for inner in value:
            yield from unknown(inner, kind.item_type, table)


def _join(table: str, key: Any) -> str:
    return f"{table}.{key}" if table else str(key)
