"""boto3's clients, with what an account may answer told in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from splatgate.evidence import BadInput


def clients(profile: str | None, region: str | None, instead: str = "") -> Callable[[str], Any]:
    """Makes boto3's clients by the name of their service, each once.

    ``instead``: what else the user may have meant, to begin the message with.

    Raises:
        BadInput: no Region or no such profile.
    """
    import boto3
    import botocore.config
    import botocore.exceptions

    # The services' own advice for throttling: back off, and try again for a while.
    config = botocore.config.Config(retries={"mode": "adaptive", "max_attempts": 12})
    try:
        session = boto3.Session(profile_name=profile, region_name=region)
        session.client("sagemaker", config=config)
    except botocore.exceptions.BotoCoreError as error:
        raise BadInput(
            f"{instead}no way to AWS: {error}; --region and --profile name one"
        ) from None
    return functools.cache(lambda service: session.client(cast(Any, service), config=config))


def told(error: Exception) -> str:
    """An error of boto3 as one line."""
    return " ".join(str(error).split())
