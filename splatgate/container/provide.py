"""What checks take of an image and its build, by name: functions of the door, like those of
``splatgate.provide``, which hands them out.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from splatgate.container import cleanlog, cuda
from splatgate.container.backends import NotRecorded
from splatgate.container.lint import UNREADABLE
from splatgate.container.lock import Pin
from splatgate.container.lock import read as read_lock
from splatgate.doors import Recorded
from splatgate.evidence import Command, Facts, Files, Image, LayerFiles, Registry, Remark
from splatgate.facts import HADOLINT_LEFT_OUT
from splatgate.outcomes import CannotLook, NotVerified
from splatgate.signoff import policy as policies
from splatgate.signoff.policy import Budget

#: Letters of an image's id.
ID = 64


def image(door: Recorded) -> Image:
    """The image under judgement."""
    return door.image()


def pushed(door: Recorded) -> Registry:
    """What a registry serves as the image under judgement."""
    found = door.registry()
    if found.image.error:
        raise CannotLook(found.image.error)
    return found


def build(door: Recorded) -> dict[str, Any]:
    """The record of the build that made the image; of a build elsewhere, what its log ends with."""
    try:
        return door.build()
    except NotRecorded:
        made, log = cleanlog.made(build_log(door)), door.file("build.log")
        if made is None or len(made) < ID or log is None:
            raise NotVerified("neither build.json nor the log names the image made") from None
        return {
            "image_id": f"sha256:{made}",
            "log_sha256": sha256(log.read_bytes()).hexdigest(),
        }


def build_log(door: Recorded) -> str:
    """The log of the build that made the image."""
    path = door.file("build.log")
    if path is None:
        raise NotVerified("no build log at hand: build here, or keep it as build.log")
    return path.read_text(errors="replace")


def lock(door: Recorded) -> tuple[Pin, ...]:
    """The requirements that the image was locked to, of all its locks together."""
    names = sorted(path.name for path in (door.folder / "lock").glob("*.txt"))
    paths = [path for name in names if (path := door.file(f"lock/{name}"))]
    texts = [path.read_text() for path in paths]
    if not texts:
        raise NotVerified(
            "the lock is not at hand: known for an image built here, from its sources"
        )
    return tuple(pin for text in texts for pin in read_lock(text))


def files(door: Recorded) -> Files:
    """What the probe saw of the image's whole file system."""
    seen = door.facts().files
    if seen is None:
        raise NotVerified("recorded before the probe looked at all files; record it anew")
    return seen


def sbom(door: Recorded) -> dict[str, Any]:
    """The bill of materials emitted beside the evidence."""
    door.facts()
    return door.sbom()


def host(door: Recorded) -> Any:
    """testinfra's host, bound to the container under test."""
    return door.host()


def facts(door: Recorded) -> Facts:
    """What the probe saw inside the container under test."""
    return door.facts()


def budget(door: Recorded) -> Budget:
    """What an image may have at most, by policy.toml."""
    return policies.budget()


def instances(door: Recorded) -> tuple[cuda.Target, ...]:
    """The instance types that the image is meant for: those named with --instance-type, else that
    of the request given, else those of the reference job definition.
    """
    asked = door.options.get("instance_types", ())
    if not asked and door.request_file:
        asked = (door.base_request().instance_type,)
    return tuple(cuda.target(name) for name in asked or cuda.INSTANCE_TYPES)


def remarks(door: Recorded) -> tuple[Remark, ...]:
    """What hadolint says of the Dockerfile, but for what says nothing here."""
    found = door.lint().remarks
    if unread := [r.message for r in found if r.code == UNREADABLE]:
        raise NotVerified(f"hadolint cannot read the Dockerfile: {' '.join(unread[0].split())}")
    return tuple(r for r in found if r.code not in HADOLINT_LEFT_OUT)


def layers(door: Recorded) -> tuple[LayerFiles, ...]:
    """What each layer of the image holds by itself."""
    found, image = door.layers(), door.image()
    if {layer.digest for layer in found} != set(image.digests):
        raise NotVerified("not every layer was seen")
    return found


def hardened(door: Recorded) -> Command:
    """The start with `train` on a read-only root, without capabilities."""
    return door.hardened()


PROVIDERS: dict[str, Callable[[Recorded], Any]] = {
    function.__name__: function
    for function in (
        image, pushed, build, build_log, lock, files, sbom, host, facts, budget, instances,
        remarks, layers, hardened,
    )
}  # fmt: skip
