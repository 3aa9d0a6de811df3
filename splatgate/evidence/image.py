"""Evidence of an image as it lies in an engine: its configuration, its layers, its Dockerfile."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from splatgate.evidence.header import Origin


@dataclass(frozen=True)
class Layer:
    """One layer of an image. ``bytes`` is its uncompressed size as the engine counts it."""

    created_by: str
    bytes: int


@dataclass(frozen=True)
class Image:
    """An image's configuration, as the engine reports it (`docker image inspect`)."""

    ref: str
    #: sha256 of the config JSON: what evidence made before a push is keyed by.
    image_id: str
    #: What a registry serves; None until the image has been pushed or pulled.
    manifest_digest: str | None
    os: str
    architecture: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: dict[str, str]
    user: str
    workdir: str
    labels: dict[str, str]
    bytes: int
    layers: tuple[Layer, ...] = ()
    #: Digests of the layers with content, from the base up (RootFS).
    digests: tuple[str, ...] = ()
    origin: Origin = Origin.IMAGE


@dataclass(frozen=True)
class Remark:
    """What hadolint says of one line. ``level`` is error, warning, info or style."""

    code: str
    level: str
    line: int
    message: str


@dataclass(frozen=True)
class Lint:
    """What hadolint says of a Dockerfile, less what the text itself waives."""

    version: str
    #: Content hash of the text.
    dockerfile_sha256: str
    remarks: tuple[Remark, ...]


class LeftoverKind(StrEnum):
    """What a file is that an image should ship with care, or not at all."""

    #: A repository with its history.
    GIT = "git"
    #: Of a package manager.
    CACHE = "cache"
    #: Named by an unquoted version constraint.
    REDIRECTED = "redirected"
    CREDENTIALS = "credentials"
    #: Of the host's driver.
    DRIVER = "driver"
    #: CUDA's forward compatibility.
    COMPAT = "compat"
    #: A CUDA runtime.
    CUDART = "cudart"
    #: An nvcc.
    TOOLKIT = "toolkit"


@dataclass(frozen=True)
class Leftover:
    """A file or folder of some kind."""

    path: str
    kind: LeftoverKind
    bytes: int = 0


@dataclass(frozen=True)
class LayerFiles:
    """What one layer of an image holds by itself, whatever later layers removed."""

    digest: str
    files: int
    leftovers: tuple[Leftover, ...]
