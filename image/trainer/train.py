"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer import evaluate, log, loss
from trainer.checkpoint import Checkpoints, restore
from trainer.config import Config
from trainer.densify import Strategy
from trainer.errors import TrainerError
from trainer.model import Splats, initial_values, learning_rates
from trainer.rasterise import View, render
from trainer.scene import Scene
from trainer.stop import Stop

#: The total time is projected after this many steps, when caches and clocks have settled.
_PROJECT_AFTER = 100


@dataclass
class Outcome:
    """What training came to: the Gaussians, why it ended, and its figures."""

    splats: Splats
    step: int
    ended_by: str
    notes: dict[str, float] = field(default_factory=dict)


class Schedule:
    """What depends on the step alone: rates, SH degree, dropout, view, random draws.

    Draws depend on seed and step only, so a resumed run sees what an uninterrupted one would.
    """

    def __init__(self, config: Config, scene_size: float, views: int, device: torch.device) -> None:
        self._config, self._views = config, views
        self._first_rate = config.lr_means * scene_size
        self._generator = torch.Generator(device)
        self._order: tuple[int, list[int]] = (-1, [])

    def means_rate(self, step: int) -> float:
        """Learning rate of positions in world units, falling to 1 % at the last step."""
        return self._first_rate * math.exp(math.log(0.01) * step / self._config.max_iterations)

    def degree(self, step: int) -> int:
        """Degree of the spherical harmonics in use."""
        return min(self._config.sh_degree, step // self._config.sh_every)

    def dropout(self, step: int) -> float:
        """Share of Gaussians left out."""
        return self._config.dropout * step / self._config.max_iterations

    def draw(self, step: int) -> torch.Generator:
        """The generator of this step's random numbers, on the training device."""
        return self._generator.manual_seed(self._config.seed * 1_000_003 + step)

    def view(self, step: int) -> int:
        """Index of the view to train on: every view once per round, in a new order each time."""
        rounds, place = divmod(step - 1, self._views)
        if self._order[0] != rounds:
            shuffle = torch.Generator().manual_seed(self._config.seed * 999_983 + rounds)
            self._order = rounds, torch.randperm(self._views, generator=shuffle).tolist()
        return self._order[1][place]


def train(
    config: Config,
    scene: Scene,
    views: Sequence[View],
    held_out: Sequence[View],
    checkpoints: Checkpoints | None,
    stop: Stop,
    device: torch.device,
    started: float,
) -> Outcome:
    """Optimise Gaussians for ``views`` until the last step, the time limit or a request to stop.

    ``started`` is the monotonic time at which the job began. Raises ``E_NOT_FINITE``.
    """
    splats, step, notes = begin(config, scene, checkpoints, device)
    schedule = Schedule(config, scene.size, len(views), device)
    strategy = Strategy(config, scene.size)
    progress = Progress(config, step, notes, started)
    while (ended_by := progress.ended(step, stop)) is None:
        step += 1
        view = views[schedule.view(step)]
        rate, draw = schedule.means_rate(step), schedule.draw(step)
        splats.set_means_rate(rate)

        opacities = splats.params["opacities"].sigmoid()
        seen = drop(opacities, schedule.dropout(step), draw)
        image = render(splats.params, seen, view, schedule.degree(step))
        photo = view.photo()
        total = loss.photometric(image, photo, config.ssim_weight)
        if config.opacity_reg:
            total = total + config.opacity_reg * opacities.mean()
        total.backward()  # type: ignore[no-untyped-call]
        splats.optimizer.step()
        splats.optimizer.zero_grad(set_to_none=True)

        strategy.after_step(splats, rate, draw)
        if strategy.due(step):
            strategy.refine(splats, draw)
        progress.record(step, total.detach(), loss.mse(image.detach(), photo), splats, view.name)
        if config.eval_every and step % config.eval_every == 0 and held_out:
            report(step, splats, held_out, stop)
        if checkpoints and config.checkpoint_every and step % config.checkpoint_every == 0:
            checkpoints.save(step, splats, progress.notes)
    if checkpoints and config.checkpoint_every and step and ended_by == "signal":
        checkpoints.save(step, splats, progress.notes)
    return Outcome(splats, step, ended_by, progress.notes)


def begin(
    config: Config, scene: Scene, checkpoints: Checkpoints | None, device: torch.device
) -> tuple[Splats, int, dict[str, float]]:
    """The Gaussians to start from: this run's checkpoint, or the SfM points."""
    rates = learning_rates(config, scene.size)
    found = checkpoints.load(device) if checkpoints else None
    if found is None:
        values = initial_values(scene.points, scene.colors, config)
        return Splats({n: v.to(device) for n, v in values.items()}, rates), 0, {}
    splats = Splats(found["values"], rates)
    restore(splats, found["moments"])
    return splats, found["step"], found["notes"]


def drop(opacities: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Leave out a random ``share`` of the Gaussians and strengthen the rest in return."""
    if not share:
        return opacities
    kept = torch.rand(opacities.shape, generator=draw, device=opacities.device) >= share
    return opacities * kept / (1 - share)


def report(step: int, splats: Splats, held_out: Sequence[View], stop: Stop) -> None:
    """Log the quality on the held-out views in the middle of training."""
    found = evaluate.evaluate(splats.values(), held_out, stop)
    log.event(
        phase="evaluate",
        step=step,
        held_out_psnr=evaluate.mean([q.psnr for q in found]),
        held_out_ssim=evaluate.mean([q.ssim for q in found]),
    )


class Progress:
    """Counts, times, logs; knows when training has to end, and when it has gone wrong."""

    def __init__(self, config: Config, step: int, notes: dict[str, float], started: float) -> None:
        self._config, self._started = config, started
        self.notes = dict(notes)
        self._first = self._last = step
        self._begin = self._lap = time.monotonic()
        self._losses: list[Tensor] = []
        self._errors: list[Tensor] = []
        self._names: list[str] = []

    def ended(self, step: int, stop: Stop) -> str | None:
        """Why training ends before the next step: signal, iterations, max_minutes, or None."""
        if stop.asked is not None:
            return "signal"
        if step >= self._config.max_iterations:
            return "iterations"
        limit = self._config.max_minutes * 60
        return "max_minutes" if limit and time.monotonic() - self._started >= limit else None

    def record(self, step: int, total: Tensor, error: Tensor, splats: Splats, name: str) -> None:
        """Take in one step; figures stay on the device until a line is due."""
        self._losses.append(total)
        self._errors.append(error)
        self._names.append(name)
        if step - self._first == _PROJECT_AFTER:
            self._project(step)
        if step % self._config.log_every == 0 or step in (1, self._config.max_iterations):
            self._line(step, splats)

    def _line(self, step: int, splats: Splats) -> None:
        losses, errors = torch.stack(self._losses).tolist(), torch.stack(self._errors).tolist()
        for place, value in enumerate(losses):
            if not math.isfinite(value):
                raise TrainerError(
                    "E_NOT_FINITE",
                    f"the loss became {value} at step "
                    f"{step - len(losses) + place + 1} on {self._names[place]}",
                )
        now = time.monotonic()
        pace = (step - self._last) / max(now - self._lap, 1e-9)
        self.notes.setdefault("loss_first", losses[0])
        self.notes["loss_last"] = evaluate.mean(losses)
        log.event(
            step=step,
            loss=self.notes["loss_last"],
            psnr=evaluate.mean([loss.psnr(e) for e in errors]),
            gaussians=splats.count,
            it_per_s=pace,
            eta=(self._config.max_iterations - step) / pace,
        )
        self._last, self._lap = step, now
        self._losses, self._errors, self._names = [], [], []

    def _project(self, step: int) -> None:
        now = time.monotonic()
        pace = (now - self._begin) / (step - self._first)
        whole = now - self._started + pace * (self._config.max_iterations - step)
        self.notes["projected_seconds"] = whole
        log.event(phase="project", total_seconds=whole)
        if 0 < self._config.max_minutes * 60 < whole:
            log.line(
                f"warning: {self._config.max_iterations} steps need about {whole:.0f} s, more "
                f"than max_minutes={self._config.max_minutes:g}: training will end early"
            )
