#!/usr/bin/env python3
"""Trains on one scene and times it: one JSON object on standard output, progress on standard error.

    python image/bench.py --scene tests/scenes/banana --seeds 5 max_iterations=7000
    python image/bench.py --scene tests/scenes/banana --folds 0-7 --against autograd
    python image/bench.py --scene tests/scenes/brighton_beach --frozen 1400000

Times are from step 0 to the last, the device idle at both ends; scene loading, the first Gaussians
(``setup_seconds``) and evaluation are not in them. ``gpu_busy`` is the time of all kernels of one
run, by CUPTI in a repeat of the first, divided by the wall time of that run without the profiler.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from trainer import channel, choice, config, consistency, rasterise
from trainer import train as loop
from trainer.checkpoint import Checkpoints
from trainer.errors import TrainerError
from trainer.evaluate import evaluate, mean
from trainer.photos import index_photos, load_photos
from trainer.scene import read_scene
from trainer.schedule import Schedule
from trainer.stop import Stop

STEPS = ("fused", "fused-gsplat", "autograd")
#: Steps before, within and after, under the profiler, a timing at a frozen number of Gaussians:
#: past the early steps, whose list of intersections has more room than most of a training's.
_WARM, _TIMED, _PROFILED = 250, 200, 20


class Bench:
    """A scene loaded once, trained on many times."""

    def __init__(self, path: Path, settings: config.Config, zoom: int) -> None:
        self.stop = Stop()
        with channel.open_channel(path) as layout:
            self.scene = read_scene(layout)
            index = index_photos(self.scene)
            photos = load_photos(self.scene, index, settings.max_image_size, lambda: None)
            photos = consistency.checked(self.scene, photos)
            pixels = sum(photo.width * photo.height for photo in photos)
            self.settings = settings.resolved(len(photos), pixels, len(self.scene.points))
        self.device = rasterise.require_backend(settings.device)
        views = [rasterise.make_view(photo, self.device, True) for photo in photos]
        self.photos = [enlarged(view, zoom) for view in views]

    def wait(self) -> float:
        """Wait until the device is idle; returns the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def views(self, fold: int) -> rasterise.Views:
        """The views, with the held-out ones beginning at photograph ``fold``."""
        every = self.settings.hold_out
        turned = self.photos[fold:] + self.photos[:fold]
        held = {view.name for view in self.photos[fold::every]} if every else set()
        found = rasterise.split(replace(self.settings, hold_out=0), self.photos)
        training = [v for v in found.training if v.name not in held]
        return rasterise.Views(training, found.inner, [v for v in turned if v.name in held])

    def run(self, seed: int, fold: int, step: str) -> dict[str, Any]:
        """One training: its seconds and its quality on what it did not see."""
        os.environ[loop.STEP] = step
        settings = replace(self.settings, seed=seed)
        views = self.views(fold)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        began = self.wait()
        outcome = choice.train(
            settings, self.scene, views, Checkpoints(None, 0, ""), self.stop, self.device, began
        )
        whole, seconds = self.wait() - began, float(outcome.notes["seconds"])
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if cuda else 0
        found = evaluate(outcome.values, views.judged, self.stop)
        return {
            "seed": seed,
            "fold": fold,
            "step": step,
            "held_out": [view.name for view in views.held_out],
            "steps": outcome.step,
            "seconds": seconds,
            "setup_seconds": whole - seconds,
            "gaussians": len(outcome.values["means"]),
            "psnr": mean([q.psnr for q in found]),
            "ssim": mean([q.ssim for q in found]),
            "views": {q.name: round(q.psnr, 3) for q in found},
            "peak_bytes": peak,
            "curve": outcome.notes.get("curve", []),
            "choice": outcome.notes.get("choice"),
            "values": outcome.values,
        }

    def frozen(self, count: int) -> dict[str, Any]:
        """Milliseconds a step of each kind from one state grown to ``count`` Gaussians."""
        kept = self.settings
        self.settings = replace(
            kept,
            recipe="detail",
            growth=0.2,
            max_gaussians=count,
            refine_every=50,
            max_iterations=4000,
        )
        grown = self.run(0, 0, "fused")
        self.settings = kept
        values = {name: v.clone() for name, v in grown["values"].items()}
        views = self.views(0).training
        schedule = Schedule(replace(kept, max_iterations=100_000), self.scene.size, len(views))
        found: dict[str, Any] = {"gaussians": grown["gaussians"]}
        for key in ("ms", "peak_bytes", "kernels_ms"):
            found[key] = {}
        for kind in STEPS:
            os.environ[loop.STEP] = kind
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            stepper = loop.make_step(kept, self.scene.size, values)
            # At the full degree of the colours, as most of a training is.
            plan = [
                replace(schedule.at(t + 1), sh_degree=kept.sh_degree) for t in range(_WARM + _TIMED)
            ]
            for at in plan[:_WARM]:
                stepper.step(views[at.view], views[at.view].photo(), at)
            began = self.wait()
            for at in plan[_WARM:]:
                stepper.step(views[at.view], views[at.view].photo(), at)
            found["ms"][kind] = 1000 * (self.wait() - began) / _TIMED

            def some(stepper: Any = stepper, plan: Any = plan[-_PROFILED:]) -> None:
                for at in plan:
                    stepper.step(views[at.view], views[at.view].photo(), at)
                self.wait()

            total, greatest = kernel_seconds(some)
            found["kernels_ms"][kind] = {
                "all": 1000 * total / _PROFILED,
                **{name: round(1000 * t / _PROFILED, 4) for name, t in greatest.items()},
            }
            found["peak_bytes"][kind] = torch.cuda.max_memory_allocated()
            del stepper
        return found


def kernel_seconds(work: Callable[[], object]) -> tuple[float, dict[str, float]]:
    """Time that all kernels of some work take together, and the greatest of them by name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        work()
    total: dict[str, float] = {}
    for event in found.profiler.kineto_results.events():
        if event.device_type() == torch.autograd.DeviceType.CUDA:
            name = event.name().split("(")[0][:80]
            total[name] = total.get(name, 0.0) + event.duration_ns() / 1e9
    greatest = sorted(total.items(), key=lambda item: -item[1])[:14]
    return sum(total.values()), {name: round(t, 6) for name, t in greatest}


def enlarged(view: rasterise.View, zoom: int) -> rasterise.View:
    """The view with each pixel made ``zoom`` by ``zoom``, to time images larger than there are."""
    pixels = view.pixels.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    fx, fy, cx, cy = (zoom * value for value in view.intrinsics)
    return replace(view, pixels=pixels.contiguous(), intrinsics=(fx, fy, cx, cy))


def numbers(text: str) -> list[int]:
    """``"0-2,5"`` as [0, 1, 2, 5]."""
    out: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out


def settings_from(words: list[str], device: str) -> config.Config:
    """The configuration of NAME=VALUE words, one run if they do not say otherwise; raises
    TrainerError as a job would.
    """
    given = {"device": device, "recipe": "detail", **dict(word.split("=", 1) for word in words)}
    return config.load(Path("/nonexistent"), {k.upper(): v for k, v in given.items()})


def measure(asked: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that was asked for, as the result's fields."""
    bench = Bench(asked.scene, settings_from(asked.parameters, asked.device), asked.zoom)
    cuda = bench.device.type == "cuda"
    if asked.cap_gib:
        _, memory = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(asked.cap_gib * 2**30 / memory)
    runs = []
    for fold in numbers(asked.folds):
        for seed in range(asked.seeds):
            runs.append(bench.run(seed, fold, asked.step))
            del runs[-1]["values"]
            say(f"fold {fold} seed {seed}: {runs[-1]['seconds']:.2f} s {runs[-1]['psnr']:.2f} dB")
    first = runs[0]
    result = {
        "schema": "splatgate/bench/1",
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "scene": asked.scene.name,
        "step": asked.step,
        "fold": [run["fold"] for run in runs],
        "held_out": {run["fold"]: run["held_out"] for run in runs},
        "steps": first["steps"],
        "seconds": [run["seconds"] for run in runs],
        "setup_seconds": [run["setup_seconds"] for run in runs],
        "steps_per_s": [run["steps"] / run["seconds"] for run in runs],
        "gpu_busy": None,
        "gaussians": [run["gaussians"] for run in runs],
        "psnr": [run["psnr"] for run in runs],
        "ssim": [run["ssim"] for run in runs],
        "views": [run["views"] for run in runs],
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "curve": first["curve"],
        "choice": [run["choice"] for run in runs],
        "parameters": bench.settings.values(),
    }
    if cuda and asked.busy:
        total, greatest = kernel_seconds(
            lambda: bench.run(first["seed"], first["fold"], asked.step)
        )
        fastest = min(run["seconds"] for run in runs if run["fold"] == first["fold"])
        result["gpu_busy"] = total / fastest
        result["kernels"] = greatest
    if asked.against:
        other = bench.run(0, first["fold"], asked.against)
        keys = ("step", "seconds", "psnr", "ssim", "gaussians")
        result["against"] = {k: other[k] for k in keys}
        result["against"]["ratio"] = other["seconds"] / first["seconds"]
    if asked.frozen:
        result["frozen"] = bench.frozen(asked.frozen)
    return result


def main() -> int:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", type=Path, required=True, help="folder with sparse/ and images/")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seeds", type=int, default=1, help="runs a fold, with seeds 0, 1, ...")
    parser.add_argument("--folds", default="0", help="which photographs are held out, such as 0-7")
    parser.add_argument("--step", default=None, choices=STEPS)
    parser.add_argument(
        "--against", choices=STEPS, help="another kind of step, once, for the ratio"
    )
    parser.add_argument("--frozen", type=int, default=0, metavar="N", help="time N Gaussians too")
    parser.add_argument("--zoom", type=int, default=1, help="enlarge the photographs")
    parser.add_argument("--cap-gib", type=float, default=0, help="PyTorch may allocate no more")
    parser.add_argument("--busy", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="hyperparameters")
    asked = parser.parse_args()
    asked.step = asked.step or ("fused" if asked.device == "cuda" else "autograd")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = measure(asked, lambda line: sys.stderr.write(line + "\n") and None)
    except TrainerError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return error.kind.exit
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
