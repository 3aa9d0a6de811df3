"""Reads one layer of an image: every entry of its archive, and of a file what is asked for later.

A layer is read as a stream. Of a file are kept its hash, its first bytes where it is a program, and
its text where it is one that tells of users, packages or Python; shared objects go through a
temporary file.
"""

from __future__ import annotations

import gzip
import hashlib
import mmap
import re
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, Any, Protocol

import msgspec

from splatgate.container.layers import packages
from splatgate.container.probe import elf, walk
from splatgate.evidence import BadInput, LayerFiles, Leftover, LeftoverKind, Package

#: Kinds that a later layer cannot take back.
KEPT_LEFTOVERS = (LeftoverKind.CREDENTIALS, LeftoverKind.GIT)
#: Bytes read of a file at once; and of a stream, of whose buffer tarfile copies the rest at each
#: header.
CHUNK, BUFFER = 1 << 20, 1 << 16
#: Bytes of a program's head, for the line that names its interpreter; and of a file's start, in
#: which a password or a key is looked for.
HEAD, START = 128, 1 << 16
#: No text is kept beyond this, no extended header of an archive read, no database of packages.
MOST_TEXT, MOST_HEADER, MOST_DATABASE = 4 << 20, 1 << 20, 512 << 20
#: No layer has more entries.
MOST_ENTRIES = 5_000_000
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
#: Files whose text is kept: users, the distribution, the loader's folders, Python's metadata.
TOLD = re.compile(
    r"etc/(?:passwd|group|shadow|os-release|alpine-release|redhat-release|ld\.so\.conf(?:\.d/.+)?)"
    r"|usr/lib/os-release"
    r"|.*\.(?:dist-info/(?:METADATA|RECORD)|egg-info(?:/PKG-INFO)?|pth)|(?:.*/)?pyvenv\.cfg"
    r"|.*/torch/version\.py"
)
#: The image's own sources and settings, outside other people's folders.
OWN = re.compile(r".*\.(?:py|sh|toml|json|ya?ml|ini|cfg)")
OTHERS = re.compile(
    r"(?:.*/)?(?:site-packages|dist-packages|node_modules|python\d[\d.]*|usr/share)/.*"
)
#: The distribution's own: of what is small elsewhere, as all settings are, the text is kept.
SYSTEM = re.compile(r"(?:usr|lib\w*|var|boot|proc|sys)/")
#: NVIDIA's packages bring code for every GPU; they only answer for others.
THEIRS = re.compile(r".*-packages/(?:nvidia|triton)/.*")


class Elf(msgspec.Struct, frozen=True, array_like=True):
    """What a shared object says by its headers. ``cubins`` is None where it has no GPU code."""

    machine: str
    needed: tuple[str, ...]
    cubins: tuple[int, ...] | None
    ptx: tuple[int, ...]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One entry of a layer. Paths are bytes, as the archive has them, without a leading slash."""

    path: bytes
    #: As of `stat.S_IFMT`; 0 for a hard link.
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    #: Target of a link.
    link: bytes = b""
    sha256: bytes = b""
    head: bytes = b""
    text: bytes | None = None
    elf: Elf | None = None
    leftover: str | None = None
    packages: tuple[Package, ...] | None = None


class LayerContent(msgspec.Struct, frozen=True):
    """A layer with all its entries. ``digest`` is that of the uncompressed archive."""

    digest: str
    entries: tuple[Entry, ...]
    #: Paths that it removes, and folders whose lower content it hides.
    removed: tuple[bytes, ...] = ()
    opaque: tuple[bytes, ...] = ()

    def leftovers(self) -> LayerFiles:
        """What no later layer can take back."""
        kept = tuple(
            Leftover(shown(e.path), LeftoverKind(e.leftover), e.size)
            for e in self.entries
            if e.leftover in KEPT_LEFTOVERS
        )
        return LayerFiles(self.digest, len(self.entries) + len(self.removed), kept)


class Readable(Protocol):
    """Whatever gives bytes."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, up to ``size``; none at the end."""


class Reader:
    """A reader over chunks of bytes that hashes what it gives."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.chunk, self.at = b"", 0
        self.hash = hashlib.sha256()

    def read(self, size: int = CHUNK) -> bytes:
        """The next bytes; fewer at the end alone."""
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

    def drain(self) -> str:
        """Read to the end, and give the digest of it all."""
        while self.read(CHUNK):
            pass
        return f"sha256:{self.hash.hexdigest()}"


HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _Member(tarfile.TarInfo):
    """A member whose headers are bounded: tarfile would read as much as they claim."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in HEADERS and self.size > MOST_HEADER:
            raise BadInput(f"layer: a header of {self.size} bytes; build the image anew")
        return super()._proc_member(archive)  # type: ignore[misc]


def shown(path: bytes) -> str:
    """A path as text, from the root; bytes that are no UTF-8 as escapes."""
    return "/" + path.decode(errors="backslashreplace")


def plain(file: Readable) -> Iterator[bytes]:
    """A layer's archive, uncompressed: from gzip, zstd or as it is, by its first bytes."""
    import zstandard

    start = file.read(4)
    joined: Any = Reader(_after(start, file))
    if start[:2] == b"\x1f\x8b":
        unpacked: Any = gzip.GzipFile(fileobj=joined)
    elif start == b"\x28\xb5\x2f\xfd":
        unpacked = zstandard.ZstdDecompressor().stream_reader(joined, read_across_frames=True)
    else:
        unpacked = joined
    try:
        while data := unpacked.read(CHUNK):
            yield data
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise BadInput(f"layer: cannot be unpacked: {error}; fetch or save it again") from None


def _after(start: bytes, file: Readable) -> Iterator[bytes]:
    yield start
    yield from iter(lambda: file.read(CHUNK), b"")


def members(tar: Any) -> Iterator[tarfile.TarInfo]:
    """The members of a stream; tarfile would keep them all."""
    for member in tar:
        tar.members = []
        yield member


def archive(reader: Reader) -> tarfile.TarFile:
    """An archive as a stream, with bounded headers and names of any bytes."""
    return tarfile.open(  # type: ignore[call-overload,no-any-return]
        fileobj=reader,
        mode="r|",
        bufsize=BUFFER,
        tarinfo=_Member,
        encoding="utf-8",
        errors="surrogateescape",
    )


def read_layer(chunks: Iterator[bytes]) -> LayerContent:
    """Read one uncompressed layer to its end.

    Raises:
        BadInput: it is no archive, is cut short, or has a path that climbs out of the root.
    """
    reader = Reader(chunks)
    entries: list[Entry] = []
    removed: list[bytes] = []
    opaque: list[bytes] = []
    try:
        with archive(reader) as tar:
            for member in members(tar):
                path = inside(member.name)
                folder, _, name = path.rpartition(b"/")
                if name == OPAQUE.encode():
                    opaque.append(folder)
                elif name.startswith(WHITEOUT.encode() * 2):
                    continue  # AUFS's own
                elif name.startswith(WHITEOUT.encode()):
                    removed.append((folder + b"/" if folder else b"") + name[len(WHITEOUT) :])
                elif member.ischr() and (member.devmajor, member.devminor) == (0, 0):
                    removed.append(path)  # overlay's own whiteout
                elif path:
                    entries.append(_entry(tar, member, path))
                if len(entries) > MOST_ENTRIES:
                    raise BadInput(f"layer: more than {MOST_ENTRIES} entries; join its files")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BadInput(f"layer: no whole archive: {error}; fetch or save it again") from None
    return LayerContent(reader.drain(), tuple(entries), tuple(removed), tuple(opaque))


def inside(name: str) -> bytes:
    """A member's name as a path from the root.

    Raises:
        BadInput: it climbs out of the root.
    """
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                raise BadInput(f"layer: {name!r} climbs out of the root; build the image anew")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts).encode("utf-8", "surrogateescape")


KINDS = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.LNKTYPE: 0,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, path: bytes) -> Entry:
    kind = KINDS.get(member.type, stat.S_IFREG)
    link = b""
    if kind == 0:
        link = inside(member.linkname)
    elif kind == stat.S_IFLNK:
        link = member.linkname.encode("utf-8", "surrogateescape")
    entry = Entry(
        path,
        kind,
        member.mode & 0o7777,
        member.uid,
        member.gid,
        member.size if kind == stat.S_IFREG else 0,
        int(member.mtime),
        link,
    )
    body = tar.extractfile(member) if kind == stat.S_IFREG else None
    start, seen = _look(entry, body) if body else (b"", {})
    found = _leftover(entry, lambda _, limit: start[:limit].decode(errors="replace"))
    return msgspec.structs.replace(entry, **seen, leftover=found)


def _leftover(entry: Entry, read: Callable[[str, int], str]) -> str | None:
    path = shown(entry.path)
    look: Any = walk.kind_of
    found: str | None = look(path, path.rpartition("/")[2], entry.kind | entry.mode, read)
    return found


def wanted(path: str, size: int) -> bool:
    """Whether a file's text is kept."""
    if TOLD.fullmatch(path):
        return size <= MOST_TEXT
    return size <= MOST_HEADER and bool(OWN.fullmatch(path)) and not OTHERS.fullmatch(path)


def _look(entry: Entry, body: IO[bytes]) -> tuple[bytes, dict[str, Any]]:
    """Read a file once: how it begins, and what of it is kept."""
    path = shown(entry.path)[1:]
    database = packages.parser(path) if entry.size <= MOST_DATABASE else None
    shared = ".so" in path.rpartition("/")[2] and not THEIRS.fullmatch(path) and entry.size >= 64
    keep: IO[bytes] | None = None
    if database or wanted(path, entry.size):
        keep = BytesIO()
    elif shared:
        keep = tempfile.TemporaryFile() if entry.size > CHUNK else BytesIO()  # noqa: SIM115
    digest, start = hashlib.sha256(), b""
    while data := body.read(CHUNK):
        digest.update(data)
        if not start:
            start = data[:START]
        if keep:
            keep.write(data)
    seen: dict[str, Any] = {"sha256": digest.digest()}
    if entry.mode & 0o111 or start[:4] == b"\x7fELF":
        seen["head"] = start[:HEAD]
    small = entry.size <= START and not OTHERS.fullmatch(path) and b"\0" not in start
    if small and (start[:2] == b"#!" or not SYSTEM.match(path)):
        seen["text"] = start
    if keep is None:
        return start, seen
    with keep:
        if shared:
            seen["elf"] = _shared_object(keep)
        elif isinstance(keep, BytesIO):
            whole = keep.getvalue()
            if database:
                seen["packages"] = database(whole)
            else:
                seen["text"] = whole
    return start, seen


def _shared_object(file: IO[bytes]) -> Elf | None:
    if isinstance(file, BytesIO):
        return shared_object(file.getvalue())
    file.flush()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return shared_object(data)


def shared_object(data: Any) -> Elf | None:
    """What an ELF file says by its headers, or None for another file."""
    machine, section = elf.elf_section(data, b".nv_fatbin")
    if machine is None:
        return None
    cubins, ptx = elf.fatbin_architectures(data, *section) if section else (None, ())
    return Elf(
        machine,
        tuple(elf.needed(data)),
        tuple(cubins) if cubins is not None else None,
        tuple(ptx),
    )
