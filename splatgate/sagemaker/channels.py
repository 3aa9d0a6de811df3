"""Input channels: hashing a folder, and sending it to the engine as a tar of root-owned files."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from splatgate.evidence import BadInput

CHUNK = 1024 * 1024


def files_below(root: Path) -> list[tuple[str, Path]]:
    """List a channel's files as (relative path with ``/``, path), sorted by the former's bytes.

    Links are followed, for S3 knows none; a single file is its own channel. Empty directories do
    not count, for S3 knows none of those either.

    Raises:
        BadInput: nothing there, a dangling link, a loop, or something that is not a file.
    """
    if root.is_file():
        return [(root.name, root)]
    if not root.is_dir():
        raise BadInput(
            f"{root}: no such file or folder; give the folder that holds the channel's data"
        )
    found: list[tuple[str, Path]] = []
    open_folders: list[tuple[Path, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while open_folders:
        folder, prefix, above = open_folders.pop()
        try:
            status = folder.stat()
            entries = list(os.scandir(folder))
        except OSError as error:
            raise BadInput(f"{folder}: {error.strerror}; the channel must be readable") from None
        mark = (status.st_dev, status.st_ino)
        if mark in above:
            raise BadInput(f"{folder}: a link to a folder above it; remove it from the channel")
        for entry in entries:
            path = Path(entry.path)
            if path.is_dir():
                open_folders.append((path, f"{prefix}{entry.name}/", above | {mark}))
            elif path.is_file():
                found.append((prefix + entry.name, path))
            else:
                raise BadInput(f"{path}: a dangling link or no regular file; S3 cannot hold it")
    return sorted(found, key=lambda item: os.fsencode(item[0]))


def tree_hash(path: Path) -> str:
    """Content hash (sha256, hex) of a folder or file: its sorted relative paths and their content.

    Raises:
        BadInput: as ``files_below``.
    """
    total = hashlib.sha256()
    for name, file in files_below(path):
        raw = os.fsencode(name)
        total.update(len(raw).to_bytes(4, "big") + raw)
        try:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise BadInput(f"{file}: {error.strerror}; the channel must be readable") from None
    return total.hexdigest()


def tar_of(
    folders: Iterable[str],
    texts: Mapping[str, bytes],
    trees: Mapping[str, Path],
    mode: int = 0o755,
) -> Iterator[bytes]:
    """Stream a tar of root-owned folders (``mode``) and files (0644), for the engine's archive API.

    ``texts`` maps paths to content, ``trees`` maps a path prefix ("" or ``a/b``) to a folder on
    this machine. Nothing is held in memory but one chunk.

    Raises:
        BadInput: a file cannot be read or changes its size meanwhile.
    """
    made: set[str] = set()

    def folder(path: str) -> Iterator[bytes]:
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            if name and name not in made:
                made.add(name)
                yield _header(name, 0, tarfile.DIRTYPE, mode)

    for path in folders:
        yield from folder(path)
    for path, data in texts.items():
        yield from folder(path.rpartition("/")[0])
        yield _header(path, len(data)) + data + _padding(len(data))
    for prefix, root in trees.items():
        for name, file in files_below(root):
            path = f"{prefix}/{name}" if prefix else name
            yield from folder(path.rpartition("/")[0])
            yield from _content(path, file)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(path: str, size: int, kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _content(path: str, file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            yield _header(path, size)
            left = size
            while left:
                data = stream.read(min(CHUNK, left))
                if not data:
                    raise BadInput(
                        f"{file}: shrank while it was read; let nothing write to the channel"
                    )
                left -= len(data)
                yield data
            yield _padding(size)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}; the channel must be readable") from None


def relative_paths(keys: Iterable[str], prefix: str) -> dict[str, str]:
    """Where the objects of an S3Prefix source land below the channel: object key to relative path.

    The prefix is text, not a folder: ``scenes/scene1`` also takes ``scenes/scene10/a`` (contract
    2.4). What follows the prefix is the path; a prefix that is one whole object gives its last part
    (contract: unverified). Keys that end in ``/`` are consoles' folder marks and make no file.
    """
    found = {}
    for key in keys:
        if key.startswith(prefix) and not key.endswith("/"):
            rest = key[len(prefix) :].lstrip("/")
            found[key] = rest or key.rpartition("/")[2]
    return found


def manifest_paths(text: str, where: str = "manifest") -> dict[str, str]:
    """Where the objects of a ManifestFile source land: object URI to relative path.

    A JSON array: first ``{"prefix": "s3://bucket/p/"}``, then suffixes (contract 2.4).

    Raises:
        BadInput: not that shape, or a suffix that leaves the channel.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON: {str(error).splitlines()[0]}") from None
    first = document[0] if isinstance(document, list) and document else None
    prefix = first.get("prefix") if isinstance(first, dict) else None
    if not isinstance(prefix, str) or not prefix.startswith("s3://"):
        raise BadInput(f'{where}: does not begin with [{{"prefix": "s3://bucket/folder/"}}, …]')
    found = {}
    for suffix in document[1:]:
        if not isinstance(suffix, str) or not suffix or ".." in suffix.split("/"):
            raise BadInput(f"{where}: {json.dumps(suffix)[:60]} is not the end of an object's key")
        found[prefix + suffix] = suffix.lstrip("/")
    return found
