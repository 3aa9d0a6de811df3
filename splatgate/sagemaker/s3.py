"""Moves a job's data as SageMaker does: channels from S3 at the start, archives to S3 at the end.

The client is boto3's S3 client; nothing here creates one.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from splatgate.evidence import BadInput
from splatgate.sagemaker.channels import files_below, manifest_paths, relative_paths
from splatgate.sagemaker.guards import unfit
from splatgate.sagemaker.request import Channel, Request

#: How often fetching says how far it is (seconds).
SAY_EVERY = 5.0


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``.

    Raises:
        BadInput: it is no such URI.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise BadInput(f"{uri}: not s3://BUCKET/PREFIX")
    return bucket, key


def download(
    s3: Any, channel: Channel, into: Path, say: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Fetch a File or FastFile channel to folder ``into``; returns the relative paths, sorted.

    Raises:
        BadInput: nothing under the URI (SageMaker fails such a job in Downloading), no such bucket,
        no access, or two
            objects that one folder cannot hold.
    """
    import botocore.exceptions

    if problem := unfit(channel):
        raise BadInput(f"channel {channel.name}: {problem}")
    try:
        found = dict(_objects(s3, channel))
        if not found:
            raise BadInput(
                f"channel {channel.name}: no objects under {channel.uri}; check the prefix"
            )
        said = time.monotonic()
        for number, (uri, path) in enumerate(found.items()):
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                say(f"channel {channel.name}: {number} of {len(found)} objects fetched")
            parts = PurePosixPath(path).parts
            if ".." in parts or not parts:
                raise BadInput(f"channel {channel.name}: {uri} would leave the channel's folder")
            target = into.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(*split_uri(uri), str(target))
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        text = " ".join(str(error).split())
        raise BadInput(f"channel {channel.name}: {channel.uri}: {text}") from None
    except OSError as error:
        # "a" and "a/b" are two objects, and no folder holds both.
        raise BadInput(f"channel {channel.name}: {channel.uri}: {error}") from None
    return sorted(found.values())


def _objects(s3: Any, channel: Channel) -> Iterator[tuple[str, str]]:
    """Each object of the channel: its URI and where it lands."""
    bucket, key = split_uri(channel.uri)
    if channel.s3_type == "ManifestFile":
        text = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode("utf-8", "replace")
        yield from manifest_paths(text, channel.uri).items()
        return
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    for name, path in relative_paths(keys, key).items():
        yield f"s3://{bucket}/{name}", path


def upload(s3: Any, request: Request, folder: Path) -> list[str]:
    """Send what a job left in its evidence ``folder`` to S3OutputPath; returns the URIs.

    GZIP: ``JOB/output/model.tar.gz`` and ``output.tar.gz`` (contract 2.1); the host must have kept
    ``archive`` and ``output``. NONE: the files as they are, below ``JOB/output/model`` (that name:
    unverified). Checkpoints go to CheckpointConfig's S3Uri, as they are (contract 1.5).

    Raises:
        BadInput: the request has no S3OutputPath.
    """
    target = (request.raw.get("OutputDataConfig") or {}).get("S3OutputPath") or ""
    bucket, prefix = split_uri(target)
    base = f"{prefix.rstrip('/')}/{request.name}/output".lstrip("/")
    pairs: list[tuple[Path, str]] = []
    if request.compression == "NONE":
        for name in ("model", "output"):
            if (folder / name).is_dir():
                pairs += [(p, f"{base}/{name}/{rel}") for rel, p in files_below(folder / name)]
    else:
        if (folder / "output").is_dir():
            with tarfile.open(folder / "output.tar.gz", "w:gz") as tar:
                for rel, path in files_below(folder / "output"):
                    tar.add(path, rel)
        for name in ("model.tar.gz", "output.tar.gz"):
            if (folder / name).is_file():
                pairs.append((folder / name, f"{base}/{name}"))
    targets = [(path, bucket, key) for path, key in pairs]
    if request.checkpoint_uri and (folder / "checkpoints").is_dir():
        where, key = split_uri(request.checkpoint_uri)
        for rel, path in files_below(folder / "checkpoints"):
            targets.append((path, where, f"{key.rstrip('/')}/{rel}".lstrip("/")))
    for path, where, key in targets:
        s3.upload_file(str(path), where, key)
    return [f"s3://{where}/{key}" for _, where, key in targets]
