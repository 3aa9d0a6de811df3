"""Sees what a registry serves, and gives the same manifest another tag.

Any registry is asked over the distribution API, Amazon ECR through boto3.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from splatgate.container.distribution import Distribution, Manifest, RegistryError
from splatgate.container.ecr import Ecr
from splatgate.container.reference import HUB, Reference, parse
from splatgate.evidence import BadInput, Child, Registry, Served

#: BuildKit's mark on a child that is no image (docs/attestations/attestation-storage.md).
ATTESTATION = "vnd.docker.reference.type"


class Client(Protocol):
    """One repository of a registry."""

    def manifest(self, reference: str) -> Manifest | None:
        """The manifest of a tag or digest, or None where there is none."""

    def tags(self) -> tuple[dict[str, str], bool]:
        """The digest of each tag, and whether these are all tags."""

    def put(self, manifest: Manifest, tag: str) -> None:
        """Store a manifest under a tag."""

    def mutability(self) -> str | None:
        """``MUTABLE``, ``IMMUTABLE`` or one of ECR's words between; None: it does not say."""

    def pushed(self, digest: str) -> datetime | None:
        """When a manifest was pushed; None: it does not say."""


def client(where: Reference) -> Client:
    """The way to ask about a repository."""
    return Ecr(where) if where.ecr else Distribution(where)


def look(ref: str, requested: str | None = None) -> Registry:
    """See what a registry serves under ``ref``, and under the reference that a request names.

    Raises:
        BadInput: no reference, or the registry gave no answer.
    """
    where = parse(ref)
    if where.host is None:
        raise BadInput(f"image {ref}: names no registry; give HOST/NAME:TAG ({HUB}/NAME:TAG)")
    asked = client(where)
    served = serve(asked, where, ref)
    tags, complete = asked.tags() if served else ({}, True)
    pushed = asked.pushed(served.digest) if served else None
    named = mutability = None
    if requested:
        other = parse(requested)
        same = other.repository == where.repository
        there = asked if same else client(other)
        named = serve(there, other, requested)
        mutability = there.mutability()
    return Registry(
        ref=ref,
        served=served,
        tags=tags,
        tags_complete=complete,
        mutability=asked.mutability() if served else None,
        pushed=pushed.isoformat() if pushed else None,
        seen=datetime.now(UTC).isoformat(timespec="seconds"),
        requested=requested,
        requested_served=named,
        requested_mutability=mutability,
    )


def serve(asked: Client, where: Reference, ref: str) -> Served | None:
    """What a repository serves under a reference, the images of an index included."""
    manifest = asked.manifest(where.manifest)
    if manifest is None:
        return None
    children = []
    for entry in manifest.document.get("manifests") or ():
        platform = entry.get("platform") or {}
        attests = (entry.get("annotations") or {}).get(ATTESTATION)
        child = None if attests else asked.manifest(str(entry.get("digest")))
        children.append(
            Child(
                digest=str(entry.get("digest")),
                media_type=str(entry.get("mediaType")),
                platform=f"{platform.get('os')}/{platform.get('architecture')}",
                attests=attests,
                image_id=child.image_id if child else None,
            )
        )
    layers = manifest.document.get("layers") or ()
    return Served(
        ref=ref,
        digest=manifest.digest,
        media_type=manifest.media_type,
        image_id=manifest.image_id,
        bytes=sum(int(layer.get("size", 0)) for layer in layers),
        children=tuple(children),
    )


def promote(ref: str, digest: str, tag: str) -> Served:
    """Give the manifest ``digest`` of a repository the tag ``tag``, byte for byte, and read it
    back.

    Raises:
        BadInput: it is not there, the registry refuses the tag, or serves something else under it.
    """
    where = parse(ref)
    asked = client(where)
    manifest = asked.manifest(digest)
    if manifest is None:
        raise RegistryError(
            f"{where.repository}: no manifest {digest}; push the image that was judged"
        )
    asked.put(manifest, tag)
    to = f"{where.repository}:{tag}"
    served = serve(asked, replace(where, tag=tag, digest=None), to)
    if served is None or served.digest != digest:
        found = served.digest if served else "nothing"
        raise RegistryError(
            f"{to}: serves {found} after {digest} was given the tag; look who moved it"
        )
    return served
