"""Every parameter has an effect of its own: a new one without a row here fails."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import SIZE, VIEWS, make_job, metrics, opened, run
from torch import Tensor
from trainer import config, export


@dataclass(frozen=True)
class Ran:
    """A job that has ended, and what it left."""

    base: Path
    status: int
    log: str

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """``metrics.json``."""
        return metrics(self.base)

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """The written Gaussians; those of the SfM points first, in their order."""
        return export.read_ply(self.base / "model/point_cloud.ply")

    def initial(self, name: str) -> Tensor:
        """A tensor of the Gaussians that were there from the beginning."""
        return self.values[name][: self.metrics["initial_points"]]

    def moved(self) -> float:
        """Largest distance of such a Gaussian from its SfM point."""
        points = opened(self.base / "input/data/training")[0].points
        return float(np.abs(self.initial("means").numpy() - points).max())

    def elongation(self) -> float:
        """The largest ratio of a Gaussian's longest axis to its middle one."""
        scales = self.values["scales"].sort(1).values
        return float((scales[:, 2] - scales[:, 1]).max().exp())

    def points(self, figure: str) -> list[int]:
        """The steps at which the curve has this figure."""
        return [point["step"] for point in self.metrics["curve"] if figure in point]

    def loss(self) -> float:
        """The loss of the last lines' steps."""
        return float(self.metrics["loss_last"])


def ran(base: Path, **parameters: object) -> Ran:
    """Run one job on the small scene, a corner masked, with these parameters beside its own."""
    make_job(base, **parameters)
    kept = np.full(SIZE[::-1], 255, np.uint8)
    kept[:8, :8] = 0
    (base / "input/data/training/masks/sub dir").mkdir(parents=True)
    Image.fromarray(kept).save(base / "input/data/training/masks/sub dir/v2.png.png")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = run(base)
    return Ran(base, status, out.getvalue())


#: Name to what is asked for, and what must then be true, and is not true without: of the job that
#: was asked and of the one that was not.
EFFECTS: dict[str, tuple[dict[str, object], Callable[[Ran, Ran], bool]]] = {
    "max_iterations": ({"max_iterations": 7}, lambda r, _: r.metrics["steps"] == 7),
    "max_minutes": (
        {"max_iterations": 1_000_000, "max_minutes": 0.05},
        # A machine that has stalled for three seconds has no time for a step.
        lambda r, _: "E_STOPPED" in r.log or r.metrics["ended_by"] == "max_minutes",
    ),
    "device": ({"device": "cuda"}, lambda r, _: "E_NO_GPU" in r.log or "NVIDIA" in r.log),
    "recipe": ({"recipe": "sparse"}, lambda r, b: len(r.values["means"]) == grown(b, 3, 0.2)),
    "plateau": (
        {"max_iterations": 9999, "plateau": 8, "lr_means": 0, "lr_scales": 0, "lr_sh": 0},
        # Of six views two are held out, and one tells of the plateau.
        lambda r, _: (r.metrics["ended_by"], r.metrics["train_views"]) == ("plateau", 3),
    ),
    "seed": ({"seed": 5}, lambda r, b: r.metrics["psnr"] != b.metrics["psnr"]),
    "log_every": ({"log_every": 3}, lambda r, _: r.points("loss") == [1, 3, 6, 9, 12]),
    "eval_every": ({"eval_every": 5}, lambda r, _: r.points("held_out_psnr") == [5, 10]),
    "checkpoint_every": (
        {"checkpoint_every": 4},
        lambda r, _: r.log.count("phase=checkpoint") == 3,
    ),
    "max_image_size": ({"max_image_size": 40}, lambda r, _: r.metrics["views"][0]["width"] == 40),
    "masks": ({"masks": "ignore"}, lambda r, _: r.metrics["masked"] == 0),
    "hold_out": ({"hold_out": 0}, lambda r, _: r.metrics["train_views"] == VIEWS),
    "max_gaussians": ({"max_gaussians": 310}, lambda r, _: r.metrics["gaussians"] == 310),
    "sh_degree": ({"sh_degree": 1}, lambda r, _: r.values["shN"].shape[1] == 3),
    "sh_every": ({"sh_every": 99}, lambda r, _: not r.values["shN"].any()),
    "init_scale": (
        {"init_scale": 3},
        lambda r, b: math.log(2) < float((r.initial("scales") - b.initial("scales")).median()),
    ),
    "max_elongation": ({"max_elongation": 1.02}, lambda r, _: r.elongation() < 1.021),
    "refine_start": ({"refine_start": 9}, lambda r, b: len(r.values["means"]) == grown(b, 1)),
    "refine_every": ({"refine_every": 5}, lambda r, b: len(r.values["means"]) == grown(b, 2)),
    "refine_stop": ({"refine_stop": 3}, lambda r, b: len(r.values["means"]) == grown(b, 1)),
    "growth": ({"growth": 0.5}, lambda r, b: len(r.values["means"]) == grown(b, 3, 0.5)),
    "opacity_reg": (
        {"opacity_reg": 1},
        lambda r, b: r.values["opacities"].mean() < b.values["opacities"].mean() - 0.2,
    ),
    "background": (
        {"background": "random"},
        lambda r, b: r.metrics["psnr"] < b.metrics["psnr"] - 0.1,
    ),
    "dropout": ({"dropout": 0.9}, lambda r, b: r.loss() > 1.1 * b.loss()),
    "lr_means": ({"lr_means": 0}, lambda r, _: r.moved() < 1e-6),
    "lr_scales": ({"lr_scales": 0}, lambda r, _: r.elongation() < 1 + 1e-6),
    "lr_sh": ({"lr_sh": 0}, lambda r, _: not r.values["shN"].any()),
}


def grown(base: Ran, times: int, growth: float = 0.05) -> int:
    """The initial points after so many refinements."""
    count = int(base.metrics["initial_points"])
    for _ in range(times):
        count = math.ceil(count * (1 + growth))
    return count


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The job that asks for nothing but what suits the small scene."""
    return ran(tmp_path_factory.mktemp("plain"))


def test_every_parameter_has_a_row() -> None:
    assert list(EFFECTS) == [p.name for p in config.TABLE], "add a row to EFFECTS, or no parameter"


@pytest.mark.parametrize("name", EFFECTS)
def test_parameter_has_its_effect(plain: Ran, tmp_path: Path, name: str) -> None:
    asked, claim = EFFECTS[name]
    assert claim(ran(tmp_path, **asked), plain)
    assert not claim(plain, plain), "true without asking: the row shows nothing"
