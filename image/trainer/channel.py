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
from collections import Counter
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
    """Where a scene's parts lie: the COLMAP model's three files, and the photographs' folder.

    ``files`` are all binary or all text; with both there, the binary ones are read.
    """

    files: dict[str, Path]
    images: Path

    @property
    def model(self) -> Path:
        """The folder that the model's files are in."""
        return self.files["cameras"].parent


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
    """Find model and photographs in ``root``, or in the only folder that ``root`` holds.

    Of several models the one of most images is taken, and all are told.
    """
    from trainer.colmap import count_images

    roots = [root]
    # Finder's zip has a second folder, of resource forks.
    entries = [p for p in root.iterdir() if not p.name.startswith((".", "__MACOSX"))]
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name.lower() != "sparse":
        roots.append(entries[0])
    for base in roots:
        sparse, images = _below(base, "sparse"), _below(base, "images")
        folders = [*sorted(p for p in sparse.iterdir() if p.is_dir()), sparse] if sparse else []
        models = {folder: files for folder in folders if (files := _files(folder))}
        if not models:
            continue
        if images is None:
            raise TrainerError(
                "E_SCENE_LAYOUT",
                f"{base.name}/ has a COLMAP model but no "
                "images/ folder: hand over the photographs with it",
            )
        counts = {folder: count_images(files["images"]) for folder, files in models.items()}
        best = max(models, key=lambda folder: counts[folder])
        if len(models) > 1:
            told = ", ".join(
                f"{folder.relative_to(base)} {count}" for folder, count in counts.items()
            )
            log.line(
                f"warning: {len(models)} models ({told} images): only "
                f"{best.relative_to(base)} is trained"
            )
        _tell_twins(models[best])
        return Layout(models[best], images)
    raise TrainerError(
        "E_SCENE_LAYOUT",
        "no COLMAP model: neither sparse/0/ nor sparse/ holds "
        "cameras, images and points3D (.bin or .txt, all of one kind)",
        f"found: {_inventory(root)}",
    )


def _below(base: Path, name: str) -> Path | None:
    """A folder of ``base``, whatever its letter case."""
    found = [p for p in base.iterdir() if p.name.lower() == name and p.is_dir()]
    return min(found, key=lambda p: p.name != name) if found else None


def _files(folder: Path) -> dict[str, Path] | None:
    """The model's three files in a folder, whatever their letter case; None if one lacks."""
    there = {p.name.lower(): p for p in sorted(folder.iterdir(), reverse=True) if p.is_file()}
    for kind in ("bin", "txt"):
        names = {name: f"{name.lower()}.{kind}" for name in MODEL}
        if all(name in there for name in names.values()):
            return {part: there[name] for part, name in names.items()}
    return None


def _tell_twins(files: dict[str, Path]) -> None:
    """A text model beside the binary one that is read is told, and whether it is newer."""
    twins = [p.with_suffix(".txt") for p in files.values() if p.suffix == ".bin"]
    if there := [p for p in twins if p.is_file()]:
        newer = any(t.stat().st_mtime > t.with_suffix(".bin").stat().st_mtime for t in there)
        log.line(
            f"warning: {', '.join(p.name for p in there)} beside the .bin files "
            f"{'are newer and ' if newer else ''}are not read; remove those that are stale"
        )


def _inventory(root: Path) -> str:
    """What a folder holds: what may have been meant as a model by name, the rest by kind."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    near = [p for p in files if p.stem.lower() in {name.lower() for name in MODEL}]
    kinds = Counter(p.suffix.lower() or "no extension" for p in files if p not in near)
    folders = sorted({p.parent.relative_to(root).as_posix() for p in files} - {"."})
    told = [
        *(p.relative_to(root).as_posix() for p in near[:6]),
        *(f"{count} {kind} files" for kind, count in kinds.most_common(4)),
        f"in {', '.join(folders[:5])}" if folders else "",
    ]
    return ", ".join(filter(None, told))


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
