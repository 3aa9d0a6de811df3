"""Looks into every layer of an image by itself: a file that a later layer removed is still there.

The engine exports the image as one stream, gigabytes of it; what a layer holds is therefore kept by
the layer's digest, and the stream is read only for layers that were never seen.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from splatgate.container.probe import walk
from splatgate.evidence import LayerFiles, Leftover, LeftoverKind, read, write

#: Kinds that a later layer cannot take back.
KEPT = (LeftoverKind.CREDENTIALS, LeftoverKind.GIT)
CHUNK = 1 << 20


class _Stream:
    """A reader over chunks of bytes that hashes what it gives."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.chunk, self.at = b"", 0
        self.hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0:
            if self.at == len(self.chunk):
                self.chunk, self.at = next(self.chunks, b""), 0
                if not self.chunk:
                    break
            part = self.chunk[self.at : self.at + size]
            self.at += len(part)
            size -= len(part)
            parts.append(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.hash.update(data)
        return data


def scan(
    export: Callable[[], Iterator[bytes]],
    digests: Sequence[str],
    cache: Path,
    say: Callable[[str], None],
) -> tuple[LayerFiles, ...]:
    """What each layer of an image holds.

    Args:
        export: gives the image as `docker save` writes it, in chunks; called only if needed.
        digests: the layers, as the image's configuration names them (RootFS).
        cache: a folder of what is known of layers.
        say: progress, for gigabytes.
    """
    if not known(digests, cache):
        say("layers: reading every layer once (about a minute)")
        for layer in layers(export()):
            if layer.digest in digests:
                write(_place(cache, layer.digest), layer)
    return tuple(
        read(_place(cache, digest), LayerFiles) for digest in digests if known([digest], cache)
    )


def known(digests: Sequence[str], cache: Path) -> bool:
    """Whether all layers were seen before."""
    return all(_place(cache, digest).exists() for digest in digests)


def _place(cache: Path, digest: str) -> Path:
    return cache / f"{digest.replace(':', '-')}.json"


def layers(chunks: Iterator[bytes]) -> Iterator[LayerFiles]:
    """Each layer of an exported image, in the order of the stream."""
    with tarfile.open(fileobj=_Stream(chunks), mode="r|", bufsize=CHUNK) as outer:  # type: ignore[call-overload]
        for member in outer:
            content = outer.extractfile(member) if member.isfile() else None
            if content is not None and (found := layer(content)) is not None:
                yield found


def layer(content: IO[bytes]) -> LayerFiles | None:
    """One layer; None for a file of the export that is none (a manifest, a configuration)."""
    stream = _Stream(iter(lambda: content.read(CHUNK), b""))
    files, found = 0, []
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as inner:  # type: ignore[call-overload]
            for member in inner:
                files += 1
                if kind := _kind(inner, member):
                    found.append(Leftover(_path(member), LeftoverKind(kind), member.size))
    except tarfile.ReadError:
        return None
    while stream.read(CHUNK):
        pass  # what follows the archive's end belongs to the layer's digest
    kept = tuple(x for x in found if x.kind in KEPT)
    return LayerFiles(f"sha256:{stream.hash.hexdigest()}", files, kept)


def _kind(inner: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    def text(path: str, limit: int) -> str | None:
        content = inner.extractfile(member)
        return content.read(limit).decode(errors="replace") if content else None

    mode: Any = member.mode | (0o040000 if member.isdir() else 0o100000 if member.isfile() else 0)
    path = _path(member)
    look: Callable[..., str | None] = walk.kind_of
    return look(path, path.rpartition("/")[2], mode, text)


def _path(member: tarfile.TarInfo) -> str:
    return "/" + member.name.removeprefix("./").strip("/")
