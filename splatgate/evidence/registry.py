"""Evidence of what registries serve."""

from __future__ import annotations

from dataclasses import dataclass

from splatgate.evidence.header import Origin


@dataclass(frozen=True)
class Child:
    """One manifest that an index names."""

    digest: str
    media_type: str
    #: ``linux/amd64``; ``unknown/unknown`` for what is no image.
    platform: str
    #: BuildKit's word for what it is, where it is no image: ``attestation-manifest``.
    attests: str | None = None
    #: Digest of its configuration, where it is an image.
    image_id: str | None = None


@dataclass(frozen=True)
class Served:
    """What a registry serves under a reference."""

    ref: str
    #: sha256 of the manifest's bytes.
    digest: str
    media_type: str
    #: Digest of the configuration that the manifest names; an index names none.
    image_id: str | None
    #: All layers together, compressed.
    bytes: int = 0
    children: tuple[Child, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a registry answered about one reference."""

    ref: str
    #: None: it has no such manifest.
    served: Served | None = None
    #: False: the registry says that the tag stays; None: it does not say.
    mutable: bool | None = None
    #: When the manifest was pushed; None: the registry does not say.
    pushed: str | None = None
    #: Why the registry could not be asked; then nothing else is known.
    error: str = ""


@dataclass(frozen=True)
class Registry:
    """What registries answered about the image under judgement."""

    #: About the reference that was given for it.
    image: Answer
    #: About TrainingImage, where a request was given.
    request: Answer | None
    #: Digest of each tag of the image's repository.
    tags: dict[str, str]
    #: False: it has more tags than were asked for.
    tags_complete: bool
    seen: str
    origin: Origin = Origin.REGISTRY
