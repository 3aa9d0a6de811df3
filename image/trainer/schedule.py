"""What depends on the step alone: rates, SH degree, dropout, view, seeds."""

from __future__ import annotations

import math
import random

import torch

from trainer.config import Config
from trainer.raster_torch import BLACK
from trainer.step import At


class Schedule:
    """The plan of a run. It has no state: a resumed run goes on as an uninterrupted one would."""

    def __init__(self, config: Config, scene_size: float, views: int) -> None:
        self._config, self._views = config, views
        self._first_rate = config.lr_means * scene_size
        self._order: tuple[int, list[int]] = (-1, [])

    def at(self, step: int) -> At:
        """The plan for ``step``, which counts from 1.

        The rate of positions falls to 1 % at the last step, dropout rises from 0 to its share.
        Photographs are small at first: that is faster, and what is found large is found sooner.
        """
        config, done = self._config, step / self._config.max_iterations
        return At(
            step=step,
            view=self._view(step),
            means_rate=self._first_rate * math.exp(math.log(0.01) * done),
            sh_degree=min(config.sh_degree, step // config.sh_every),
            dropout=config.dropout * done,
            background=self._background(step),
            zoom=1 if done > config.coarse else 2 if done > 0.375 * config.coarse else 4,
            seed=config.seed * 1_000_003 + step,
        )

    def _background(self, step: int) -> tuple[float, float, float]:
        """Black, or a colour of this step's own."""
        if self._config.background == "black":
            return BLACK
        draw = random.Random(self._config.seed * 1_000_003 + step)
        return draw.random(), draw.random(), draw.random()

    def _view(self, step: int) -> int:
        """Every view once per round, in a new order each time."""
        rounds, place = divmod(step - 1, self._views)
        if self._order[0] != rounds:
            shuffle = torch.Generator().manual_seed(self._config.seed * 999_983 + rounds)
            self._order = rounds, torch.randperm(self._views, generator=shuffle).tolist()
        return self._order[1][place]
