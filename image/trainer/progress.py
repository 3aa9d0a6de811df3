"""Counts, times and logs; knows when training has to end, and when it has gone wrong."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from trainer import evaluate, log, loss
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.model import Splats
from trainer.rasterise import View, Views
from trainer.stop import Stop

#: The total time is projected after this many steps, when caches and clocks have settled.
_PROJECT_AFTER = 100
#: Figures of at most this many steps wait on the device before they are looked at.
_WAITING = 500
#: Points of the curve in metrics.json; when there are more, every other one goes.
_CURVE = 400
#: An inner evaluation must be better by this much, in dB, to count as progress.
_BETTER = 0.02


class Progress:
    """One run's progress. ``notes`` is what survives a restart and goes into ``metrics.json``.

    ``to_come`` are the steps of runs after this one: they count in what is projected.
    """

    def __init__(
        self,
        config: Config,
        views: Views,
        notes: dict[str, Any],
        step: int,
        stop: Stop,
        started: float,
        to_come: int = 0,
    ) -> None:
        self._config, self._views, self.notes, self._stop = config, views, notes, stop
        self._started, self._begin, self._lap = started, time.monotonic(), time.monotonic()
        self._before = float(notes.get("seconds", 0.0))
        self._first = self._last = step
        self._end = config.max_iterations + to_come
        self._waiting: list[tuple[int, str, Tensor]] = []
        self._losses: list[float] = []
        self._errors: list[float] = []
        self._untold: dict[str, Any] | None = None

    def ended(self, step: int) -> str | None:
        """Why training ends before the next step, or None.

        ``signal``, ``iterations``, ``plateau``, or ``max_minutes``: in time to evaluate, which
        takes about one step's time for each view.
        """
        if self._stop.asked is not None:
            return "signal"
        if step >= self._config.max_iterations:
            return "iterations"
        if self._config.plateau and step - self.notes.get("best_step", 0) >= self._config.plateau:
            return "plateau"
        limit = self._config.max_minutes * 60
        now = time.monotonic()
        a_step = (now - self._begin) / max(1, step - self._first)
        left = limit - (now - self._started) - min(a_step * len(self._views.judged), limit / 4)
        return "max_minutes" if limit and left <= 0 else None

    def record(self, step: int, figures: Tensor, splats: Splats, name: str) -> None:
        """Take in one step: loss and mean squared error, on the device until a line is due.

        A line is told when the device has the next step to work on, or by ``tell``.
        """
        self.tell()
        self._waiting.append((step, name, figures))
        if step - self._first == _PROJECT_AFTER:
            self._project(step)
        if step % self._config.log_every == 0 or step in (1, self._config.max_iterations):
            self._line(step, splats)
        elif len(self._waiting) >= _WAITING:
            self.settle(step, splats)
        if self._config.eval_every and step % self._config.eval_every == 0 and self._views.held_out:
            psnr, ssim = self._quality(splats, self._views.held_out)
            log.event(phase="evaluate", step=step, held_out_psnr=psnr, held_out_ssim=ssim)
            self._point(step, splats.count, held_out_psnr=psnr)
        if self._config.plateau and step % max(1, self._config.plateau // 4) == 0:
            psnr, _ = self._quality(splats, self._views.inner)
            log.event(phase="plateau", step=step, inner_psnr=psnr)
            if psnr > self.notes.get("best_psnr", -math.inf) + _BETTER:
                # In host memory, and in the notes: a restart has it too.
                best = {n: v.to("cpu", copy=True) for n, v in splats.values().items()}
                self.notes.update(best_psnr=psnr, best_step=step, best=best)

    def forget_best(self, step: int | None = None) -> dict[str, Tensor] | None:
        """The Gaussians that drew the views kept aside best so far, forgotten here.

        With ``step``, what follows is measured anew from there.
        """
        if step is not None:
            self.notes.update(best_psnr=-math.inf, best_step=step)
        best: dict[str, Tensor] | None = self.notes.pop("best", None)
        return best

    def settle(self, step: int, splats: Splats) -> None:
        """Look at the figures that wait; raises ``E_NOT_FINITE`` naming step, image and tensor."""
        self.tell()
        if self._waiting:
            values = {name: v for name, v in splats.values().items() if v.numel()}
            # Largest magnitudes, NaN and infinity among them.
            peaks = torch.stack([torch.linalg.vector_norm(v, math.inf) for v in values.values()])
            totals, errors = torch.stack([w[2] for w in self._waiting]).T.tolist()
            named = zip(values, peaks.tolist(), strict=True)
            broken = [name for name, peak in named if not math.isfinite(peak)]
            where = f"; not finite: {', '.join(broken)}" if broken else ""
            for (at, name, _), value in zip(self._waiting, totals, strict=True):
                if not math.isfinite(value):
                    raise TrainerError(
                        "E_NOT_FINITE", f"the loss became {value} at step {at} on {name}{where}"
                    )
            if broken:
                at, name, _ = self._waiting[0]
                raise TrainerError(
                    "E_NOT_FINITE",
                    f"{', '.join(broken)} became not finite between step {at} on {name} "
                    f"and step {step} on {self._waiting[-1][1]}",
                )
            self._losses += totals
            self._errors += errors
            self._waiting = []
        self.notes["seconds"] = self._before + time.monotonic() - self._begin

    def _line(self, step: int, splats: Splats) -> None:
        self.settle(step, splats)
        now = time.monotonic()
        pace = (step - self._last) / max(now - self._lap, 1e-9)
        self._untold = {"step": step, "gaussians": splats.count, "it_per_s": pace}
        self._untold["eta"] = (self._end - step) / pace
        self._last, self._lap = step, now

    def tell(self) -> None:
        """The line that is due, if one is: whatever ends the run, it is not lost."""
        if self._untold is None:
            return
        line, self._untold = self._untold, None
        self.notes.setdefault("loss_first", self._losses[0])
        self.notes["loss_last"] = evaluate.mean(self._losses)
        psnr = evaluate.mean([loss.psnr(e) for e in self._errors])
        self._losses, self._errors = [], []
        step, count = line.pop("step"), line.pop("gaussians")
        figures = {"loss": self.notes["loss_last"], "psnr": psnr}
        log.event(step=step, **figures, gaussians=count, **line)
        self._point(step, count, **figures)

    def _point(self, step: int, count: int, **figures: float) -> None:
        curve = self.notes.setdefault("curve", [])
        seconds = self.notes["seconds"]
        curve.append({"step": step, "seconds": seconds, "gaussians": count, **figures})
        if len(curve) > _CURVE:
            del curve[1:-1:2]

    def _quality(self, splats: Splats, views: list[View]) -> tuple[float, float]:
        self.tell()
        found = evaluate.evaluate(splats.values(), views, self._stop)
        return evaluate.mean([q.psnr for q in found]), evaluate.mean([q.ssim for q in found])

    def _project(self, step: int) -> None:
        now = time.monotonic()
        pace = (now - self._begin) / (step - self._first)
        whole = now - self._started + pace * (self._end - step)
        self.notes["projected_seconds"] = whole
        log.event(phase="project", total_seconds=whole)
        if 0 < self._config.max_minutes * 60 < whole:
            log.line(
                f"warning: {self._end} steps need about {whole:.0f} s, more "
                f"than max_minutes={self._config.max_minutes:g}: training will end early"
            )
