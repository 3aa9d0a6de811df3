"""A repository of Amazon ECR, which also knows when something was pushed and whether tags move."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from splatgate.container.distribution import (
    ACCEPT,
    ANSWER,
    Manifest,
    RegistryError,
    checked,
    small,
)
from splatgate.container.reference import Reference


class Ecr:
    """A repository of Amazon ECR, through boto3 and the user's own AWS credentials."""

    def __init__(self, where: Reference) -> None:
        import boto3

        assert where.ecr is not None
        self.where = where
        self.place = {"registryId": where.ecr["account"], "repositoryName": where.name}
        self._details: list[dict[str, Any]] | None = None
        with self._answers():
            self.api = boto3.client("ecr", region_name=where.ecr["region"])

    def manifest(self, reference: str) -> Manifest | None:
        """The manifest of a tag or digest, or None where there is none."""
        key = "imageDigest" if reference.startswith("sha256:") else "imageTag"
        with self._answers():
            try:
                found = self.api.batch_get_image(
                    **self.place, imageIds=[{key: reference}], acceptedMediaTypes=list(ACCEPT)
                )
            except self.api.exceptions.RepositoryNotFoundException:
                return None
        if not found.get("images"):
            codes = {f.get("failureCode") for f in found.get("failures", ())}
            if codes - {"ImageNotFound"}:
                what = ", ".join(map(str, codes))
                raise RegistryError(f"{self.where.repository}:{reference}: {what}; push it again")
            return None
        image = found["images"][0]
        manifest = Manifest(
            image["imageManifest"].encode(), image.get("imageManifestMediaType") or ""
        )
        if not manifest.media_type:
            manifest = replace(manifest, media_type=str(manifest.document.get("mediaType")))
        said = image["imageId"].get("imageDigest")
        return checked(manifest, reference, said, f"{self.where.repository}:{reference}")

    def blob(self, digest: str) -> bytes:
        """A small blob, such as a configuration."""
        import requests

        with self._answers():
            found = self.api.get_download_url_for_layer(**self.place, layerDigest=digest)
        try:
            answer = requests.get(found["downloadUrl"], timeout=ANSWER)
            answer.raise_for_status()
        except requests.RequestException as error:
            text = " ".join(str(error).split("?")[0].split())[:160]
            raise RegistryError(f"{self.where.repository}: no blob {digest}: {text}") from None
        return small(answer.content, digest, self.where.repository)

    def details(self) -> list[dict[str, Any]]:
        """Everything in the repository, as ``describe_images`` tells it."""
        if self._details is None:
            with self._answers():
                pages = self.api.get_paginator("describe_images").paginate(**self.place)
                self._details = [detail for page in pages for detail in page["imageDetails"]]
        return self._details

    def tags(self) -> tuple[dict[str, str], bool]:
        """The digest of each tag, and that these are all tags."""
        return {
            tag: detail["imageDigest"]
            for detail in self.details()
            for tag in detail.get("imageTags") or ()
        }, True

    def put(self, manifest: Manifest, tag: str) -> None:
        """Store a manifest under a tag; a tag that it has already is no error."""
        self._details = None
        with self._answers():
            try:
                self.api.put_image(
                    **self.place,
                    imageManifest=manifest.data.decode(),
                    imageManifestMediaType=manifest.media_type,
                    imageTag=tag,
                    imageDigest=manifest.digest,
                )
            except self.api.exceptions.ImageAlreadyExistsException:
                return

    def mutable(self, tag: str) -> bool | None:
        """Whether a tag may be moved, by the repository's setting and its exclusions."""
        with self._answers():
            (found,) = self.api.describe_repositories(
                registryId=self.place["registryId"],
                repositoryNames=[self.place["repositoryName"]],
            )["repositories"]
        filters = found.get("imageTagMutabilityExclusionFilters") or ()
        excluded = any(_matches(tag, entry["filter"]) for entry in filters)
        return bool(found["imageTagMutability"].startswith("MUTABLE") != excluded)

    def pushed(self, digest: str) -> datetime | None:
        """When a manifest was pushed."""
        times = [d["imagePushedAt"] for d in self.details() if d["imageDigest"] == digest]
        return times[0].astimezone(UTC) if times else None

    def login(self) -> dict[str, str]:
        """User and password for ``docker pull``; they hold for twelve hours."""
        with self._answers():
            found = self.api.get_authorization_token()["authorizationData"][0]
        user, _, word = base64.b64decode(found["authorizationToken"]).decode().partition(":")
        return {"username": user, "password": word}

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Tell AWS's errors in one line."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            text = " ".join(str(error).split())[:200]
            raise RegistryError(
                f"{self.where.repository}: {text}; check credentials (AWS_PROFILE) and permissions"
            ) from None


def _matches(tag: str, wildcard: str) -> bool:
    """Whether a tag fits an exclusion filter, in which ``*`` is any text."""
    return re.fullmatch(".*".join(map(re.escape, wildcard.split("*"))), tag) is not None
