"""Edits of evidence, written as data: in ``fault.toml``, and by the mutants."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from splatgate.evidence import BadInput
from splatgate.sagemaker.result import ending

COMMANDS = "container/commands.jsonl"
#: Way to a value in a JSON document: keys and indices.
Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class End:
    """How a job ended."""

    exit: int | None = None
    failure: str | None = None
    by: str | None = None


@dataclass(frozen=True)
class Edit:
    """One edit of one file of evidence; of several that its pattern matches, each is edited.

    ``path`` leads to the value that becomes ``value`` (none: null) or is taken away (``remove``),
    or to the list that ``add`` is appended to; a key may be a pattern, an element of a list is told
    by its index or its name. A job's record takes ``ended``, a text file the lines ``append``.
    """

    file: str
    path: Path_ = ()
    value: Any = None
    add: Any = None
    #: Take away what is at the path.
    remove: bool = False
    ended: End | None = None
    append: str = ""

    def apply(self, folder: Path) -> None:
        """Edit the files in place.

        Raises:
            BadInput: no file matches, or it holds no such value.
        """
        paths = sorted(folder.glob(self.file))
        if not paths:
            raise BadInput(f"edit of {self.file}: no such file in the evidence")
        for path in paths:
            data = path.read_bytes()
            if self.append:
                path.write_bytes(data + self.append.encode())
                continue
            name = path.relative_to(folder).as_posix()
            before = decode(name, data)
            try:
                after = self._after(before)
            except (KeyError, IndexError, TypeError, AttributeError) as error:
                raise BadInput(f"edit of {self.file}, {self.path}: {error!r}") from None
            if after == before:
                raise BadInput(f"edit of {self.file}, {self.path}: changes nothing")
            path.write_bytes(encode(name, after))

    def _after(self, document: Any) -> Any:
        return agreed(self._edited(document))

    def _edited(self, document: Any) -> Any:
        if self.ended:
            return put(document, ended(self.ended.exit, self.ended.failure, self.ended.by))
        if self.remove:
            return without(document, self.path)
        if self.add is not None:
            return put(document, {self.path: [*get(document, self.path), self.add]})
        return put(document, {self.path: self.value})


def without(value: Any, path: Path_) -> Any:
    """A JSON document less what is at a path.

    Raises:
        KeyError: there is nothing.
    """
    first, *rest = path
    inner = value[first]
    if rest:
        inner = without(inner, tuple(rest))
        if isinstance(value, list):
            return [inner if n == first else v for n, v in enumerate(value)]
        return {**value, first: inner}
    if isinstance(value, list):
        return [v for n, v in enumerate(value) if n != first]
    return {k: v for k, v in value.items() if k != first}


def decode(name: str, data: bytes) -> Any:
    """A file of evidence as a JSON value; of the commands, each by its text."""
    if name != COMMANDS:
        return msgspec.json.decode(data)
    commands = (msgspec.json.decode(line) for line in data.splitlines())
    return {command["command"]: command for command in commands}


def encode(name: str, value: Any) -> bytes:
    """The bytes of a file of evidence."""
    lines = value.values() if name == COMMANDS else (value,)
    return b"\n".join(msgspec.json.encode(line) for line in lines)


def get(value: Any, path: Path_) -> Any:
    """The first value at a path."""
    for step in path:
        if isinstance(value, list):
            value = next(v for n, v in enumerate(value) if _is(v, step, n))
        else:
            value = value[next(iter(fnmatch.filter(value, str(step))), step)]
    return value


def put(value: Any, changes: Mapping[Path_, Any]) -> Any:
    """A JSON document with other values at some paths; a key may be a pattern of one that is
    there, an index that of an element's name, path or module.
    """
    for path, new in changes.items():
        value = _put(value, path, new)
    return value


def _put(value: Any, path: Path_, new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, list):
        return [_put(v, tuple(rest), new) if _is(v, first, n) else v for n, v in enumerate(value)]
    keys = fnmatch.filter(value, str(first)) or [first]
    return {**value, **{key: _put(value.get(key), tuple(rest), new) for key in keys}}


def _is(element: Any, wanted: str | int, number: int) -> bool:
    """Whether an element of a list is the one at an index, or of a name, path or module."""
    if isinstance(wanted, int):
        return number == wanted
    names = (element.get(key, "") for key in ("name", "path", "module"))
    return any(fnmatch.fnmatchcase(name, wanted) for name in names)


def agreed(document: Any) -> Any:
    """A job's record whose only attempt tells what an edit made of the job; all else as it is."""
    if not isinstance(document, dict) or len(document.get("attempts") or ()) != 1:
        return document
    training = (document.get("phases") or {}).get("Training", 0.0)
    lines = document.get("log")
    told = {
        **{name: document.get(name) for name in ("exit", "oom", "ended_by", "started")},
        "lines": len(lines) if isinstance(lines, list) else 0,
        "seconds": training,
    }
    return {**document, "attempts": [{**document["attempts"][0], **told}]}


def ended(
    exit_code: int | None, failure: str | None, ended_by: str | None = None
) -> dict[Path_, Any]:
    """How a job ended, told alike by all fields of its record."""
    end = ending(exit_code, ended_by, failure)
    return {
        ("exit",): exit_code,
        ("failure",): failure,
        ("ended_by",): ended_by,
        ("status",): end.status,
        ("secondary_status",): end.secondary,
        ("failure_reason",): end.reason,
    }
