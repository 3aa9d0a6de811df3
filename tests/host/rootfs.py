"""A root file system that holds this interpreter and its standard library, and nothing else."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

#: Parts of the standard library that no probe needs.
LEFT_OUT = re.compile(
    r"/(test|tests|idlelib|lib2to3|tkinter|ensurepip|site-packages|config-[^/]+)$"
)


def rootfs() -> bytes:
    """A tar with /usr/bin/python3, its library below /usr/lib, the shared objects both need."""
    if sys.platform != "linux":
        pytest.skip("name an image with /usr/bin/python3 in SPLATGATE_PROBE_IMAGE")
    binary = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    library = Path(sysconfig.get_path("stdlib"))
    objects = [binary, *(library / "lib-dynload").glob("*.so")]
    shared = sorted(needed(objects))
    # The engine would make folders that the tar leaves out, for root alone.
    below = ("/usr/bin/x", f"/usr/lib/{library.name}", *shared)
    parents = {str(parent)[1:] for path in below for parent in Path(path).parents}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted({"tmp", "etc", *parents} - {""}):
            folder = tarfile.TarInfo(path)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
            tar.addfile(folder)
        add = lambda path, name: tar.add(path, name.lstrip("/"), filter=_wanted)  # noqa: E731
        add(binary, "/usr/bin/python3")
        add(library, f"/usr/lib/{library.name}")
        for path in shared:
            add(os.path.realpath(path), path)
    return buffer.getvalue()


def needed(objects: list[Path]) -> set[str]:
    """Paths of the shared objects that the dynamic linker loads for ``objects``."""
    done = subprocess.run(["ldd", *objects], capture_output=True, text=True, check=False)
    return set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", done.stdout, re.MULTILINE))


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    path = f"/{entry.name}"
    if LEFT_OUT.search(path):
        return None
    entry.uid = entry.gid = 0
    return entry
