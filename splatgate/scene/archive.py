"""A scene that comes as one archive: zip or tar, unpacked beside it to be looked at."""

from __future__ import annotations

import atexit
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from splatgate.evidence import BadInput
from splatgate.scene.colmap_files import Unsound

#: First bytes of a zip, gzip, bzip2 and xz file; a tar has its word at byte 257.
_MAGIC = (b"PK\3\4", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, RuntimeError, ValueError),
    *(NotImplementedError, zlib.error, lzma.LZMAError),
)


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder that holds a scene: ``path``, or where the one archive in it was unpacked to.

    That folder is gone afterwards. Files beside the archive are passed over.

    Raises:
        Unsound: ``broken-archive`` or ``unsafe-archive``.
    """
    archive = find(path)
    if archive is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="splatgate-scene-") as folder:
        try:
            _unpack(archive, Path(folder))
        except _DAMAGE as error:
            what = f"{archive}: cannot be unpacked ({' '.join(str(error).split())[:120]})"
            raise Unsound("broken-archive", f"{what}; pack it and copy it again") from None
        yield Path(folder)


def kept(path: Path) -> Path:
    """The folder that `opened` gives, for as long as this process lives.

    Raises:
        BadInput: the archive is damaged or unsafe.
    """
    holder = ExitStack()
    atexit.register(holder.close)
    try:
        return holder.enter_context(opened(path))
    except Unsound as error:
        raise BadInput(str(error)) from None


def find(path: Path) -> Path | None:
    """The one archive in a folder without a ``sparse`` folder, or None."""
    if not path.is_dir() or (path / "sparse").exists():
        return None
    found = [p for p in sorted(path.rglob("*")) if p.is_file() and _is_archive(p)]
    return found[0] if len(found) == 1 else None


def _is_archive(path: Path) -> bool:
    head = _head(path)
    return head.startswith(_MAGIC) or head[257:] == b"ustar"


def _head(path: Path) -> bytes:
    """The first bytes of a file; none of one that cannot be read, which others will name."""
    try:
        with path.open("rb") as file:
            return file.read(262)
    except OSError:
        return b""


def _unpack(archive: Path, folder: Path) -> None:
    if _head(archive).startswith(_MAGIC[0]):
        with zipfile.ZipFile(archive) as pack:
            # The upper half of external_attr is the Unix mode; 0o12 is a symbolic link.
            entries = [(e.filename, e.external_attr >> 28 == 0o12, e.file_size)
                       for e in pack.infolist()]  # fmt: skip
            _require_safe(archive, entries)
            pack.extractall(folder)
        return
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        _require_safe(archive, [(m.name, not (m.isreg() or m.isdir()), m.size) for m in members])
        for member in members:
            # Whose it was, and what it allows, is the packer's.
            member.mode = 0o755 if member.isdir() else 0o644
            tar.extract(member, folder, set_attrs=False)


def _require_safe(archive: Path, entries: list[tuple[str, bool, int]]) -> None:
    remedy = "pack plain files below sparse/ and images/"
    for name, odd, _ in entries:
        parts = PurePosixPath(name.replace("\\", "/"))
        if odd or parts.is_absolute() or ".." in parts.parts:
            what = "is a link or a device" if odd else "leaves the archive"
            raise Unsound("unsafe-archive", f"{archive}: member {name[:80]!r} {what}; {remedy}")
    size, free = sum(entry[2] for entry in entries), shutil.disk_usage(tempfile.gettempdir()).free
    if size > free:
        what = f"unpacks to {size} bytes and {free} are free"
        raise Unsound("unsafe-archive", f"{archive}: {what}; {remedy}, or make room")
