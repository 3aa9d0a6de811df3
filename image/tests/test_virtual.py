"""Virtual views: sane cameras among those of the photographs, and what models agree on there."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import make_scene, opened
from torch import Tensor
from trainer import budget, choice, config, loss, model, rasterise, virtual
from trainer.checkpoint import Checkpoints
from trainer.errors import TrainerError
from trainer.scene import Scene
from trainer.stop import Stop

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, list[rasterise.View]]:
    """The small scene and the views of its six photographs, in a row 0.1 apart."""
    scene, photos = opened(make_scene(tmp_path_factory.mktemp("small")))
    return scene, [rasterise.make_view(photo, CPU, True) for photo in photos]


def turned(view: rasterise.View, degrees: float) -> rasterise.View:
    """The view from the same place, turned about the vertical."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    turn = torch.tensor([[cosine, 0, sine, 0], [0, 1, 0, 0], [-sine, 0, cosine, 0], [0, 0, 0, 1]])
    return replace(view, viewmat=turn @ view.viewmat)


def angles(found: list[tuple[rasterise.View, Tensor]]) -> list[float]:
    """Degrees between each camera and the one it comes from."""
    both = [(v.viewmat[:3, :3].double(), m[:3, :3].double()) for v, m in found]
    traces = [float((a @ b.T).trace()) for a, b in both]
    return [math.degrees(math.acos(min(1.0, max(-1.0, (t - 1) / 2)))) for t in traces]


def test_cameras_are_among_those_of_the_photographs(
    small: tuple[Scene, list[rasterise.View]],
) -> None:
    _, views = small
    found = virtual.cameras(views, 3)
    assert len(found) == virtual.count(6) == 36
    assert virtual.count(500) == 96
    for _, viewmat in found:
        turn = viewmat[:3, :3].double()
        assert float((turn @ turn.T - torch.eye(3)).abs().max()) < 1e-6
        assert float(torch.linalg.det(turn)) == pytest.approx(1)
        across, up, along = (-turn.T @ viewmat[:3, 3].double()).tolist()
        assert 0.0 < across < 0.7
        assert max(abs(up), abs(along)) < 0.1
    assert max(angles(found)) < 10
    assert len({round(float(m[0, 3]), 6) for _, m in found}) == len(found)
    again = virtual.cameras(views, 3)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, again, strict=True))


def test_cameras_that_look_apart_are_not_averaged(
    small: tuple[Scene, list[rasterise.View]],
) -> None:
    """Half-way between two that look opposite ways is no view of either's scene."""
    _, views = small
    apart = [turned(view, 180.0 * (k % 2)) for k, view in enumerate(views)]
    assert max(angles(virtual.cameras(apart, 0))) < 10
    aside = [turned(view, 40.0 * (k % 2)) for k, view in enumerate(views)]
    assert 10 < max(angles(virtual.cameras(aside, 0))) < 40


def test_photographs_from_one_place_are_enough(small: tuple[Scene, list[rasterise.View]]) -> None:
    _, views = small
    assert virtual.cameras(views[:1], 0) == []
    same = [replace(view, viewmat=views[0].viewmat) for view in views]
    assert all(m.isfinite().all() for _, m in virtual.cameras(same, 0))


def small_choice(
    small: tuple[Scene, list[rasterise.View]], tmp_path: Path, **more: str
) -> tuple[choice.Choice, config.Config, dict[str, Tensor]]:
    """A choice whose trials *detail* has won, its members' configuration, and a member."""
    scene, views = small
    given = {"DEVICE": "cpu", "RECIPE": "choose", "MAX_ITERATIONS": "35", **more}
    settings = config.load(tmp_path, given)
    chosen = choice.Choice(
        settings,
        scene,
        rasterise.Views(views, [], []),
        Checkpoints(None, 0, ""),
        Stop(),
        CPU,
        time.monotonic(),
    )
    chosen.runs = [{"recipe": "detail", "inner_psnr": 1.0}, {"recipe": "sparse", "inner_psnr": 0.0}]
    values = model.initial_values(scene.points, scene.colors, settings)
    return chosen, choice.member(settings, "detail", 0), values


def noisy(values: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The Gaussians, each in a wrong colour of its own."""
    draw = torch.Generator().manual_seed(seed)
    return {**values, "sh0": values["sh0"] + 0.5 * torch.randn(values["sh0"].shape, generator=draw)}


def test_merged_models_settle_to_the_mean_of_their_renders(
    small: tuple[Scene, list[rasterise.View]], tmp_path: Path
) -> None:
    """Where nobody took a photograph: nearer than by merging, and than by photographs alone."""
    _, views = small
    chosen, own, values = small_choice(small, tmp_path, MAX_ITERATIONS="350", INIT_SCALE="1")
    values["opacities"] = torch.full_like(values["opacities"], 3.0)
    members = [noisy(values, k) for k in range(3)]
    judged = virtual.drawn(views, members, 77, Stop())

    def off(found: dict[str, Tensor]) -> float:
        got = virtual.drawn(views, [found], 77, Stop())
        pairs = [(g.photo() / 255, j.photo() / 255) for g, j in zip(got, judged, strict=True)]
        return sum(float(loss.mse(a, b)) for a, b in pairs) / len(pairs)

    settled = off(chosen.settled(own, members).splats.values())
    assert settled < 0.3 * off(choice.merge(members))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(virtual, "_EACH", 0)
        without = chosen.settled(own, members)
    alone = off(without.splats.values())
    assert settled < 0.3 * alone


def test_settling_ends_when_max_minutes_does(
    small: tuple[Scene, list[rasterise.View]], tmp_path: Path
) -> None:
    chosen, own, values = small_choice(small, tmp_path, MAX_MINUTES="1")
    means = choice.merge([values] * 2)["means"]
    moved = chosen.settled(own, [values] * 2).splats.values()["means"]
    assert not torch.equal(moved, means)
    chosen.started -= 61
    left = chosen.settled(own, [values] * 2).splats.values()["means"]
    assert torch.equal(left, means)


def test_what_became_infinite_in_settling_is_no_model(
    small: tuple[Scene, list[rasterise.View]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, own, values = small_choice(small, tmp_path)
    made = choice.make_step

    def poisoned(*given: Any) -> Any:
        step = made(*given)
        with torch.no_grad():
            step.splats.values()["sh0"][0] = math.nan
        return step

    monkeypatch.setattr(choice, "make_step", poisoned)
    with pytest.raises(TrainerError, match="became not finite as merged runs settled") as fault:
        chosen.settled(own, [values] * 2)
    assert fault.value.code == "E_NOT_FINITE"


def test_virtual_views_are_in_the_memory_reckoned(
    small: tuple[Scene, list[rasterise.View]], tmp_path: Path
) -> None:
    scene, views = small
    one, many = (
        budget.host_budget(
            scene,
            config.load(tmp_path, {"DEVICE": "cpu", "RECIPE": recipe}),
            1000,
            1,
            0,
            (10**12, "the test's limit"),
        ).needs["photographs"]
        for recipe in ("detail", "choose")
    )
    drawn = sum(v.photo().numel() for v, _ in virtual.cameras(views, 0))
    assert many - one == drawn


def test_stop_ends_the_drawing(small: tuple[Scene, list[rasterise.View]]) -> None:
    scene, views = small
    settings = config.load(Path("/nonexistent"), {"DEVICE": "cpu"})
    values = model.initial_values(scene.points, scene.colors, settings)
    stop = Stop()
    stop.asked = time.monotonic()
    assert virtual.drawn(views, [values], 0, stop) == []
