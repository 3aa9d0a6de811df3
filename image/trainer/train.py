"""The training loop."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer import log
from trainer.checkpoint import Checkpoints
from trainer.config import Config
from trainer.densify import Strategy
from trainer.errors import TrainerError
from trainer.model import initial_values
from trainer.points import reached
from trainer.progress import Progress
from trainer.rasterise import OWN, STEP, Views, reduced
from trainer.scene import Scene
from trainer.schedule import Schedule
from trainer.step import AutogradStep, Step
from trainer.stop import Stop

#: Share of the Gaussians, the most opaque, that stay when memory runs out for the first time.
_KEPT = 0.75

#: Where a run starts: the step's state, how many steps it has made, its notes.
Start = tuple[Step, int, dict[str, Any]]


@dataclass
class Outcome:
    """What training came to: the Gaussians (``Splats.values``), why it ended, and its figures."""

    values: dict[str, Tensor]
    step: int
    ended_by: str
    notes: dict[str, Any]


def run(
    config: Config,
    scene: Scene,
    views: Views,
    checkpoints: Checkpoints,
    stop: Stop,
    start: Start,
    started: float,
    to_come: int = 0,
) -> Outcome:
    """Optimise Gaussians for ``views.training`` until ``Progress.ended`` names a reason.

    ``started`` is the monotonic time at which the job began, ``to_come`` the steps of runs after
    this one. Raises ``E_NOT_FINITE``, ``E_OOM``.
    """
    stepper, step, notes = start
    schedule = Schedule(config, scene.size, len(views.training))
    device = stepper.splats.values()["means"].device
    strategy = Strategy(config, device, notes.get("cap", config.max_gaussians))
    progress = Progress(config, views, notes, step, stop, started, to_come)
    zoom, drawn = 1, views.training
    reached("start")
    try:
        while (ended_by := progress.ended(step)) is None:
            at = schedule.at(step + 1)
            if at.zoom != zoom:
                zoom = at.zoom
                drawn = [reduced(view, zoom) for view in views.training]
            view = drawn[at.view]
            try:
                figures = stepper.step(view, view.photo(), at)
                if strategy.due(at.step):
                    strategy.refine(stepper.splats, at.seed)
                step = at.step
                progress.record(step, figures, stepper.splats, view.name)
                if checkpoints.due(step):
                    progress.settle(step, stepper.splats)
                    checkpoints.save(step, stepper.splats, notes)
            except (torch.OutOfMemoryError, MemoryError) as shortage:
                strategy.cap = give_way(stepper, views, notes, at.step, shortage)
                progress.forget_best(at.step)
    finally:
        progress.tell()
    progress.settle(step, stepper.splats)
    if step and ended_by == "signal":
        checkpoints.save(step, stepper.splats, notes)
    checkpoints.wait()
    best = progress.forget_best()
    values = stepper.splats.values()
    if ended_by == "plateau" and best:
        values = {name: value.to(device) for name, value in best.items()}
        log.event(phase="return", to_step=notes["best_step"], inner_psnr=notes["best_psnr"])
    return Outcome(values, step, ended_by, notes)


def begin(
    config: Config,
    scene: Scene,
    device: torch.device,
    found: Mapping[str, Any] | None,
    **notes: Any,
) -> Start:
    """The Gaussians to start from: the checkpoint that was found, or the SfM points."""
    if found is None:
        values = initial_values(scene.points, scene.colors, config)
        on_device = {name: value.to(device) for name, value in values.items()}
        return make_step(config, scene.size, on_device), 0, notes
    step = make_step(config, scene.size, found["values"], found["moments"])
    notes = {**found["notes"], **notes, "resumed_from": found["step"]}
    return step, found["step"], notes


def make_step(
    config: Config,
    scene_size: float,
    values: Mapping[str, Tensor],
    moments: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Step:
    """The compiled step on a GPU, autograd on a CPU, or what ``STEP`` in the environment names."""
    chosen = os.environ.get(STEP) or (OWN if values["means"].is_cuda else "autograd")
    if chosen == "autograd":
        return AutogradStep(config, scene_size, values, moments)
    from trainer.fused import FusedStep

    pair = "gsplat" if chosen == "fused-gsplat" else "own"
    return FusedStep(config, scene_size, values, moments, pair)


def give_way(
    stepper: Step, views: Views, notes: dict[str, Any], step: int, shortage: BaseException
) -> int:
    """Memory ran out: once, reduce in a stated way and return the new cap; then ``E_OOM``."""
    count = stepper.splats.count
    said = " ".join(str(shortage).split())[:200]
    if "cap" in notes:
        raise TrainerError(
            "E_OOM",
            f"memory ran out at step {step} with {count} Gaussians, after it had been reduced once "
            f"to {notes['cap']}: {said}",
        ) from shortage
    traceback.clear_frames(shortage.__traceback__)  # which still hold what they had made
    try:
        kept = reduce(stepper, views)
    except (torch.OutOfMemoryError, MemoryError) as again:
        raise TrainerError(
            "E_OOM",
            f"memory ran out at step {step} with {count} Gaussians, and again as they were to be "
            f"reduced: {said}",
        ) from again
    notes["cap"] = kept
    log.line(
        f"warning: memory ran out at step {step} with {count} Gaussians: reduced once, to the "
        f"{kept} most opaque, which is the cap from here; photographs stay in host memory "
        f"({said})"
    )
    return kept


def reduce(stepper: Step, views: Views) -> int:
    """Keep the most opaque Gaussians; returns how many.

    First what makes room, since keeping some needs room for them beside all.
    """
    stepper.release()
    for view in views.training:
        view.pixels = view.pixels.cpu()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    order = stepper.splats.values()["opacities"].argsort(descending=True)
    kept = order[: max(1, int(len(order) * _KEPT))].sort().values
    stepper.splats.keep(kept)
    return len(kept)
