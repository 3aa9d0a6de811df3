"""Fetches a job's channels from S3, as SageMaker does at the start.

The client is boto3's S3 client; nothing here creates one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from splatgate.evidence import BadInput
from splatgate.sagemaker.channels import manifest_paths, relative_paths
from splatgate.sagemaker.guards import unfit
from splatgate.sagemaker.request import Channel

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
