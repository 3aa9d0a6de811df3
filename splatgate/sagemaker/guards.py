"""What stands around a job: checks of its input, a folder written whole, errors with a name."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from splatgate.evidence import BadInput
from splatgate.sagemaker.request import Request
from splatgate.sagemaker.stage import HostFailed


def check_folder(folder: Path) -> None:
    """Refuse to replace anything but an earlier job's evidence.

    Raises:
        BadInput: the folder holds other things.
    """
    if folder.exists() and not (folder / "job.json").is_file():
        if not folder.is_dir():
            raise BadInput(f"{folder}: is no folder; give a new one for the evidence")
        if any(folder.iterdir()):
            raise BadInput(f"{folder}: holds other things; give a new folder for the evidence")


def check_channels(request: Request, channels: Mapping[str, Path]) -> None:
    """Refuse a request whose channels and data do not match.

    Raises:
        BadInput: a channel without data, data without a channel, a mode that is not emulated.
    """
    wanted = {channel.name for channel in request.channels}
    if missing := sorted(wanted - channels.keys()):
        raise BadInput(f"channel {missing[0]}: the request has it, but no data was given for it")
    if extra := sorted(channels.keys() - wanted):
        raise BadInput(f"channel {extra[0]}: data was given, but the request has no such channel")
    for channel in request.channels:
        if channel.mode not in ("File", "FastFile"):
            raise BadInput(
                f"channel {channel.name}: input mode {channel.mode} is not emulated; use File"
            )


@contextlib.contextmanager
def engine_errors() -> Iterator[None]:
    """Turn what the engine's client raises into ``HostFailed``, one line."""
    import docker.errors
    import requests.exceptions

    try:
        yield
    except tarfile.TarError as error:
        raise HostFailed(f"the engine handed over a broken archive: {error}") from error
    except docker.errors.NotFound as error:
        what = f"the job's container was removed by another hand: {error.explanation}"
        raise HostFailed(what, "run it again") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        text = str(getattr(error, "explanation", None) or error)
        raise HostFailed(f"the engine failed: {' '.join(text.split())}") from error


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes ``folder`` if the block ends well, and vanishes if not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temp.chmod(0o755)
        yield temp
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            folder.replace(old / "old")
            temp.replace(folder)
            shutil.rmtree(old)
        else:
            temp.replace(folder)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
