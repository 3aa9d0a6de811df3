"""Small images made by code: layers as tar archives, and archives as engines and OCI write them."""

import gzip
import hashlib
import io
import json
import sqlite3
import struct
import tarfile
from dataclasses import dataclass

import zstandard

#: The head of an ELF64 file for x86-64, with no more than its machine
#: and bytes that are no text.
ELF = b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + b"\x3e\0" + 44 * b"\0\xf0\x13\xff"


@dataclass
class File:
    """One entry: a text or bytes, a folder (None), or a link."""

    content: bytes | str | None = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    device: tuple[int, int] = (0, 0)


def folder(mode=0o755, **more):
    return File(None, mode, kind=tarfile.DIRTYPE, **more)


def link(target):
    return File(kind=tarfile.SYMTYPE, link=target, mode=0o777)


def hard(target):
    return File(kind=tarfile.LNKTYPE, link=target)


def program(content=ELF):
    return File(content, 0o755)


def tar(files):
    """An uncompressed layer of {name: File, or its content}; a list of pairs keeps doubles."""
    data = io.BytesIO()
    with tarfile.open(
        fileobj=data, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as archive:
        for name, given in files.items() if isinstance(files, dict) else files:
            file = given if isinstance(given, File) else File(given)
            content = file.content or b""
            content = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.linkname = file.kind, file.mode, file.link
            entry.uid, entry.gid, entry.mtime = file.uid, file.gid, 1_700_000_000
            entry.devmajor, entry.devminor = file.device
            entry.size = len(content) if file.kind == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(layers, **config):
    """A configuration of layers; keywords as `docker inspect` spells them."""
    return json.dumps(
        {
            "os": config.pop("os", "linux"),
            "architecture": config.pop("architecture", "amd64"),
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            "history": [{"created_by": f"COPY {n}"} for n, _ in enumerate(layers)],
        }
    ).encode()


def docker_save(path, layers, **image):
    """An archive as `docker save` writes it."""
    described = config(layers, **image)
    names = [f"{n}/layer.tar" for n, _ in enumerate(layers)]
    manifest = [{"Config": "c.json", "RepoTags": ["t:1"], "Layers": names}]
    files = dict(zip(names, layers, strict=True))
    files |= {"c.json": described, "manifest.json": json.dumps(manifest).encode()}
    path.write_bytes(tar(files))
    return path


PACKED = {
    "tar": lambda data: data,
    "tar+gzip": gzip.compress,
    "tar+zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def oci(path, layers, packed="tar+gzip", platforms=("linux/amd64",), **image):
    """An OCI layout in a folder."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data, kind):
        (blobs / digest(data).partition(":")[2]).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    entries = []
    for platform in platforms:
        system, machine = platform.split("/")
        described = config(layers, os=system, architecture=machine, **image)
        kind = f"application/vnd.oci.image.layer.v1.{packed}"
        manifest = {
            "schemaVersion": 2,
            "config": blob(described, "application/vnd.oci.image.config.v1+json"),
            "layers": [blob(PACKED[packed](layer), kind) for layer in layers],
        }
        entry = blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        entries.append(entry | {"platform": {"os": system, "architecture": machine}})
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


def rpm_database(packages):
    """rpm's SQLite database of (name, version, release, architecture)."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
    for package in packages:
        index, data = b"", b""
        for tag, text in zip((1000, 1001, 1002, 1022), package, strict=True):
            index += struct.pack(">IIII", tag, 6, len(data), 1)
            data += text.encode() + b"\0"
        blob = struct.pack(">II", 4, len(data)) + index + data
        connection.execute("INSERT INTO Packages (blob) VALUES (?)", (blob,))
    connection.commit()
    return connection.serialize()


SITE = "opt/venv/lib/python3.11/site-packages"


def wheel(name, version, *requires):
    """Metadata of an installed distribution."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {r}" for r in requires]
    return {f"{SITE}/{name}-{version}.dist-info/METADATA": "\n".join(lines) + "\n\n"}


def debian():
    """The base of a small image: users, the distribution, Python in an environment."""
    return {
        "etc": folder(),
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n"
        "www:x:33:33:web:/var/www:/usr/sbin/nologin\n",
        "etc/group": "root:x:0:\nwww:x:33:\nvideo:x:44:www\n",
        "etc/shadow": File("root:*:19000:0:99999:7:::\n", 0o640, gid=42),
        "etc/os-release": "../usr/lib/os-release",
        "usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n',
        "bin": link("usr/bin"),
        "usr/bin/python3.11": program(),
        "usr/bin/passwd": File(ELF, 0o4755),
        "usr/lib/python3.11/os.py": "",
        "tmp": folder(0o1777),
        "var/lib/dpkg/status": "Package: libc6\nStatus: install ok installed\n"
        "Architecture: amd64\nVersion: 2.36-9\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: python3.11-minimal\nStatus: install ok installed\nVersion: 3.11.2-6\n",
        "opt/venv/pyvenv.cfg": "home = /usr/bin\nversion = 3.11.2\n",
        "opt/venv/bin/python": link("/usr/bin/python3.11"),
        SITE: folder(),
    } | {"etc/os-release": link("../usr/lib/os-release")}
