"""Opens an image in a registry: its manifest and configuration now, each layer as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from splatgate.container.distribution import Distribution, RegistryError
from splatgate.container.ecr import Ecr
from splatgate.container.layers.entries import Readable, Reader
from splatgate.container.layers.images import MOST_JSON, Opened, choose
from splatgate.container.reference import parse
from splatgate.container.registry import client


def open_remote(ref: str, say: Callable[[str], None] = lambda line: None) -> Opened:
    """Open the image that a registry serves under a reference, for linux/amd64 where it serves
    several.

    Raises:
        RegistryError: there is none, the registry gives no answer, or another than was asked for.
    """
    where = parse(ref)
    if where.host is None:
        raise RegistryError(f"image {ref}: names no registry; give HOST/NAME:TAG")
    there = client(where)
    manifest = there.manifest(where.manifest)
    if manifest is not None and "manifests" in manifest.document:
        digest = str(choose(manifest.document, ref, say).get("digest"))
        manifest = there.manifest(digest)
    if manifest is None:
        raise RegistryError(f"image {ref}: the registry has none of that name; push it")
    # Amazon's logins hold for twelve hours: a fresh one, of the user's own credentials.
    login = there.login() if isinstance(there, Ecr) else None
    blobs = Distribution(where, login)
    document = manifest.document
    config, layers = document.get("config"), document.get("layers")
    if not isinstance(config, dict) or not isinstance(layers, list):
        raise RegistryError(f"image {ref}: {manifest.digest} is no image; give one")
    total = sum(_size(layer) for layer in layers)
    say(f"registry: {len(layers)} layers, {total / 1e9:.2f} GB, less what was read before")
    if _size(config) > MOST_JSON:
        raise RegistryError(f"image {ref}: a configuration of {_size(config)} bytes; push it again")
    return Opened(
        ref,
        b"".join(blobs.stream(str(config.get("digest")), _size(config))),
        manifest.digest,
        tuple(partial(_layer, blobs, layer, ref) for layer in layers),
    )


def _size(descriptor: Any) -> int:
    size = descriptor.get("size") if isinstance(descriptor, dict) else None
    return size if isinstance(size, int) else 0


@contextmanager
def _layer(blobs: Distribution, layer: dict[str, Any], ref: str) -> Iterator[Readable]:
    if layer.get("urls"):
        raise RegistryError(
            f"image {ref}: layer {layer.get('digest')} is foreign, and is not kept in the registry "
            f"({layer['urls']}); save the image, and give the file"
        )
    yield Reader(blobs.stream(str(layer.get("digest")), _size(layer)))
