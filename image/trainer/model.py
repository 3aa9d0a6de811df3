"""The Gaussians: their parameters, how they start, and the optimiser that holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.config import Config

#: Value of the constant spherical harmonic; colour = C0 * sh0 + 0.5.
C0 = 0.28209479177387814
_INITIAL_OPACITY = 0.5
_NEIGHBOURS = 3
#: Learning rates that no scene wanted otherwise.
_QUATS_RATE, _OPACITIES_RATE = 1e-3, 5e-2


class Splats:
    """N Gaussians and their Adam state, for PyTorch's fused Adam on either device.

    ``params``: means (N, 3) world units, quats (N, 4) w first and unnormalised, scales (N, 3)
    natural log of world units, opacities (N,) logit, sh0 (N, 1, 3), shN (N, K - 1, 3) with
    K = (degree + 1)^2. Degree 0 has an empty shN, which is not optimised.
    """

    names = ("means", "quats", "scales", "opacities", "sh0", "shN")

    def __init__(
        self,
        values: Mapping[str, Tensor],
        rates: Mapping[str, float],
        moments: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.params = {n: torch.nn.Parameter(values[n].contiguous()) for n in self.names}
        self.optimizer = torch.optim.Adam(
            [
                {"params": [self.params[n]], "lr": rates[n], "name": n}
                for n in self.names
                if self.params[n].numel()
            ],
            betas=(0.9, 0.999),
            eps=1e-15,
            fused=True,
        )
        for group in self.optimizer.param_groups:
            # A tensor that had no gradient yet has no state. Fused Adam counts its steps on the
            # device of its parameters.
            if moments and group["name"] in moments:
                self.optimizer.state[group["params"][0]] = dict(moments[group["name"]])

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return self.params["means"].shape[0]

    def values(self) -> dict[str, Tensor]:
        """The parameters without their gradients, sharing memory."""
        return {name: p.detach() for name, p in self.params.items()}

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """Adam's state by parameter, sharing memory; empty before the first step."""
        state = self.optimizer.state
        groups = self.optimizer.param_groups
        return {g["name"]: dict(state[g["params"][0]]) for g in groups if g["params"][0] in state}

    def set_means_rate(self, rate: float) -> None:
        """Set the learning rate of the positions, in world units."""
        self.optimizer.param_groups[0]["lr"] = rate

    @torch.no_grad()
    def copy(self, source: Tensor, rows: Tensor) -> None:
        """Overwrite the Gaussians ``rows`` by copies of ``source`` and forget their moments."""
        self.assign(rows, {name: v[source] for name, v in self.values().items()})

    @torch.no_grad()
    def assign(self, rows: Tensor, values: Mapping[str, Tensor]) -> None:
        """Overwrite parameters of ``rows`` and forget their moments."""
        for name, value in values.items():
            self.params[name][rows] = value
        for state in self.optimizer.state.values():
            state["exp_avg"][rows] = 0
            state["exp_avg_sq"][rows] = 0

    def append(self, source: Tensor) -> None:
        """Add copies of the Gaussians ``source``, with zero moments."""
        self._change(
            lambda old: torch.cat([old, old[source]]),
            lambda old: torch.cat([old, torch.zeros_like(old[source])]),
        )

    def keep(self, rows: Tensor) -> None:
        """Keep only the Gaussians of ``rows``, with their moments; gradients are forgotten."""
        self._change(lambda old: old[rows], lambda old: old[rows])

    @torch.no_grad()
    def _change(
        self, value: Callable[[Tensor], Tensor], moment: Callable[[Tensor], Tensor]
    ) -> None:
        """Replace every tensor: all are made before the first is put in place."""
        params = {n: torch.nn.Parameter(value(p.detach())) for n, p in self.params.items()}
        moments = {
            name: {k: moment(t) if k != "step" else t for k, t in state.items()}
            for name, state in self.moments().items()
        }
        self.params = params
        self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["params"] = [params[group["name"]]]
            if group["name"] in moments:
                self.optimizer.state[group["params"][0]] = moments[group["name"]]


def learning_rates(config: Config, scene_size: float) -> dict[str, float]:
    """Adam's rates by parameter; positions are in world units, hence the scene's size."""
    return {
        "means": config.lr_means * scene_size,
        "quats": _QUATS_RATE,
        "scales": config.lr_scales,
        "opacities": _OPACITIES_RATE,
        "sh0": config.lr_sh,
        "shN": config.lr_sh / 20,
    }


def initial_values(
    points: npt.NDArray[np.float64], colors: npt.NDArray[np.uint8], config: Config
) -> dict[str, Tensor]:
    """One Gaussian per SfM point: its colour, sized by the distance of its neighbours.

    More points than ``max_gaussians`` are thinned at random. Shapes as in ``Splats``, on the CPU.
    """
    draw = np.random.default_rng(config.seed)
    if len(points) > config.max_gaussians:
        chosen = np.sort(draw.choice(len(points), config.max_gaussians, replace=False))
        points, colors = points[chosen], colors[chosen]
    count = len(points)
    distance = neighbour_distance(points, draw)
    rest = (config.sh_degree + 1) ** 2 - 1
    return {
        "means": torch.from_numpy(points.astype(np.float32)),
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        "scales": torch.from_numpy(np.log(distance * config.init_scale).astype(np.float32))[
            :, None
        ].repeat(1, 3),
        "opacities": torch.full((count,), math.log(_INITIAL_OPACITY / (1 - _INITIAL_OPACITY))),
        "sh0": ((torch.from_numpy(colors.astype(np.float32)) / 255 - 0.5) / C0)[:, None, :],
        "shN": torch.zeros(count, rest, 3),
    }


def neighbour_distance(
    points: npt.NDArray[np.float64], draw: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Mean distance of each point to its three nearest others, shape (N,), all positive.

    Neighbours are looked for along four shifted space-filling curves, eight places either way:
    O(N log N) in time and O(N) in memory, within a few percent of the exact distance. Duplicates
    do not count as neighbours; outliers are held to 30 times the median.
    """
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    span = float((high - low).max()) or 1.0
    best = np.full((len(points), _NEIGHBOURS), np.inf)
    for _ in range(4):
        shifted = (points - low) / span * 0.4 + draw.uniform(0.1, 0.5, 3)
        order = np.argsort(_morton(shifted))
        along = points[order]
        found = [best[order]]
        for step in range(1, 9):
            gap = np.full(len(points), np.inf)
            gap[:-step] = np.linalg.norm(along[step:] - along[:-step], axis=1)
            back = np.full(len(points), np.inf)
            back[step:] = gap[:-step]
            found += [gap[:, None], back[:, None]]
        pool = np.concatenate(found, 1)
        pool[pool <= 1e-9 * span] = np.inf
        # The same neighbour turns up on several curves: equal distances count once.
        pool.sort(1)
        pool[:, 1:][pool[:, 1:] == pool[:, :-1]] = np.inf
        pool.sort(1)
        best[order] = pool[:, :_NEIGHBOURS]
    known = np.isfinite(best)
    mean = np.where(known, best, 0).sum(1) / np.maximum(known.sum(1), 1)
    typical = float(np.median(mean[mean > 0])) if (mean > 0).any() else span / 100
    mean[mean == 0] = typical
    held: npt.NDArray[np.float64] = mean.clip(typical / 1000, typical * 30)
    return held


def _morton(unit: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Interleave the bits of coordinates in [0, 1) (clipped), 21 bits an axis."""
    code = np.zeros(len(unit), np.uint64)
    for axis in range(3):
        x = (unit[:, axis].clip(0, 1 - 1e-9) * 2**21).astype(np.uint64)
        for shift, mask in (
            (32, 0x1F00000000FFFF),
            (16, 0x1F0000FF0000FF),
            (8, 0x100F00F00F00F00F),
            (4, 0x10C30C30C30C30C3),
            (2, 0x1249249249249249),
        ):
            x = (x | (x << np.uint64(shift))) & np.uint64(mask)
        code |= x << np.uint64(axis)
    return code
