"""One optimisation step, behind a seam: what draws, differentiates and updates the Gaussians.

The training loop knows this interface only. A faster step replaces ``AutogradStep`` as a whole and
keeps its state as it likes, as long as ``splats`` answers the calls of ``model.Splats``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer import densify, loss
from trainer.config import Config
from trainer.model import Splats, learning_rates
from trainer.points import reached
from trainer.raster_torch import BLACK
from trainer.rasterise import View, render


@dataclass(frozen=True)
class At:
    """What the schedule says about one step: host numbers, so that nothing waits for the device.

    ``view`` indexes the training views, each side reduced by ``zoom``, ``means_rate`` is in world
    units, ``dropout`` the share of Gaussians left out, ``seed`` this step's own: a resumed run
    draws what an uninterrupted one would.
    """

    step: int
    view: int
    means_rate: float
    sh_degree: int
    dropout: float
    seed: int
    background: tuple[float, float, float] = BLACK
    zoom: int = 1


class Step(Protocol):
    """What the loop needs of a step."""

    @property
    def splats(self) -> Splats:
        """The Gaussians and their moments, for refinement, evaluation, checkpoint and export."""

    def step(self, view: View, photo: Tensor, at: At) -> Tensor:
        """Optimise on one photograph (height, width, 3) uint8, on the training device.

        Returns the loss and the mean squared error, shape (2,); waits for no kernel.
        """

    def release(self) -> None:
        """Give back all memory that the next step takes anew."""


class AutogradStep:
    """The step in PyTorch's autograd: gsplat's kernels on CUDA, plain PyTorch on a CPU."""

    def __init__(
        self,
        config: Config,
        scene_size: float,
        values: Mapping[str, Tensor],
        moments: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """``values`` as in ``Splats``, on the training device; ``moments`` from ``Splats``."""
        self._config, self._scene_size = config, scene_size
        self.splats = Splats(values, learning_rates(config, scene_size), moments)
        self._draw = torch.Generator(values["means"].device)

    def step(self, view: View, photo: Tensor, at: At) -> Tensor:
        """See ``Step.step``."""
        splats, draw = self.splats, self._draw.manual_seed(at.seed)
        splats.set_means_rate(at.means_rate)
        opacities = splats.params["opacities"].sigmoid()
        drawn = drop(opacities, at.dropout, draw)
        image = render(splats.params, drawn, view, at.sh_degree, at.background)
        wanted = photo.float() / 255
        total = loss.photometric(image, wanted, view.mask)
        if self._config.opacity_reg:
            total = total + self._config.opacity_reg * opacities.mean()
        total.backward()  # type: ignore[no-untyped-call]
        reached("step")
        splats.optimizer.step()
        splats.optimizer.zero_grad(set_to_none=True)
        densify.stir(splats, self._config, at.means_rate, self._scene_size, draw)
        return torch.stack([total.detach(), loss.mse(image.detach(), wanted, view.mask)])

    def release(self) -> None:
        """See ``Step.release``."""
        self.splats.optimizer.zero_grad(set_to_none=True)


def drop(opacities: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Leave out a random ``share`` of the Gaussians and strengthen the rest in return."""
    if not share:
        return opacities
    kept = torch.rand(opacities.shape, generator=draw, device=opacities.device) >= share
    return opacities * kept / (1 - share)
