"""Sees what a registry serves, and gives the same manifest another tag.

Any registry is asked over the distribution API, Amazon ECR through boto3.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from splatgate.container.distribution import Distribution, Manifest, RegistryError
from splatgate.container.ecr import Ecr
from splatgate.container.reference import Reference, parse
from splatgate.evidence import Answer, BadInput, Child, Registry, Served

#: BuildKit's mark on a child that is no image (docs/attestations/attestation-storage.md).
ATTESTATION = "vnd.docker.reference.type"

#: In a folder of evidence: the manifest and the configuration as a registry serves them.
MANIFEST, CONFIG = "manifest.json", "config.json"


class Client(Protocol):
    """One repository of a registry."""

    def manifest(self, reference: str) -> Manifest | None:
        """The manifest of a tag or digest, or None where there is none."""

    def blob(self, digest: str) -> bytes:
        """A small blob, such as a configuration."""

    def tags(self) -> tuple[dict[str, str], bool]:
        """The digest of each tag, and whether these are all tags."""

    def put(self, manifest: Manifest, tag: str) -> None:
        """Store a manifest under a tag."""

    def mutable(self, tag: str) -> bool | None:
        """Whether a tag may be moved; None: it does not say."""

    def pushed(self, digest: str) -> datetime | None:
        """When a manifest was pushed; None: it does not say."""


def client(where: Reference) -> Client:
    """The way to ask about a repository."""
    return Ecr(where) if where.ecr else Distribution(where)


def look(ref: str, requested: str | None = None) -> Registry:
    """See what registries serve under ``ref``, and under the TrainingImage of a request.

    A registry that gives no answer is no error here: the record says so.
    """
    found, there = ask(ref)
    tags: dict[str, str] = {}
    complete = False
    if there and found.served:
        # A registry may serve a manifest and keep its list of tags to itself.
        with suppress(RegistryError):
            tags, complete = there.tags()
    return Registry(
        image=found,
        request=ask(requested)[0] if requested else None,
        tags=tags,
        tags_complete=complete,
        seen=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def bytes_of(answer: Answer) -> dict[str, bytes]:
    """The manifest of one image and its configuration, as they are served, by their names in a
    folder of evidence; none where the registry serves no single image or keeps them.
    """
    served = answer.served
    if served is None or served.image_id is None:
        return {}
    where = parse(answer.ref)
    with suppress(RegistryError):
        there = client(where)
        if manifest := there.manifest(served.digest):
            return {MANIFEST: manifest.data, CONFIG: there.blob(served.image_id)}
    return {}


def ask(ref: str) -> tuple[Answer, Client | None]:
    """What a registry serves under a reference, and the way to ask it for more."""
    try:
        where = parse(ref)
        if where.host is None:
            raise RegistryError(f"image {ref}: names no registry; give HOST/NAME:TAG")
        there = client(where)
        served = serve(there, where, ref)
        if served is None:
            return Answer(ref), there
        found = Answer(ref, served, mutable=False if where.digest else None)
        # Who may pull need not be allowed to ask for these.
        with suppress(RegistryError):
            if where.digest is None:
                found = replace(found, mutable=there.mutable(where.manifest))
        with suppress(RegistryError):
            pushed = there.pushed(served.digest)
            found = replace(found, pushed=pushed.isoformat() if pushed else None)
        return found, there
    except BadInput as error:
        return Answer(ref, error=str(error)), None


def serve(there: Client, where: Reference, ref: str) -> Served | None:
    """What a repository serves under a reference, the images of an index included."""
    manifest = there.manifest(where.manifest)
    if manifest is None:
        return None
    children = []
    for entry in manifest.document.get("manifests") or ():
        platform = entry.get("platform") or {}
        attests = (entry.get("annotations") or {}).get(ATTESTATION)
        child = None if attests else there.manifest(str(entry.get("digest")))
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


def copy(where: Reference, to: Reference, manifest: Manifest) -> None:
    """Copy what a manifest names from one repository to another; nothing where both are one.

    Raises:
        RegistryError: a registry refuses, or serves another blob than the manifest names.
    """
    if where.repository == to.repository:
        return
    source, target = transfer(where), transfer(to)
    document = manifest.document
    for entry in (document["config"], *document["layers"]):
        target.take(str(entry["digest"]), int(entry["size"]), source)


def transfer(where: Reference) -> Distribution:
    """The way to a repository's blobs; Amazon's registry too speaks the distribution API, with a
    login of its own.
    """
    return Distribution(where, Ecr(where).login() if where.ecr else None)
