"""Reads what a job has left: its files, and what it changed outside its mounts."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from splatgate.evidence import Member
from splatgate.sagemaker.resources import CARRIER_ROOT, ML, HostFailed, Stage

CHUNK = 1024 * 1024
#: No trainer needs more for a sentence; a larger file is cut.
FAILURE_LIMIT = 1024 * 1024
#: Names below /opt/ml/output that the service itself gives a meaning (contract 2.1).
OUTPUT_NAMES = frozenset(
    ["data", "failure", "success", "tensors", "tensorboard", "metrics", "profiler", "intermediate"]
)
#: Files that NVIDIA's container runtime mounts into a container that was given a GPU; the subject
#: did not write them.
_DRIVER = re.compile(
    r"/usr/bin/nvidia-|/(usr/)?lib(64)?/.*/?lib(nvidia|cuda|vdpau|nvcuvid|nvoptix|EGL_nvidia|GL)[^/]*\.so"
    r"|/(usr/)?lib/firmware/nvidia|/run/nvidia|/etc/(vulkan|OpenCL|ld\.so\.c)|/usr/share/(nvidia|glvnd|egl)"
)


class _Stream:
    """An archive from the engine as a file to read from; raises when the time is up."""

    def __init__(self, chunks: Iterator[bytes], until: float) -> None:
        self._chunks, self._until, self._rest = chunks, until, b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            if time.monotonic() > self._until:
                raise HostFailed("the job's files were not read in time", "raise the deadline")
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


@dataclass
class Files:
    """What the job's volumes hold after its end."""

    model: list[Member] = field(default_factory=list)
    output: list[Member] = field(default_factory=list)
    checkpoints: list[Member] = field(default_factory=list)
    failure: str | None = None
    #: Paths below /opt/ml that the contract does not name.
    strays: list[str] = field(default_factory=list)


def read_files(
    stage: Stage, config: dict[str, bytes], folder: Path, keep: frozenset[str], until: float
) -> Files:
    """Read the job's volumes through the carrier, in one pass, and unpack what is kept.

    The model is always unpacked to ``model/`` (regular files only; links and devices are listed and
    not followed). ``keep`` may name ``archive`` (model.tar.gz as SageMaker packs it), ``output``
    and ``checkpoints``.
    """
    files = Files()
    with contextlib.ExitStack() as stack:
        pack = None
        if "archive" in keep:
            (folder / "model").mkdir(parents=True, exist_ok=True)
            pack = stack.enter_context(
                tarfile.open(folder / "model.tar.gz", "w:gz", compresslevel=6)
            )
        links = stage.assumed.pack_links
        route = _Router(files, stage.checkpoint_folder, config, folder, keep, pack, links)
        _each(stage.carrier, "ml", until, route.take)
        if stage.checkpoint_folder == "checkpoints":
            _each(stage.carrier, "checkpoints", until, route.take)
    for members in (files.model, files.output, files.checkpoints):
        members.sort(key=lambda member: member.path)
    files.strays.sort()
    return files


def _each(
    container: Any,
    path: str,
    until: float,
    take: Callable[[tarfile.TarFile, tarfile.TarInfo], None],
) -> None:
    chunks, _ = container.get_archive(f"{CARRIER_ROOT}/{path}", chunk_size=CHUNK)
    stream = cast(BinaryIO, _Stream(iter(chunks), until))
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            take(tar, entry)


class _Router:
    """Sends each entry of the archive where it belongs."""

    def __init__(
        self,
        files: Files,
        checkpoints: str,
        config: dict[str, bytes],
        folder: Path,
        keep: frozenset[str],
        pack: tarfile.TarFile | None,
        links: bool = True,
    ) -> None:
        self.links = links
        self.files, self.config, self.folder, self.keep, self.pack = (
            files,
            config,
            folder,
            keep,
            pack,
        )
        self.checkpoints = checkpoints
        self._seen: dict[str, Member] = {}

    def take(self, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        path = str(PurePosixPath(entry.name))
        if entry.isdir():
            return
        if (rest := _below(path, self.checkpoints)) is not None:
            into = self.folder / "checkpoints" if "checkpoints" in self.keep else None
            self.files.checkpoints.append(self._member(tar, entry, rest, into))
        elif (rest := _below(path, "ml/model")) is not None:
            member = self._member(tar, entry, rest, self.folder / "model", self.pack)
            self.files.model.append(member)
        elif (rest := _below(path, "ml/output/data")) is not None:
            into = self.folder / "output" if "output" in self.keep else None
            self.files.output.append(self._member(tar, entry, rest, into))
        elif path == "ml/output/failure" and entry.isreg():
            data = _read(tar, entry, FAILURE_LIMIT)
            self.files.failure = data.decode("utf-8", "replace")
        elif not self._known(tar, entry, path):
            self.files.strays.append(_text(f"{ML}{path[2:]}"))

    def _known(self, tar: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> bool:
        """Whether the host itself put an entry there, or the contract has a place for it."""
        name = path.removeprefix("ml/")
        if name in self.config:
            return entry.isreg() and _read(tar, entry, FAILURE_LIMIT) == self.config[name]
        parts = name.split("/")
        return parts[0] == "output" and len(parts) > 1 and parts[1] in OUTPUT_NAMES

    def _member(
        self,
        tar: tarfile.TarFile,
        entry: tarfile.TarInfo,
        path: str,
        into: Path | None,
        pack: tarfile.TarFile | None = None,
    ) -> Member:
        name = _text(path)
        target = _safe(into, name)
        # Engines put the kind of file into the mode as well.
        entry.mode &= 0o7777
        if entry.isreg():
            size, digest = _save(tar, entry, target)
            member = Member(name, size, digest, "file", entry.mode)
        else:
            member = Member(name, 0, "", kind_of(entry), entry.mode)
            first = self._seen.get(str(PurePosixPath(entry.linkname))) if entry.islnk() else None
            if first is not None:
                member = Member(name, first.bytes, first.sha256, "link", entry.mode)
                source = _safe(into, first.path)
                if target and source and source.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
        self._seen[str(PurePosixPath(entry.name))] = member
        if pack is not None and (self.links or entry.isreg()):
            _pack(pack, entry, path, target)
        return member


def _pack(pack: tarfile.TarFile, entry: tarfile.TarInfo, path: str, saved: Path | None) -> None:
    """Add one entry to model.tar.gz at the archive's root (contract 2.5)."""
    entry.name = path
    entry.linkname = entry.linkname.removeprefix("ml/model/") if entry.islnk() else entry.linkname
    entry.pax_headers = {}
    if entry.isreg() and saved is not None:
        entry.type, entry.size = tarfile.REGTYPE, saved.stat().st_size
        with saved.open("rb") as file:
            pack.addfile(entry, file)
    elif not entry.isreg():
        pack.addfile(entry)


def kind_of(entry: tarfile.TarInfo) -> str:
    """Kind of an archive entry, in ``Member``'s words."""
    if entry.issym():
        return "symlink"
    if entry.islnk():
        return "link"
    if entry.isfifo():
        return "fifo"
    return "device" if entry.isdev() else "file"


def _below(path: str, folder: str) -> str | None:
    if path == folder:
        return "."  # the folder itself became a link or a file
    return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else None


def _text(path: str) -> str:
    r"""A file's name as text that JSON can hold: bytes that are not UTF-8 become ``\xNN``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _safe(into: Path | None, name: str) -> Path | None:
    """Where an entry goes on this machine; None for a name that would leave the folder."""
    parts = PurePosixPath(name).parts
    if into is None or not parts or ".." in parts or name.startswith("/") or "\0" in name:
        return None
    return into.joinpath(*parts)


def _save(tar: tarfile.TarFile, entry: tarfile.TarInfo, target: Path | None) -> tuple[int, str]:
    source = tar.extractfile(entry)
    digest, size = hashlib.sha256(), 0
    with contextlib.ExitStack() as stack:
        sink = None
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            sink = stack.enter_context(target.open("wb"))
        while source is not None and (data := source.read(CHUNK)):
            digest.update(data)
            size += len(data)
            if sink is not None:
                sink.write(data)
    return size, digest.hexdigest()


def _read(tar: tarfile.TarFile, entry: tarfile.TarInfo, limit: int) -> bytes:
    source = tar.extractfile(entry)
    return source.read(limit) if source is not None else b""


def outside(changes: Iterable[str], mounts: Iterable[str], *, gpu: bool = False) -> list[str]:
    """Paths that the job changed in the image's own file system, from the engine's list of changes.

    Without folders that are there only because something below them changed, and without the mount
    points. With ``gpu``, without the driver's files, which the GPU runtime mounts.
    """
    paths = sorted({path for path in changes if not (gpu and _DRIVER.match(path))})
    parents = {str(parent) for path in (*paths, *mounts) for parent in PurePosixPath(path).parents}
    mounted = set(mounts)
    return [path for path in paths if path not in parents and path not in mounted]
