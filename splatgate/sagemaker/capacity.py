"""What a job takes of its instance, reckoned from request, scene and profile before it is rented.

The model is the profile's (`splatgate.subject.Memory`), and without one a lower bound: the least
that any trainer of 3D Gaussians takes. What a request leaves to the trainer's defaults counts for
nothing, so that whatever is refused here cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from splatgate.expectations import MODEL_GAUSSIAN
from splatgate.instances import Instance
from splatgate.sagemaker.assumptions import MIB, Assumptions
from splatgate.sagemaker.channels import files_below
from splatgate.sagemaker.limits import limits_of
from splatgate.sagemaker.request import Request
from splatgate.scene.colmap import Scene
from splatgate.subject import Profile


@dataclass(frozen=True)
class Need:
    """Bytes of one kind that a job takes, by purpose, and how many its instance has."""

    kind: str
    parts: dict[str, int]
    have: int

    @property
    def total(self) -> int:
        """All that is needed, in bytes."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """What is needed, for what most of all, and what there is."""
        largest = max(self.parts, key=lambda name: self.parts[name])
        told = f"{self.total / 1e9:.1f} GB of {self.kind}, {self.parts[largest] / 1e9:.1f} GB "
        return f"{told}of it for {largest}, and there are {self.have / 1e9:.1f} GB"


def needs(request: Request, instance: Instance, scene: Scene, profile: Profile) -> list[Need]:
    """Host memory, GPU memory and disk that a job takes of its instance."""
    model = profile.memory
    gaussians = _asked(request, profile.effects.gaussians) or len(scene.points_xyz)
    longest = _asked(request, profile.effects.image_size)
    full = [view.width * view.height for view in scene.views]
    shrunk = [round(n * share) for n, share in zip(full, _shares(scene, longest), strict=True)]
    kept = full if model.full_size else shrunk
    limits = limits_of(instance, Assumptions(), request.volume_gb)
    host = {
        "the program": model.host,
        "photographs": sum(kept) * model.photo_pixel,
        "decoding": max(full, default=0) * model.decoded_pixel,
        "Gaussians": gaussians * model.host_gaussian,
    }
    gpu = {
        "the program": model.gpu,
        "Gaussians": gaussians * model.gpu_gaussian,
        "drawing": max(kept, default=0) * model.gpu_pixel,
    }
    disk = {
        "the scene": size_of(scene.path),
        "model and checkpoint": gaussians * (MODEL_GAUSSIAN + model.checkpoint_gaussian),
    }
    return [
        Need("memory", host, limits.memory_bytes or 0),
        Need("GPU memory", gpu, instance.gpu_memory_mib * MIB),
        Need("disk", disk, limits.disk_bytes or 0),
    ]


def size_of(path: Path) -> int:
    """Bytes of all files below a path."""
    return sum(file.stat().st_size for _, file in files_below(path))


def _asked(request: Request, name: str | None) -> int:
    """A parameter of the request by its name, as a whole number; 0 where it is not given."""
    found = parameter(request, name)
    return int(found) if found is not None and 0 < found < 1e12 else 0


def parameter(request: Request, name: str | None) -> float | None:
    """A number among a request's hyperparameters, or its variables in upper case."""
    given = {key.lower(): value for key, value in request.environment.items()}
    text = {**given, **request.hyperparameters}.get(name or "", "").strip('"')
    try:
        return float(text)
    except ValueError:
        return None


def _shares(scene: Scene, longest: int) -> Iterator[float]:
    """The share of its pixels that is left of each photograph at its largest side; 0 unknown."""
    for view in scene.views:
        side = max(view.width, view.height, 1)
        yield min(1.0, longest / side) ** 2
