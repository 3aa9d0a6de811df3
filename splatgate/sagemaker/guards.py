"""What stands around a job: checks of its input, a folder written whole, errors with a name."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from splatgate.container import sweep
from splatgate.evidence import BadInput
from splatgate.sagemaker.request import Channel, Request
from splatgate.sagemaker.resources import HostFailed


def check_folder(folder: Path) -> None:
    """Refuse to replace anything but an earlier job's evidence; make the folder above it.

    Raises:
        BadInput: the folder holds other things, or cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}; give a folder that can be made") from None
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
        if problem := unfit(channel):
            raise BadInput(f"channel {channel.name}: {problem}")


def unfit(channel: Channel) -> str | None:
    """Why a channel of a request cannot be had, here or on SageMaker (contract 2.4), or None."""
    if channel.mode == "Pipe":
        return (
            "Pipe mode is one FIFO for each epoch, from which no scene of many files can be read: "
            "not possible here; use File or FastFile"
        )
    if channel.mode not in ("File", "FastFile"):
        return f"input mode {channel.mode} is none; use File or FastFile"
    if channel.s3_type not in ("S3Prefix", "ManifestFile"):
        return f"S3DataType {channel.s3_type} is not emulated; use S3Prefix or ManifestFile"
    if channel.mode == "FastFile" and channel.s3_type != "S3Prefix":
        return "FastFile takes S3Prefix only; use File with a manifest"
    if channel.mode == "FastFile" and channel.uri and not channel.uri.endswith("/"):
        return f"FastFile takes whole folders only; end {channel.uri} with /"
    return None


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
    """A temporary sibling that becomes ``folder`` if the block ends well, and vanishes if not.

    Siblings that killed processes have left vanish as well.
    """
    prefix = f".{folder.name}."
    sweep.sweep_folders(folder.parent, prefix)
    temp = Path(tempfile.mkdtemp(prefix=f"{prefix}{sweep.controller()}.", dir=folder.parent))
    try:
        temp.chmod(0o755)
        yield temp
        if folder.exists():
            name = f"{prefix}{sweep.controller()}."
            old = Path(tempfile.mkdtemp(prefix=name, dir=folder.parent))
            folder.replace(old / "old")
            temp.replace(folder)
            shutil.rmtree(old)
        else:
            temp.replace(folder)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
