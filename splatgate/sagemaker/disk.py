"""A disk of a given size for a job, where this machine can make one: a loop device.

The kernel tidies up after it: the file behind it never has a name, and the device clears itself
when its last user is gone, this process or the container, however that ended.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: linux/loop.h
_GET_FREE, _CONFIGURE, _AUTOCLEAR = 0x4C82, 0x4C0A, 4
_CONTROL = Path("/dev/loop-control")
_MKFS, _DEBUGFS = "mkfs.ext4", "debugfs"
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
#: No journal and no reserve: all that the job may not use is the file system's own.
_OPTIONS = ["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"]
#: Another process may take the free device that the kernel has just named.
_TRIES = 20
#: The smallest disk that holds a file system and anything else (bytes).
SMALLEST = 2 * 1024**2


def why_not(asked: int, info: Mapping[str, Any], base_url: str) -> str | None:
    """Why a job's disk cannot be limited to ``asked`` bytes here, or None.

    ``info`` is what the engine says of itself, ``base_url`` where it is: the engine must run on
    this machine, where this process is root and has loop devices, and its disk must have the room
    (a limit beyond that would never be met).
    """
    here = base_url == "http+docker://localhost"  # the SDK's name for a socket file
    if not here or info.get("Name") != socket.gethostname():
        return "the engine is not on this machine"
    if any("rootless" in str(option) for option in info.get("SecurityOptions") or ()):
        return "the engine runs without root"
    if os.geteuid() != 0:
        return "root is needed for a disk of a given size"
    if not _CONTROL.exists():
        return "no loop devices here"
    for tool in (_MKFS, _DEBUGFS):
        if shutil.which(tool, path=_PATH) is None:
            return f"no {tool} here"
    if asked < SMALLEST:
        return f"less than {SMALLEST} bytes"
    free = shutil.disk_usage(tempfile.gettempdir()).free
    return f"{free / 1e9:.0f} GB are free" if asked > free else None


class Disk:
    """An empty ext4 file system of ``size`` bytes on a loop device, ``device``, until ``close``.

    Raises:
        OSError: the kernel or mkfs refuses.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            _tool(file.fileno(), _MKFS, *_OPTIONS)
            # An instance's volume shows none.
            _tool(file.fileno(), _DEBUGFS, "-w", "-R", "rmdir lost+found")
            self.device, self._handle = _attach(file.fileno())

    def close(self) -> None:
        """Let go of the device; it is gone with the last container that has it mounted."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _tool(file: int, *command: str) -> None:
    done = subprocess.run(
        [*command, f"/proc/self/fd/{file}"],
        pass_fds=[file],
        env={**os.environ, "PATH": _PATH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise OSError(f"{command[0]}: {' '.join(done.stderr.split())[:200]}")


def _attach(file: int) -> tuple[str, int]:
    """Bind a free loop device to an open file; returns its path and an open handle."""
    # struct loop_config: fd, block_size, then struct loop_info64, whose flags come after five
    # 64-bit and three 32-bit fields.
    info = struct.pack("=5Q4I", 0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR).ljust(232, b"\0")
    config = struct.pack("=2I", file, 0) + info + bytes(64)
    last: OSError | None = None
    for _ in range(_TRIES):
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
        finally:
            os.close(control)
        handle = -1
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(handle, _CONFIGURE, config)
            return path, handle
        except OSError as error:
            last = error
            if handle >= 0:
                os.close(handle)
    raise last or OSError("no free loop device")
