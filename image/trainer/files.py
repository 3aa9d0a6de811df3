"""Writing files so that a reader sees all of a file or none of it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from trainer.points import reached


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that has no name yet, then give it its name.

    The content is on the disk before the name is: SIGKILL at any moment leaves the old file or
    the new one, and nothing half-written for SageMaker to upload. Raises OSError that names
    ``path``. Where the file system has no nameless files, a hidden one stands in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.tmp")
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        hidden.unlink(missing_ok=True)
        descriptor, nameless = _open(path.parent, hidden)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, 0o644)  # whatever the umask: others read what a job delivers
            reached(f"{path.name}.open")
            write(stream)
            stream.flush()
            reached(f"{path.name}.write")
            os.fsync(descriptor)
            reached(f"{path.name}.fsync")
            if nameless:
                # With a folder's descriptor Python calls linkat(2), which follows the link.
                os.link(f"/proc/self/fd/{descriptor}", hidden, src_dir_fd=directory)
        hidden.replace(path)
        os.fsync(directory)
        reached(f"{path.name}.rename")
    except BaseException as error:
        hidden.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    finally:
        os.close(directory)


def _open(folder: Path, hidden: Path) -> tuple[int, bool]:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o644), True
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
        return os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644), False


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content`` atomically; NaN is an error, JSON has none."""
    text = json.dumps(content, indent=1, allow_nan=False, default=dict)
    write_atomically(path, lambda stream: stream.write(text.encode()))
