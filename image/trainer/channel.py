"""Finding the scene in the input channel, unpacking it first if it came as one archive."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from trainer import log
from trainer.errors import TrainerError

MODEL = ("cameras", "images", "points3D")
#: A channel of so few files may be an archive and what describes it: no model has fewer than three
#: files and three photographs.
_FEW = 5
_MAX_MEMBERS = 200_000
#: A scene of 500 photographs of 20 MP is some 10 GB; JPEG does not deflate, so nothing honest
#: grows a hundredfold.
_MAX_BYTES = 200 * 2**30
_MAX_RATIO = 100


@dataclass(frozen=True)
class Layout:
    """Where a scene's parts lie: the COLMAP model's folder, and the photographs' folder.

    ``kind`` of the model's files: ``bin`` or ``txt``; with both there, the binary ones are read.
    """

    model: Path
    images: Path
    kind: str

    def file(self, name: str) -> Path:
        """A file of the model: ``cameras``, ``images`` or ``points3D``."""
        return self.model / f"{name}.{self.kind}"


def require_channel(channel: Path) -> None:
    """Refuse a channel that is missing or empty (``E_CHANNEL_EMPTY``) or closed (``E_INPUT``)."""
    if not channel.is_dir():
        raise TrainerError(
            "E_CHANNEL_EMPTY",
            f"{channel} does not exist: the request needs an "
            "input channel named 'training' that holds sparse/ and images/",
        )
    # A link that leads nowhere is as good as absent.
    closed = [p for p in (channel, *channel.rglob("*")) if os.path.exists(p) and not _may_read(p)]
    if closed:
        raise TrainerError(
            "E_INPUT", f"{closed[0]} may not be read by user {os.geteuid()} ({len(closed)} such)"
        )
    if not any(p.is_file() for p in channel.rglob("*")):
        raise TrainerError(
            "E_CHANNEL_EMPTY",
            f"{channel} holds no file: the S3 prefix of channel "
            "'training' matches nothing; it should hold sparse/ and images/",
        )


def _may_read(path: Path) -> bool:
    return os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK)


@contextmanager
def open_channel(channel: Path) -> Iterator[Layout]:
    """The layout of the scene in ``channel``, which is only read.

    An archive, alone but for a file or two that describe it, is unpacked to a temporary
    folder that is removed afterwards. Raises ``E_CHANNEL_EMPTY``, ``E_CHANNEL_ARCHIVE`` or
    ``E_SCENE_LAYOUT``.
    """
    require_channel(channel)
    files = [p for p in channel.rglob("*") if p.is_file()]
    archives = [p for p in files if len(files) <= _FEW and _is_archive(p)]
    if len(archives) == 1:
        with tempfile.TemporaryDirectory(prefix="scene-") as folder:
            unpack(archives[0], Path(folder))
            yield find_layout(Path(folder))
    else:
        yield find_layout(channel)


def find_layout(root: Path) -> Layout:
    """Find model and photographs in ``root``, or in the only folder that ``root`` holds."""
    roots = [root]
    # Finder's zip has a second folder, of resource forks.
    entries = [p for p in root.iterdir() if not p.name.startswith((".", "__MACOSX"))]
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name != "sparse":
        roots.append(entries[0])
    for base in roots:
        for model in (base / "sparse" / "0", base / "sparse"):
            if kind := _kind(model):
                if not (base / "images").is_dir():
                    raise TrainerError(
                        "E_SCENE_LAYOUT",
                        f"{base.name}/ has a COLMAP model but no "
                        "images/ folder: hand over the photographs with it",
                    )
                if others := [p for p in model.parent.iterdir() if p != model and _kind(p)]:
                    log.line(f"warning: only {model.name}/ of {1 + len(others)} models is trained")
                return Layout(model, base / "images", kind)
    seen = sorted(p.relative_to(root).as_posix() for p in root.rglob("*"))[:8]
    raise TrainerError(
        "E_SCENE_LAYOUT",
        "no COLMAP model: neither sparse/0/ nor sparse/ holds "
        "cameras, images and points3D (.bin or .txt, all of one kind)",
        f"found: {', '.join(seen)}",
    )


def _kind(folder: Path) -> str | None:
    return next(
        (k for k in ("bin", "txt") if all((folder / f"{n}.{k}").is_file() for n in MODEL)), None
    )


def _is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip or tar into ``target``; refuses links, traversal, devices and bombs."""
    budget = _Budget(archive)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as pack:
                for entry in pack.infolist():
                    # The upper half of external_attr is the Unix mode; 0o12 is a symbolic link.
                    if entry.external_attr >> 28 == 0o12:
                        raise budget.refuse(entry.filename, "is a link")
                    if not entry.is_dir():
                        with pack.open(entry) as stream:
                            _extract(stream, _name(entry), target, budget)
        else:
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.isdir():
                        continue
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is None:
                        raise budget.refuse(member.name, "is a link or a device")
                    with content:
                        _extract(content, member.name, target, budget)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        RuntimeError,
        ValueError,
        NotImplementedError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise TrainerError(
            "E_CHANNEL_ARCHIVE", f"{archive.name} cannot be unpacked: {error}"
        ) from error


def _name(entry: zipfile.ZipInfo) -> str:
    """A member's name; macOS writes UTF-8 without the flag that says so."""
    if entry.flag_bits & 0x800:
        return entry.filename
    try:
        return entry.filename.encode("cp437").decode()
    except UnicodeError:
        return entry.filename


def _extract(stream: IO[bytes], name: str, target: Path, budget: _Budget) -> None:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or ":" in pure.parts[0]:
        raise budget.refuse(name, "points outside the archive")
    path = target.joinpath(*pure.parts)
    budget.member(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        out = path.open("wb")
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise budget.refuse(name, "is both a file and a folder") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise budget.refuse(name, "has too long a name") from error
    with out:
        while block := stream.read(1 << 20):
            budget.spend(name, len(block))
            out.write(block)


class _Budget:
    """How much an archive may still unpack to; counted while writing, since headers can lie."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        free = shutil.disk_usage(tempfile.gettempdir()).free
        self.left = min(_MAX_BYTES, free, max(archive.stat().st_size * _MAX_RATIO, 1 << 26))
        self.members = 0

    def refuse(self, name: str, why: str) -> TrainerError:
        return TrainerError("E_CHANNEL_ARCHIVE", f"{self.archive.name}: member {name[:80]!r} {why}")

    def member(self, name: str) -> None:
        self.members += 1
        if self.members > _MAX_MEMBERS:
            raise self.refuse(name, f"is one too many: more than {_MAX_MEMBERS} files")

    def spend(self, name: str, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise self.refuse(
                name,
                "unpacks to more than the archive can honestly hold, or than the disk has free",
            )
