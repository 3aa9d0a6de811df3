"""The files of a bundle, bounded: what is large is read at both ends, what is not read is said."""

from __future__ import annotations

import functools
import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from splatgate.evidence import BadInput

#: Of one file, bytes read from its beginning and from its end: a log has no bound.
HEAD, TAIL = 2 << 20, 6 << 20
#: Of a whole bundle: bytes kept, bytes unpacked to find them, and files.
KEPT, UNPACKED, FILES = 24 << 20, 1 << 30, 2_000
_STEP = 1 << 20
#: What an archive raises that is cut short or damaged.
_BROKEN = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error)
_REFUSED = (RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class File:
    """One file: its beginning and, where it was too long to read whole, its end."""

    name: str
    head: bytes
    tail: bytes = b""


def files(path: Path, unread: Callable[[str], None]) -> Iterator[File]:
    """Each file of a folder, an archive or of one file; ``unread`` is told what is not read.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such bundle")
    budget = [KEPT, UNPACKED]
    try:
        members = _members(path, unread, budget)
        for count, (name, size, opened) in enumerate(members):
            if count >= FILES or budget[0] <= 0 or budget[1] <= 0:
                unread(f"{name} and what follows: the bundle is larger than diagnose reads")
                return
            try:
                with opened() as stream:
                    file = _ends(name, size, stream, budget)
            except (*_BROKEN, *_REFUSED) as error:
                unread(f"{name}: {error}")
                continue
            if file.tail or (size or 0) > len(file.head):
                unread(f"{name}: read at both ends only, {len(file.head) + len(file.tail)} bytes")
            yield file
    except (*_BROKEN, *_REFUSED) as error:
        raise BadInput(f"{path}: {error}; send the bundle again") from None


_Member = tuple[str, int | None, Callable[[], IO[bytes]]]


def _members(path: Path, unread: Callable[[str], None], budget: list[int]) -> Iterator[_Member]:
    """Name, size and how to open each file."""
    if path.is_dir():
        for entry in sorted(path.rglob("*")):
            name = str(PurePosixPath(entry.relative_to(path)))
            if entry.is_symlink():
                unread(f"{name}: a link, not followed")
            elif entry.is_file() and name.endswith(".gz") and not name.endswith(".tar.gz"):
                # What CloudWatch Logs exports to S3.
                yield name, None, functools.partial(_unpacked, entry)
            elif entry.is_file():
                yield name, entry.stat().st_size, functools.partial(_opened, entry)
            elif not entry.is_dir():
                unread(f"{name}: no ordinary file")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size, functools.partial(archive.open, info)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                # Going to the next member unpacks the rest of this one.
                budget[1] -= member.size
                if member.isfile() and budget[1] > 0:
                    handle = tar.extractfile(member)
                    if handle is not None:
                        yield member.name, member.size, functools.partial(_itself, handle)
                elif not member.isdir():
                    unread(f"{member.name}: no ordinary file, or larger than diagnose unpacks")
                if budget[1] <= 0:
                    return
    elif path.suffix == ".gz":
        yield path.stem, None, functools.partial(_unpacked, path)
    else:
        yield path.name, path.stat().st_size, functools.partial(_opened, path)


def _itself(stream: IO[bytes]) -> IO[bytes]:
    return stream


def _opened(path: Path) -> IO[bytes]:
    return path.open("rb")


def _unpacked(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path))


def _ends(name: str, size: int | None, stream: IO[bytes], budget: list[int]) -> File:
    """Both ends of a stream, by a jump where it can jump and else by reading through it."""
    head = stream.read(min(HEAD, budget[0]))
    tail = b""
    if isinstance(getattr(stream, "raw", None), io.FileIO):
        if size and size > len(head):
            stream.seek(max(len(head), size - TAIL))
            tail = stream.read(max(0, min(TAIL, budget[0] - len(head))))
    else:
        while budget[1] > 0 and (block := stream.read(_STEP)):
            tail = (tail + block)[-TAIL:]
            budget[1] -= len(block)
    if not tail or len(head) + len(tail) == size:
        head, tail = head + tail, b""
    budget[0] -= len(head) + len(tail)
    return File(name, head, tail)
