"""Growing and moving Gaussians: 3DGS as Markov chain Monte Carlo (Kheradmand et al. 2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.config import Config
from trainer.model import Splats
from trainer.raster_torch import rotation_rows

#: A Gaussian below this opacity is dead and is moved to where one is needed.
MIN_OPACITY = 0.005
#: A Gaussian is divided into at most this many at once.
_MOST = 51
#: Strength of the exploration noise at a learning rate of 1; the paper's 5e5. Quality hardly
#: depends on it (1e5 to 2e6 measured alike).
NOISE = 5e5


class Strategy:
    """Relocates dead Gaussians, adds new ones up to the cap, stirs the faint ones."""

    def __init__(self, config: Config, device: torch.device, cap: int) -> None:
        self._config, self.cap = config, cap
        self._draw = torch.Generator(device)
        self._table = torch.tensor(
            [
                [math.comb(n, j) * (-1) ** (j - 1) / math.sqrt(j) for j in range(1, _MOST + 1)]
                for n in range(_MOST + 1)
            ],
            dtype=torch.float64,
            device=device,
        )

    @staticmethod
    def reachable(config: Config, points: int) -> int:
        """The most Gaussians that ``points`` can have become by the last step."""
        count = min(points, config.max_gaussians)
        last, every = min(config.last_refinement, config.max_iterations), config.refine_every
        for _ in range(max(0, last // every - max(0, config.refine_start - 1) // every)):
            count = min(config.max_gaussians, math.ceil(count * (1 + config.growth)))
            if count == config.max_gaussians:
                break
        return count

    def due(self, step: int) -> bool:
        """Whether ``refine`` is to run after this step."""
        c = self._config
        return c.refine_start <= step <= c.last_refinement and step % c.refine_every == 0

    @torch.no_grad()
    def refine(self, splats: Splats, seed: int) -> tuple[int, int]:
        """Move the dead, then grow; returns how many were moved and how many added."""
        draw = self._draw.manual_seed(seed)
        opacity = splats.values()["opacities"].sigmoid()
        faint = opacity <= MIN_OPACITY
        dead = faint.nonzero()[:, 0]
        if len(dead) == splats.count:
            return 0, 0
        if len(dead):
            source = torch.multinomial(opacity * ~faint, len(dead), True, generator=draw)
            self._divide(splats, source)
            splats.copy(source, dead)
        target = min(self.cap, math.ceil(splats.count * (1 + self._config.growth)))
        added = max(0, target - splats.count)
        if added:
            chance = splats.values()["opacities"].sigmoid()
            source = torch.multinomial(chance, added, True, generator=draw)
            self._divide(splats, source)
            splats.append(source)
        return len(dead), added

    def _divide(self, splats: Splats, source: Tensor) -> None:
        """Make each source one of n equal parts that together draw what it drew (eq. 9)."""
        values = splats.values()
        # A row for each time that it was drawn: to find which differ would wait for the device.
        copies = source.new_zeros(splats.count).index_add_(0, source, torch.ones_like(source))
        number = (copies[source] + 1).clamp_max(_MOST)
        opacity = values["opacities"][source].double().sigmoid()
        part = 1 - (1 - opacity) ** (1 / number)
        powers = part[:, None] ** torch.arange(1, _MOST + 1, device=part.device)
        shrink = opacity / (self._table[number] * powers).sum(1)
        part = part.clamp(MIN_OPACITY, 1 - 1e-6)
        splats.assign(
            source,
            {
                "opacities": part.logit().float(),
                "scales": values["scales"][source] + shrink.log().float()[:, None],
            },
        )


@torch.no_grad()
def stir(
    splats: Splats, config: Config, means_rate: float, scene_size: float, draw: torch.Generator
) -> None:
    """After a step: stir faint Gaussians along their own shape; hold the elongated ones."""
    v = splats.values()
    if config.max_elongation:
        scales = v["scales"]
        high, low = scales.amax(1), scales.amin(1)
        middle = scales.sum(1) - high - low
        scales.clamp_(max=(middle + math.log(config.max_elongation))[:, None])
    # The paper works in a scene of size 1: covariance and rate both carry the scene's unit.
    strength = NOISE * means_rate / scene_size**2
    gate = torch.sigmoid(-100 * (v["opacities"].sigmoid() - MIN_OPACITY))
    noise = torch.randn(v["means"].shape, generator=draw, device=v["means"].device)
    rows = rotation_rows(v["quats"])
    along = (rows * noise[:, None, :]).sum(2) * v["scales"].exp() ** 2 * gate[:, None]
    v["means"].add_((along[:, :, None] * rows).sum(1) * strength)
