"""Promotion: the manifest that was judged is copied to the release repository, byte for byte, and
gets its tag there, or nothing happens.

What is promoted is one Docker schema 2 manifest for linux/amd64, whose configuration is the image
that was judged: SageMaker's endpoints refuse OCI media types (contract, section 4), and an index
names more than was judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from splatgate.container import registry
from splatgate.container.distribution import SCHEMA2, Manifest
from splatgate.container.reference import TAG, Reference, parse
from splatgate.evidence import BadInput
from splatgate.signoff.document import Released

#: The tag that may move; every other names one digest for ever.
MOVES = "latest"


class NotPromoted(Exception):
    """The registry holds something that forbids the promotion. One line: what, how to mend it."""


def staged(ref: str) -> tuple[Reference, Manifest]:
    """What a staging reference serves.

    Raises:
        BadInput: no reference to a registry, or nothing there.
    """
    where = parse(ref)
    if where.host is None:
        raise BadInput(f"{ref}: names no registry; give --image HOST/NAME@sha256:…")
    manifest = registry.client(where).manifest(where.manifest)
    if manifest is None:
        raise BadInput(f"{ref}: the registry has none of that name; push it first (make push)")
    return where, manifest


def same_image(manifest: Manifest, image_id: str | None) -> str:
    """Why a manifest is not that of the image judged, or "".

    An engine with the containerd store knows an image by its manifest; others by its configuration.
    """
    if manifest.media_type != SCHEMA2:
        kind = manifest.media_type or "no media type"
        return f"it is {kind}, not one Docker schema 2 manifest; push it with make push"
    if image_id not in (manifest.image_id, manifest.digest):
        return f"its configuration is {manifest.image_id}, and {image_id} was judged"
    return ""


def destination(to: str, staging: str) -> Reference:
    """The release repository.

    Raises:
        BadInput: it is no repository, or the one that was staged to.
    """
    found = parse(to)
    if found.host is None or found.tag or found.digest:
        raise BadInput(f"--to {to}: give the release repository, HOST/NAME, without a tag")
    if found.repository == staging:
        raise BadInput(f"--to {to}: images are staged there, ungated; release to another one")
    return found


def promote(
    where: Reference, manifest: Manifest, to: Reference, tags: Sequence[str], image_id: str | None
) -> Released:
    """Give a staged manifest its tags in the release repository, and read each back.

    Every tag is looked at before the first is written, so that nothing is half released.

    Raises:
        NotPromoted: it is another image, or a tag is taken, or may not move.
        BadInput: the registry gave no answer, or serves something else than was written.
    """
    if reason := same_image(manifest, image_id):
        raise NotPromoted(f"{where.repository}@{manifest.digest}: {reason}")
    asked, before = registry.client(to), {}
    for tag in tags:
        if not TAG.fullmatch(tag):
            raise NotPromoted(f"{tag!r} is no tag")
        named = asked.manifest(tag)
        before[tag] = named.digest if named else None
        if named is None or named.digest == manifest.digest:
            continue
        taken = f"{to.repository}:{tag} names {named.digest} already"
        if tag != MOVES:
            raise NotPromoted(f"{taken}; a release tag never moves: choose another")
        if asked.mutable(tag) is False:
            how = "exclude it (imageTagMutabilityExclusionFilters), or promote no latest"
            raise NotPromoted(f"{taken}, and the repository's tags are immutable; {how}")
    registry.copy(where, to, manifest)
    for tag in tags:
        if before[tag] != manifest.digest:
            asked.put(manifest, tag)
        served = registry.serve(asked, replace(to, tag=tag), f"{to.repository}:{tag}")
        if served is None or (served.digest, served.media_type) != (manifest.digest, SCHEMA2):
            raise BadInput(f"{to.repository}:{tag}: does not serve what was promoted")
    return Released(
        repository=to.repository,
        tag=tags[0],
        digest=manifest.digest,
        media_type=manifest.media_type,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        before=before[tags[0]],
        also=tuple(tags[1:]),
    )
