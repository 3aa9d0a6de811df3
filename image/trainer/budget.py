"""Memory, reckoned before it is allocated: what a run will need, against what there is.

Figures are upper bounds by counting (photographs, parameters) or by measurement on a CPU
(working space). docs/trainer.md, "Memory", gives the model in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer import log, virtual
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.photos import sizes
from trainer.scene import Scene

#: Floats of a Gaussian at SH degree 3: mean 3, quaternion 4, scale 3, opacity 1, SH 48.
_FLOATS = 59
#: Parameters, gradients and two moments; at a refinement the old and the new of all but gradients.
_TRAINED = _FLOATS * 4 * 6
#: A Gaussian's part in one view: projected, shaded, sorted into tiles, and the gradients of that.
_DRAWN = 1500
#: A Gaussian's, and a pixel's, part in an evaluation on the way, drawn beside the
#: training's own (NVIDIA H200: 53 MB for 46,000 Gaussians at 776x435).
_EVALUATED, _SHOWN = _FLOATS * 4 + 400, 80
#: A pixel's part in one view: image, photograph, SSIM's fifteen maps, and their gradients.
_PIXEL = 400
#: Exporting and reading back: one row as float32, twice.
_EXPORTED = _FLOATS * 4 * 3
#: The best model so far, which a plateau returns to; or the runs that are to be merged.
_BEST = _FLOATS * 4
#: A decoded photograph: Pillow's 4 bytes a pixel and one reduced or converted copy; undistorting
#: holds it as COLMAP's bitmap and as an array on either side.
_DECODED, _UNDISTORTED = 8, 20
#: Left to the allocators' fragments and to the system.
_SPARE = 0.05


@dataclass(frozen=True)
class Budget:
    """What one kind of memory has to hold, in bytes by purpose, and how much there is."""

    kind: str
    needs: Mapping[str, int]
    have: int
    limit: str

    @property
    def total(self) -> int:
        """Everything needed, in bytes."""
        return sum(self.needs.values())

    @property
    def fits(self) -> bool:
        """Whether it fits, with a little to spare."""
        return self.total <= self.have * (1 - _SPARE)

    def require(self, config: Config) -> None:
        """Log the budget; ``E_MEMORY`` with the numbers and what to change if it does not fit."""
        needs = ", ".join(f"{name} {_gb(size)}" for name, size in self.needs.items())
        log.event(phase="budget", memory=self.kind, need=_gb(self.total), have=_gb(self.have))
        if self.fits:
            return
        raise TrainerError(
            "E_MEMORY",
            f"this run needs about {_gb(self.total)} of {self.kind} memory and has "
            f"{_gb(self.have)} ({self.limit}); {self._way_out(config)}",
            f"needed: {needs}",
        )

    def _way_out(self, config: Config) -> str:
        """The one parameter that would make it fit, with its value."""
        over = self.total - self.have * (1 - _SPARE)
        gaussians = self.needs["Gaussians"]
        pixels = self.needs.get("photographs", 0) + self.needs["drawing"]
        if pixels > over and pixels >= gaussians:
            size = int(config.max_image_size * math.sqrt(1 - over / pixels))
            return f"max_image_size={size} would fit"
        if gaussians > over:
            return f"max_gaussians={int(config.max_gaussians * (1 - over / gaussians))} would fit"
        return "use an instance with more memory"


def photo_bytes(stored: Sequence[tuple[int, int]], longest: int) -> tuple[int, int]:
    """Bytes of all photographs as they are trained (uint8), and pixels of the largest as trained.

    From their ``stored`` sizes: undistorting may change them by some percent.
    """
    scales = [min(1.0, longest / max(size)) for size in stored]
    pixels = [math.ceil(w * k) * math.ceil(h * k) for (w, h), k in zip(stored, scales, strict=True)]
    return 3 * sum(pixels), max(pixels)


def host_budget(
    scene: Scene, config: Config, gaussians: int, threads: int, now: int, limit: tuple[int, str]
) -> Budget:
    """Host memory; ``gaussians`` as many as there may come to be, ``now`` bytes already held."""
    stored = sizes(scene)
    photos, pixels = photo_bytes(stored, config.max_image_size)
    decoded = max(
        width * height * (_DECODED if shot.pinhole else _UNDISTORTED)
        for shot, (width, height) in zip(scene.shots, stored, strict=True)
    )
    cpu = config.device == "cpu"
    chooses = config.recipe == "choose"
    keeps = bool(config.plateau) or chooses
    each = _EXPORTED + _BEST * keeps + (_TRAINED + _DRAWN) * cpu
    return Budget(
        "host",
        {
            "process": now,
            "photographs": photos + 3 * pixels * virtual.count(len(stored)) * chooses,
            "decoding": threads * decoded,
            "Gaussians": gaussians * each,
            "drawing": pixels * _PIXEL * cpu,
        },
        *limit,
    )


def gpu_budget(scene: Scene, config: Config, gaussians: int, have: int) -> Budget:
    """GPU memory without the photographs, which stay on the host if they do not fit too."""
    needs = {
        "Gaussians": gaussians * (_TRAINED + _DRAWN + _EVALUATED),
        "drawing": photo_bytes(sizes(scene), config.max_image_size)[1] * (_PIXEL + _SHOWN),
    }
    return Budget("GPU", needs, have, "what the GPU has free")


def most_gaussians(have: int) -> int:
    """How many a GPU with so many bytes free should be filled with at most: three fifths of it.

    In steps of 100,000, so that a job that starts again comes to the same number.
    """
    return max(1, int(0.6 * have / (_TRAINED + _DRAWN)) // 100_000) * 100_000


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}GB"
