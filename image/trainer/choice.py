"""The recipe that suits a scene: each tried at full length, the better run again, and all merged.

What few photographs from unlike places ask for (few Gaussians, more dropout, no colour in what
nobody saw) costs a scene that is well seen a decibel, and the reverse. Short trials choose wrongly,
so a trial is a whole run, judged on photographs kept aside. What is merged settles on the
photographs and on virtual views, the mean of what the runs draw there. docs/trainer.md has the
figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer import log, virtual
from trainer.checkpoint import Checkpoints
from trainer.config import RECIPES, Config
from trainer.densify import Strategy
from trainer.errors import TrainerError
from trainer.evaluate import evaluate, mean
from trainer.rasterise import Views
from trainer.scene import Scene
from trainer.schedule import Schedule
from trainer.step import Step
from trainer.stop import Stop
from trainer.train import Outcome, begin, make_step, run

#: Runs of the recipe that is chosen, on all photographs, each of a seed of its own.
MEMBERS = 4
#: Runs of a choice.
_ALL = len(RECIPES) + MEMBERS
#: One in so many training photographs judges the trials, and is not seen by them.
_ASIDE = 4
#: Steps for the merged Gaussians to settle at the rates of the end, as a part of a run's.
_SETTLE = 7
#: In settling, a virtual view is drawn for this many steps at most with a photograph's one.
_VIRTUAL = 2
#: A run is begun if this many times what the longest took is left of ``max_minutes``.
_SLACK = 1.5


def member(config: Config, name: str, number: int) -> Config:
    """One run of a choice: the recipe's values, its share of the Gaussians, its own seed."""
    own = config.following(name)
    share = max(1, min(own.max_gaussians, config.max_gaussians // MEMBERS))
    return replace(own, max_gaussians=share, seed=config.seed + number)


def reachable(config: Config, points: int) -> int:
    """The most Gaussians that a resolved ``config`` can come to hold at once on the device."""
    if config.recipe != "choose":
        return Strategy.reachable(config, points)
    return MEMBERS * max(Strategy.reachable(member(config, n, 0), points) for n in RECIPES)


def train(
    config: Config,
    scene: Scene,
    views: Views,
    checkpoints: Checkpoints,
    stop: Stop,
    device: torch.device,
    started: float,
) -> Outcome:
    """Train as a resolved ``config`` asks, from the checkpoint if there is one.

    ``started`` is the monotonic time at which the job began. Raises ``E_NOT_FINITE``, ``E_OOM``.
    """
    found = checkpoints.load(device)
    if config.recipe == "choose":
        choice = Choice(config, scene, views, checkpoints, stop, device, started)
        return choice.train(found)
    start = begin(config, scene, device, found)
    return run(config, scene, views, checkpoints, stop, start, started)


class Choice:
    """The runs of ``recipe=choose``. Those that have ended are in each checkpoint's notes."""

    def __init__(
        self,
        config: Config,
        scene: Scene,
        views: Views,
        checkpoints: Checkpoints,
        stop: Stop,
        device: torch.device,
        started: float,
    ) -> None:
        self.config, self.scene, self.views = config, scene, views
        self.checkpoints, self.stop, self.device = checkpoints, stop, device
        self.started, self.began, self.before = started, time.monotonic(), 0.0
        #: Of each run that has ended: recipe, seed, seconds, inner_psnr of a trial, its notes, and
        #: its Gaussians in host memory.
        self.runs: list[dict[str, Any]] = []
        self.resumed_from: int | None = None

    def train(self, found: dict[str, Any] | None) -> Outcome:
        """All runs that there is time and memory for, and what they come to."""
        if found:
            self.resumed_from = found["step"]
            self.runs = found["notes"].pop("runs")
            for row in self.runs:
                row["values"] = {n: v.cpu() for n, v in row["values"].items()}
                self.before += row["seconds"]
            self.before += found["notes"].get("seconds", 0.0)
        while len(self.runs) < _ALL and self.goes_on():
            try:
                outcome = self.run(found)
            except TrainerError as fault:
                if fault.code != "E_OOM" or not self.runs:
                    raise
                log.line(
                    f"warning: run {len(self.runs) + 1} of {_ALL} failed, and is left out: {fault}"
                )
                break
            found = None
            if outcome.ended_by != "iterations":
                return self.best(outcome) if self.runs else outcome
        return self.merged()

    def goes_on(self) -> bool:
        """Whether memory sufficed so far, and time is left for one run more."""
        if not self.runs:
            return True
        late = self.late(_SLACK * max(r["seconds"] for r in self.runs))
        short = "cap" in self.runs[-1]["notes"]
        if late or short:
            why = "max_minutes" if late else "memory"
            log.line(f"warning: {len(self.runs)} of {_ALL} runs were made, {why} has no more")
        return not (late or short)

    def late(self, needed: float = 0) -> bool:
        """Whether ``max_minutes`` leaves less than ``needed`` seconds."""
        return 0 < self.config.max_minutes * 60 < time.monotonic() - self.started + needed

    def run(self, found: dict[str, Any] | None) -> Outcome:
        """The next run: of each recipe, with photographs kept aside; then of the better, on all."""
        number = len(self.runs)
        trial = number < len(RECIPES)
        config = member(self.config, [*RECIPES][number] if trial else self.winner, number)
        views = self.views.aside(_ASIDE) if trial else self.views
        log.event(phase="run", run=number + 1, of=_ALL, recipe=config.recipe, seed=config.seed)
        start = begin(config, self.scene, self.device, found, runs=self.runs)
        to_come = (_ALL - number - 1) * config.max_iterations
        outcome = run(
            config, self.scene, views, self.checkpoints, self.stop, start, self.started, to_come
        )
        notes = {n: v for n, v in outcome.notes.items() if n != "runs"}
        outcome = replace(outcome, notes=notes)
        if outcome.ended_by == "iterations":
            row = {"recipe": config.recipe, "seed": config.seed, "seconds": notes["seconds"]}
            if trial:
                judged = evaluate(outcome.values, views.inner, self.stop)
                row["inner_psnr"] = mean([q.psnr for q in judged])
                log.event(phase="tried", **row)
            row["notes"] = notes
            row["values"] = {n: v.to("cpu", copy=True) for n, v in outcome.values.items()}
            self.runs.append(row)
        return outcome

    @property
    def winner(self) -> str:
        """The recipe whose trial drew the photographs kept aside best."""
        trials = self.runs[: len(RECIPES)]
        return str(max(trials, key=lambda row: row["inner_psnr"])["recipe"])

    def best(self, ending: Outcome) -> Outcome:
        """The winner's last run alone, where the next was cut off."""
        row = [row for row in self.runs if row["recipe"] == self.winner][-1]
        values = {n: v.to(self.device) for n, v in row["values"].items()}
        return replace(ending, values=values, step=self.config.max_iterations, notes=self.notes())

    def merged(self) -> Outcome:
        """The winner's runs as one, settled; the last alone if memory or a stop forbids it."""
        config = member(self.config, self.winner, 0)
        rows = self.runs[len(RECIPES) :]
        whole = Outcome({}, config.max_iterations, "iterations", {})
        if len(rows) < 2:
            return self.best(whole)
        step: Step | None = None
        try:
            step = self.settled(config, [row["values"] for row in rows])
        except (torch.OutOfMemoryError, MemoryError) as shortage:
            said = " ".join(str(shortage).split())[:200]
            log.line(f"warning: memory ran out as runs were merged: one is kept alone ({said})")
        if step is None:  # past the handler, which holds all that was made
            return self.best(whole)
        if self.stop.asked is not None:
            return self.best(replace(whole, ended_by="signal"))
        return replace(whole, values=step.splats.values(), notes=self.notes())

    def settled(self, config: Config, members: Sequence[Mapping[str, Tensor]]) -> Step:
        """The merged Gaussians, trained at the rates of the end on photographs and virtual views.

        It ends early where a stop is asked for or ``max_minutes`` is over.
        """
        training = self.views.training
        members = [{n: v.to(self.device) for n, v in m.items()} for m in members]
        drawn = virtual.drawn(training, members, config.seed, self.stop)
        views = training * max(1, math.ceil(len(drawn) / _VIRTUAL / len(training))) + drawn
        step = make_step(config, self.scene.size, merge(members))
        del members
        plan = Schedule(config, self.scene.size, len(views))
        steps = max(1, config.max_iterations // _SETTLE)
        end = plan.at(config.max_iterations)
        rates = dict(means_rate=end.means_rate, sh_degree=end.sh_degree, dropout=0.0)
        told = dict(recipe=self.winner, gaussians=step.splats.count, virtual=len(drawn))
        log.event(phase="settle", steps=steps, **told)
        for t in range(1, steps + 1):
            if self.stop.asked is not None or self.late():
                break
            at = replace(plan.at(t), **rates)
            step.step(views[at.view], views[at.view].photo(), at)
            if t % config.log_every == 0:
                log.event(phase="settling", done=t)
        broken = [n for n, v in step.splats.values().items() if not v.isfinite().all()]
        if broken:
            what = ", ".join(broken)
            raise TrainerError("E_NOT_FINITE", f"{what} became not finite as merged runs settled")
        return step

    def notes(self) -> dict[str, Any]:
        """The winner's figures, and the choice's own."""
        row = next(row for row in self.runs if row["recipe"] == self.winner)
        shown = ("recipe", "seed", "seconds", "inner_psnr")
        runs = [{k: row[k] for k in shown if k in row} for row in self.runs]
        seconds = self.before + time.monotonic() - self.began
        choice = {"recipe": self.winner, "runs": runs}
        own = {"seconds": seconds, "resumed_from": self.resumed_from, "choice": choice}
        return {**row["notes"], **own}


def merge(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """All Gaussians of k models, each so faint that k of them cover as one did.

    ``members`` as in ``Splats.values``; opacity becomes 1 - (1 - opacity)^(1/k).
    """
    values = {n: torch.cat([m[n] for m in members]).contiguous() for n in members[0]}
    left = torch.sigmoid(-values["opacities"].double()) ** (1 / len(members))
    values["opacities"] = (1 - left).clamp(1e-6, 1 - 1e-6).logit().float()
    return values
