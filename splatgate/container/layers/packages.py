"""Databases of packages: Debian's dpkg, Alpine's apk, and rpm's in SQLite.

Sources: dpkg-query(1) and deb-control(5); Alpine, "Apk spec"; rpm, `lib/rpmtag.h` and
docs/manual/format_header.md. rpm's older databases (Berkeley DB, ndb) are not read.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Callable, Iterator

from splatgate.evidence import BadInput, Package

#: Tags of an rpm header, and the type of a text.
NAME, VERSION, RELEASE, ARCH = 1000, 1001, 1002, 1022
STRING = 6
#: No header of one package is larger.
MOST = 64 << 20

#: Where these databases lie.
PLACES = ("/var/lib/dpkg", "/lib/apk/db", "/usr/lib/apk/db", "/var/lib/rpm", "/usr/lib/sysimage")
DPKG = re.compile(r"var/lib/dpkg/status(?:\.d/[^/]+)?")
APK = re.compile(r"(?:usr/)?lib/apk/db/installed")
INSTALLED = re.compile(r"(?:install|hold) ok installed")
RPM = re.compile(r"(?:var|usr)/lib/(?:sysimage/)?rpm/rpmdb\.sqlite")
#: rpm's databases of older forms, which are not read.
RPM_OLDER = tuple(
    f"/{place}/rpm/{name}"
    for place in ("var/lib", "usr/lib/sysimage")
    for name in ("Packages", "Packages.db")
)


def parser(path: str) -> Callable[[bytes], tuple[Package, ...]] | None:
    """What reads a database at a path, or None: there is none."""
    if DPKG.fullmatch(path) and not path.endswith(".md5sums"):
        return dpkg
    if APK.fullmatch(path):
        return apk
    return rpm if RPM.fullmatch(path) else None


def _stanzas(data: bytes, separator: str) -> Iterator[dict[str, str]]:
    for stanza in data.decode(errors="replace").split("\n\n"):
        lines = [line for line in stanza.splitlines() if line[:1].strip()]
        yield dict(line.partition(separator)[::2] for line in lines)


def dpkg(data: bytes) -> tuple[Package, ...]:
    """Installed packages of a dpkg status file; of status.d, where distroless images have one file
    a package, without a status.
    """
    return tuple(
        Package(fields["Package"], fields.get("Version", ""), fields.get("Architecture", ""))
        for fields in _stanzas(data, ": ")
        if "Package" in fields and INSTALLED.fullmatch(fields.get("Status", "install ok installed"))
    )


def apk(data: bytes) -> tuple[Package, ...]:
    """Installed packages of Alpine; a version ends in `-r` and its release."""
    return tuple(
        Package(fields["P"], fields.get("V", ""), fields.get("A", ""), "apk")
        for fields in _stanzas(data, ":")
        if "P" in fields
    )


def rpm(data: bytes) -> tuple[Package, ...]:
    """Installed packages of rpm's SQLite database; versions are `VERSION-RELEASE`.

    Raises:
        BadInput: it is damaged.
    """
    connection = sqlite3.connect(":memory:")
    try:
        # A database in write-ahead mode cannot be read from memory; its two format bytes say so.
        connection.deserialize(data[:18] + b"\1\1" + data[20:])
        rows = connection.execute("SELECT blob FROM Packages").fetchall()
        found = [header(row[0]) for row in rows]
    except (sqlite3.Error, struct.error, OverflowError, TypeError) as error:
        raise BadInput(f"layer: rpmdb.sqlite: {error}; rebuild it (rpm --rebuilddb)") from None
    finally:
        connection.close()
    return tuple(p for p in found if p.name != "gpg-pubkey")


def header(blob: bytes) -> Package:
    """One package of an rpm header: an index of (tag, type, offset, count), then the data.

    Raises:
        struct.error: it is cut short.
    """
    count, _ = struct.unpack_from(">II", blob, 0)
    base = 8 + 16 * count
    if base > min(len(blob), MOST):
        raise struct.error("an index beyond its header")
    texts: dict[int, str] = {}
    for n in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIII", blob, 8 + 16 * n)
        if kind == STRING and tag in (NAME, VERSION, RELEASE, ARCH):
            end = blob.find(b"\0", base + offset)
            texts[tag] = blob[base + offset : end].decode(errors="replace")
    version = f"{texts.get(VERSION, '')}-{texts.get(RELEASE, '')}"
    return Package(texts.get(NAME, ""), version, texts.get(ARCH, ""), "rpm")
