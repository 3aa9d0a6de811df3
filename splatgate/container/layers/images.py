"""Opens an image without an engine: an archive of `docker save`, or an OCI layout in a folder or an
archive.

Sources: OCI image-spec, image-layout.md, manifest.md, image-index.md, config.md; Moby,
image/spec/v1.2.md ("Combined Image JSON + Filesystem Changeset Format").
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from splatgate.container.layers.entries import (
    CHUNK,
    Entry,
    LayerContent,
    Readable,
    Reader,
    archive,
    members,
    plain,
    read_layer,
)
from splatgate.evidence import BadInput, Image, Layer, write_bytes

#: No manifest, index or configuration is larger.
MOST_JSON = 16 << 20
#: Written with every layer kept; another number is read anew.
FORMAT = 1
MEND = "save it again: docker save IMAGE -o FILE"


@dataclass(frozen=True)
class Opened:
    """An image whose configuration was read and whose layers can be."""

    ref: str
    config: bytes
    manifest_digest: str | None
    #: Opens each layer, compressed or not, from the base up.
    blobs: tuple[Callable[[], AbstractContextManager[Readable]], ...]

    @property
    def document(self) -> dict[str, Any]:
        """The configuration.

        Raises:
            BadInput: it is none.
        """
        return _object(self.config, f"{self.ref}: its configuration")

    @property
    def digests(self) -> tuple[str, ...]:
        """The layers, by the digest of what they hold."""
        found = (self.document.get("rootfs") or {}).get("diff_ids") or ()
        return tuple(str(digest) for digest in found)


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{what} is no JSON object; {MEND}")
    return found


class _Files:
    """The files of an archive or a folder, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, tarfile.TarInfo] = {}
        if path.is_dir():
            return
        try:
            self.tar = tarfile.open(path, "r:*")  # noqa: SIM115
            self.members = {m.name.removeprefix("./"): m for m in self.tar}
        except (tarfile.TarError, OSError, EOFError) as error:
            first = str(error).partition("\n")[0].rstrip(":")
            raise BadInput(f"{path}: no archive that can be read: {first}; {MEND}") from None

    def open(self, name: str) -> IO[bytes] | None:
        """A file, or None; inside the folder or archive alone."""
        if self.path.is_dir():
            place = (self.path / name).resolve()
            inside = place.is_relative_to(self.path.resolve())
            return place.open("rb") if inside and place.is_file() else None
        member = self.members.get(name)
        # Layers that are alike are links in older archives; tarfile follows them.
        try:
            return self.tar.extractfile(member) if member is not None else None
        except (tarfile.TarError, KeyError):
            return None

    def json(self, name: str) -> Any:
        """A JSON file, or None."""
        data = self.small(name)
        try:
            return json.loads(data) if data is not None else None
        except ValueError:
            raise BadInput(f"{self.path}: {name} is no JSON; {MEND}") from None

    def small(self, name: str) -> bytes | None:
        """A small file, or None."""
        file = self.open(name)
        if file is None:
            return None
        with file:
            data = file.read(MOST_JSON + 1)
        if len(data) > MOST_JSON:
            raise BadInput(f"{self.path}: {name} is larger than {MOST_JSON} bytes; {MEND}")
        return data

    def need(self, name: str) -> IO[bytes]:
        """A file that must be there.

        Raises:
            BadInput: it is not.
        """
        file = self.open(name)
        if file is None:
            raise BadInput(f"{self.path}: no {name} in it, which its manifest names; {MEND}")
        return file


def is_image(path: Path) -> bool:
    """Whether a path names something to open here, in place of an image in an engine."""
    return path.is_file() or (path.is_dir() and (path / "index.json").exists())


def open_image(path: Path, say: Callable[[str], None] = lambda line: None) -> Opened:
    """Open an image that lies in a file or folder.

    Raises:
        BadInput: there is none, or more than one.
    """
    files = _Files(path)
    listed = files.json("manifest.json")
    if isinstance(listed, list):
        if len(listed) != 1 or not isinstance(listed[0], dict):
            names = ", ".join(str((e or {}).get("RepoTags")) for e in listed) or "none"
            raise BadInput(f"{path}: holds {len(listed)} images ({names}); save one by itself")
        config = files.small(str(listed[0].get("Config")))
        layers = [str(name) for name in listed[0].get("Layers") or ()]
        if config is None:
            raise BadInput(f"{path}: no configuration in it; {MEND}")
        return Opened(str(path), config, None, _blobs(files, layers))
    index = files.json("index.json")
    if not isinstance(index, dict):
        raise BadInput(f"{path}: neither manifest.json nor index.json in it; {MEND}")
    digest, manifest = _manifest(files, index, say)
    config = files.small(_blob((manifest.get("config") or {}).get("digest")))
    if config is None:
        raise BadInput(f"{path}: no configuration in it; {MEND}")
    layers = [_blob(layer.get("digest")) for layer in manifest.get("layers") or ()]
    return Opened(str(path), config, digest, _blobs(files, layers))


def _blobs(files: _Files, names: Sequence[str]) -> tuple[Callable[[], IO[bytes]], ...]:
    return tuple(lambda name=name: files.need(name) for name in names)


def _blob(digest: object) -> str:
    kind, _, value = str(digest).partition(":")
    return f"blobs/{kind}/{value}"


def _manifest(
    files: _Files, index: dict[str, Any], say: Callable[[str], None], depth: int = 0
) -> tuple[str, dict[str, Any]]:
    """The manifest of an index for linux/amd64, byte for byte the one that the index names."""
    entry = choose(index, str(files.path), say)
    digest = str(entry.get("digest"))
    data = files.small(_blob(digest))
    if data is None or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise BadInput(f"{files.path}: {digest} is not there, or another than that; {MEND}")
    found = _object(data, f"{files.path}: {digest}")
    if "manifests" in found:
        if depth > 2:
            raise BadInput(f"{files.path}: an index in an index in an index; {MEND}")
        return _manifest(files, found, say, depth + 1)
    return digest, found


def choose(index: dict[str, Any], where: str, say: Callable[[str], None]) -> dict[str, Any]:
    """The entry of an index for linux/amd64; the only one, whatever it is for.

    Raises:
        BadInput: there is none, or more than one.
    """
    listed = [e for e in index.get("manifests") or () if isinstance(e, dict)]
    entries = [e for e in listed if _platform(e) != "unknown/unknown"]
    if len(entries) > 1:
        names = ", ".join(_platform(e) for e in entries)
        entries = [e for e in entries if _platform(e) == "linux/amd64"]
        say(f"{where}: images for {names}; taking linux/amd64")
    if len(entries) != 1:
        raise BadInput(f"{where}: {len(entries)} images for linux/amd64 in it; give one")
    return entries[0]


def _platform(entry: dict[str, Any]) -> str:
    platform = entry.get("platform") or {}
    return f"{platform.get('os')}/{platform.get('architecture')}"


def read_layers(
    opened: Opened, cache: Path, say: Callable[[str], None]
) -> tuple[LayerContent, ...]:
    """Every layer of an image, each read once and kept by its digest.

    Raises:
        BadInput: a layer is missing, damaged, or another than the configuration names.
    """
    digests = opened.digests
    if len(digests) != len(opened.blobs):
        raise BadInput(
            f"{opened.ref}: {len(opened.blobs)} layers, its configuration names {len(digests)}; "
            f"{MEND}"
        )
    found = []
    for number, (digest, blob) in enumerate(zip(digests, opened.blobs, strict=True), 1):
        layer = kept(cache, digest)
        if layer is None:
            say(f"layers: reading {number} of {len(digests)}")
            with blob() as file:
                layer = read_layer(plain(file))
            if layer.digest != digest:
                raise BadInput(
                    f"{opened.ref}: layer {number} is {layer.digest}, its configuration says "
                    f"{digest}; {MEND}"
                )
            keep(cache, layer)
        found.append(layer)
    return tuple(found)


def read_export(
    export: Callable[[], Iterator[bytes]],
    digests: Sequence[str],
    cache: Path,
    say: Callable[[str], None],
) -> tuple[LayerContent, ...]:
    """Every layer of an image in an engine, from its export as one stream; only where one of them
    was never read.

    Args:
        export: gives the image as `docker save` writes it, in chunks.
        digests: the layers, as the image's configuration names them (RootFS).
        cache: a folder of layers that were read.
        say: progress, for gigabytes.

    Raises:
        BadInput: the export lacks a layer.
    """
    if any(kept(cache, digest) is None for digest in digests):
        say("layers: reading every layer once (about a minute)")
        with archive(Reader(export())) as outer:
            for member in members(outer):
                file = outer.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                start = file.read(512)
                if is_layer(start):
                    layer = read_layer(plain(_Joined(start, file)))
                    if layer.digest in digests:
                        keep(cache, layer)
    found = [kept(cache, digest) for digest in digests]
    if missing := [d for d, layer in zip(digests, found, strict=True) if layer is None]:
        raise BadInput(f"the engine's export lacks layer {missing[0]}; pull the image again")
    return tuple(layer for layer in found if layer is not None)


class _Joined:
    """A file whose start was read."""

    def __init__(self, start: bytes, file: IO[bytes]) -> None:
        self.start, self.file = start, file

    def read(self, size: int = CHUNK) -> bytes:
        data, self.start = self.start[:size], self.start[size:]
        return data or self.file.read(size)


def is_layer(start: bytes) -> bool:
    """Whether a file of an export is a layer, by how it begins; the others are JSON."""
    packed = start[:2] == b"\x1f\x8b" or start[:4] == b"\x28\xb5\x2f\xfd"
    return packed or start[257:262] == b"ustar" or (len(start) == 512 and not any(start))


def _place(cache: Path, digest: str) -> Path:
    return cache / f"{digest.replace(':', '-')}.v{FORMAT}"


def keep(cache: Path, layer: LayerContent) -> None:
    """Keep what a layer holds, by its digest."""
    write_bytes(_place(cache, layer.digest), msgspec.msgpack.encode(layer))


def kept(cache: Path, digest: str) -> LayerContent | None:
    """A layer that was read before, or None."""
    try:
        data = _place(cache, digest).read_bytes()
        return msgspec.msgpack.decode(data, type=LayerContent)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def image_of(opened: Opened, layers: Sequence[LayerContent]) -> Image:
    """An image as its own configuration describes it."""
    document = opened.document
    config = document.get("config") or {}
    sizes = iter([_bytes(layer.entries) for layer in layers])
    history = document.get("history") or ()
    return Image(
        ref=opened.ref,
        image_id=f"sha256:{hashlib.sha256(opened.config).hexdigest()}",
        manifest_digest=opened.manifest_digest,
        os=str(document.get("os") or ""),
        architecture=str(document.get("architecture") or ""),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        cmd=tuple(config.get("Cmd") or ()),
        env=dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
        user=config.get("User") or "",
        workdir=config.get("WorkingDir") or "/",
        labels=config.get("Labels") or {},
        bytes=sum(_bytes(layer.entries) for layer in layers),
        digests=opened.digests,
        layers=tuple(
            Layer(
                created_by=str(step.get("created_by") or ""),
                bytes=0 if step.get("empty_layer") else next(sizes, 0),
            )
            for step in history
        ),
    )


def _bytes(entries: Sequence[Entry]) -> int:
    return sum(entry.size for entry in entries)
