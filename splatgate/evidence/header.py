"""What a folder of evidence is about, who saw it, and where evidence can come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

#: Raised when a field is renamed or its meaning changes; added fields do not raise it.
SCHEMA = "splatgate/evidence/1"
#: What `extra` says at `runtime` of a job in an account.
ACCOUNT = "account"


class Origin(StrEnum):
    """Where evidence comes from. A mock is no origin."""

    IMAGE = "image"
    EMULATED = "emulated"
    REGISTRY = "registry"
    GPU = "gpu"
    LIVE = "live"


@dataclass(frozen=True)
class Machine:
    """The machine that saw: facts that explain a difference between two runs."""

    engine: str | None = None
    cpus: int | None = None
    mem: int | None = None
    #: Name, capability, driver, memory, clock now and greatest clock, as nvidia-smi tells them.
    gpu: str | None = None
    #: Version of CUDA that the trainer's kernels ran on.
    cuda: str | None = None
    #: ``process``: the source tree in the machine's interpreter. None: the image in the engine.
    runtime: str | None = None


@dataclass(frozen=True)
class Header:
    """``evidence.json``: what this folder is about."""

    run: str
    image_id: str | None
    created: str
    machine: Machine
    #: Content hash of the scene that the jobs were given.
    scene: str | None = None
    scene_name: str | None = None
    schema: str = SCHEMA
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Whether it is of a job in an account."""
        return self.extra.get("runtime") == ACCOUNT

    @property
    def outside(self) -> bool:
        """Whether it was seen outside the image, as by the process runtime: supporting only."""
        return self.image_id is None or not (self.live or self.extra.get("runtime") is None)
