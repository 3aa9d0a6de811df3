"""Pushes an image to a staging repository, which is ungated: nothing is released by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from splatgate.container import engine, registry
from splatgate.container import image as images
from splatgate.container.distribution import INDEXES, SCHEMA2, Manifest, remedy
from splatgate.container.reference import Reference, parse
from splatgate.evidence import BadInput
from splatgate.paths import built_image
from splatgate.signoff.promote import same_image, staged

#: Seconds between two lines of progress.
PROGRESS = 10.0


def push(ref: str | None, to: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Push ``ref`` and read back what the registry serves (``splatgate/push/1``).

    Raises:
        BadInput: no such image, no repository, or the registry refuses.
        EngineError: no engine.
    """
    where = parse(to)
    if where.host is None or where.tag or where.digest:
        raise BadInput(f"--to {to}: give a repository, HOST/NAME; its tag is made from the image")
    name = ref or built_image()
    if name is None:
        raise BadInput("no image to push: build one (make image) or give --image REF")
    client = engine.client()
    image = images.see(client, name)
    # Named by its content: no two images share a staging tag, and none is ever replaced.
    tag = f"staging-{image.image_id.removeprefix('sha256:')[:12]}"
    _push(client, image.image_id, where.repository, tag, say)
    there, manifest = staged(f"{where.repository}:{tag}")
    if manifest.media_type == SCHEMA2:
        problem = same_image(manifest, image.image_id)
    else:
        tag, manifest, problem = as_schema2(there, manifest, image.image_id)
        say(f"  pushed in OCI's form by this engine; {tag} is {manifest.media_type}")
    if problem:
        say(f"{where.repository}:{tag}: cannot be promoted: {problem}")
    return {
        "schema": "splatgate/push/1",
        "ref": f"{where.repository}@{manifest.digest}",
        "tag": tag,
        "manifest_digest": manifest.digest,
        "media_type": manifest.media_type,
        "image_id": image.image_id,
        "problem": problem,
    }


def as_schema2(there: Reference, pushed: Manifest, image_id: str) -> tuple[str, Manifest, str]:
    """Store an image that the engine pushed in OCI's form as one Docker schema 2 manifest, too.

    Engines with the containerd store push so, some of them in an index. Returns the tag, a new one
    since a repository's tags may be immutable; the manifest that it names; and why that is not the
    image ``image_id``, or "".
    """
    asked = registry.client(there)
    tag, chain = f"{there.tag}-schema2", [pushed]
    if pushed.media_type in INDEXES:
        images = [
            entry["digest"]
            for entry in pushed.document.get("manifests") or ()
            if registry.ATTESTATION not in (entry.get("annotations") or {})
        ]
        child = asked.manifest(images[0]) if len(images) == 1 else None
        chain += [child] if child else []
    made = chain[-1].schema2()
    if made is None:
        return there.tag or "", pushed, same_image(pushed, image_id)
    asked.put(made, tag)
    # The engine knows its image by any of these.
    known = {m.digest for m in chain} | {made.image_id}
    return tag, made, same_image(made, made.digest if image_id in known else image_id)


def _push(
    client: Any, image_id: str, repository: str, tag: str, say: Callable[[str], None]
) -> None:
    client.images.get(image_id).tag(repository, tag)
    say(f"pushing {repository}:{tag}")
    layers: dict[str, tuple[int, int]] = {}
    told = time.monotonic()
    for event in client.api.push(repository, tag=tag, stream=True, decode=True):
        if "error" in event:
            said = event["error"]
            raise BadInput(f"{repository}: {said}; {remedy(said, parse(repository).host)}")
        detail = event.get("progressDetail") or {}
        if "current" in detail:
            layers[event["id"]] = (detail["current"], detail.get("total", 0))
        if layers and time.monotonic() - told > PROGRESS:
            told = time.monotonic()
            sent, total = (sum(part) / 1e9 for part in zip(*layers.values(), strict=True))
            say(f"  {sent:.1f} of {max(sent, total):.1f} GB, {len(layers)} layers begun")
