"""Photographs are small at first where a recipe says so; and what is told of a run before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import make_job, opened
from trainer import config, job
from trainer.rasterise import View, reduced
from trainer.schedule import Schedule
from trainer.stop import Stop


def view(width: int, height: int) -> View:
    """A camera whose photograph grows brighter to the right."""
    pixels = torch.arange(width, dtype=torch.uint8)[None, :, None].expand(height, width, 3)
    return View("a", torch.eye(4), (90.0, 80.0, width / 2, height / 2), pixels.contiguous())


def test_reduced_view_sees_the_same() -> None:
    small = reduced(view(203, 130), 2)
    assert (small.width, small.height) == (101, 65)
    assert small.intrinsics == (45.0, 40.0, 203 / 4, 130 / 4)
    assert small.pixels[0, :3, 0].tolist() == [1, 3, 5], "the mean of 0 and 1, rounded up"


@pytest.mark.parametrize("by", [1, 4])
def test_view_stays_where_little_would_be_left(by: int) -> None:
    whole = view(203, 130)
    assert reduced(whole, by) is whole


def test_photographs_are_small_at_first() -> None:
    settings = replace(config.Config(), max_iterations=1000, coarse=0.4)
    zooms = [Schedule(settings, 1.0, 3).at(step).zoom for step in (1, 150, 151, 400, 401, 1000)]
    assert zooms == [4, 4, 2, 2, 1, 1]
    assert Schedule(replace(settings, coarse=0.0), 1.0, 3).at(1).zoom == 1


@pytest.mark.parametrize(("gpus", "idle"), [(1, 0), (4, 3)])
def test_plan_and_idle_gpus_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gpus: int,
    idle: int,
) -> None:
    make_job(tmp_path)
    scene: Any = opened(tmp_path / "input/data/training")[0]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (14 * 2**30, 16 * 2**30))
    settings = config.load(Path("/nonexistent"), {"RECIPE": "many"})
    found = job.Job(tmp_path, {}, Stop()).sized(settings, scene, torch.device("cuda", 0))
    told = capsys.readouterr().out
    assert f"phase=plan recipe=many max_iterations=7000 max_gaussians={found.max_gaussians}" in told
    assert "most=3000000" in told
    assert (f"{idle} of this instance stay idle" in told) == bool(idle)
