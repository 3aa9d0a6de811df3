"""Records as files: JSON that is read whole or refused, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


class BadInput(Exception):
    """Something handed to Splatgate is unusable. The message is one line: what, where, how to mend
    it.
    """


def to_json(record: object) -> bytes:
    """Encode a record as indented JSON with sorted keys, so that equal records are equal bytes."""
    return msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=1) + b"\n"


def from_json(data: bytes, kind: type[T], where: str) -> T:
    """Decode ``data`` as a record of type ``kind``.

    Raises:
        BadInput: the JSON is broken or does not fit; names ``where`` and the field.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{where}: not a {kind.__name__} record: {error}; record it anew") from None


def read(path: Path, kind: type[T]) -> T:
    """Read one record from a file.

    Raises:
        BadInput: the file is missing or does not fit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; is this a folder of evidence?") from None
    return from_json(data, kind, str(path))


def write(path: Path, record: object) -> None:
    """Write one record whole or not at all: temporary file beside it, fsync, rename."""
    write_bytes(path, to_json(record))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        BadInput: the folder or the disk does not take it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise BadInput(unwritable(error, path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise BadInput(unwritable(error, path)) from None
        raise


def unwritable(error: OSError, path: Path | None = None) -> str:
    """One line for a file that cannot be written or read: which, why, and how to mend it."""
    where = path or error.filename
    mend = {
        errno.ENOSPC: "free some disk space",
        errno.EDQUOT: "free some of your quota",
        errno.EROFS: "write to a folder that is not read-only",
        errno.EACCES: "write to a folder of your own",
        errno.EEXIST: "a file is in the folder's place; give another folder",
        errno.ENOTDIR: "a file is in the folder's place; give another folder",
    }.get(error.errno or 0, "look at the file and its disk")
    why = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{f'{where}: ' if where else ''}{why}; {mend}"
