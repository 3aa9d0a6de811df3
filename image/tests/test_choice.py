"""The choice of a recipe: both tried, the better run again and merged; and every way it is cut."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import make_job, metrics, opened, run, run_to
from test_interrupted import see_only_whole_files
from trainer import choice, config, export, progress, rasterise
from trainer.densify import Strategy
from trainer.stop import Stop

#: A cap that four runs share, and that each of them reaches.
CAP = 1208


def chosen(base: Path, **more: object) -> Path:
    """A job that chooses, on the small scene."""
    return make_job(base, recipe="choose", hold_out=0, max_gaussians=CAP, eval_every=0, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that nothing interrupted."""
    base = chosen(tmp_path_factory.mktemp("whole"))
    assert run(base) == 0
    return base


def test_better_recipe_is_run_again_and_merged(whole: Path) -> None:
    found = metrics(whole)
    runs = found["choice"]["runs"]
    tried = {r["recipe"]: r["inner_psnr"] for r in runs if "inner_psnr" in r}
    assert set(tried) == set(config.RECIPES)
    winner = found["choice"]["recipe"]
    assert tried[winner] == max(tried.values())
    again = [r for r in runs if "inner_psnr" not in r]
    assert [r["recipe"] for r in again] == [winner] * choice.MEMBERS
    assert len({r["seed"] for r in runs}) == len(runs)
    assert (found["gaussians"], found["steps"], found["train_views"]) == (CAP, 12, 6)
    asked = json.loads((whole / "model/training_config.json").read_text())
    assert (asked["parameters"]["recipe"], asked["parameters"]["max_gaussians"]) == ("choose", CAP)


def test_merged_models_draw_what_one_of_them_did(whole: Path) -> None:
    """Four times the same model, each so much fainter, is that model."""
    values = export.read_ply(whole / "model/point_cloud.ply")
    _, photos = opened(whole / "input/data/training")
    view = rasterise.make_view(photos[0], torch.device("cpu"), True)
    merged = choice.merge([values] * 4)
    opaque = {**merged, "opacities": values["opacities"].repeat(4)}
    one, four, thick = (
        rasterise.render(v, v["opacities"].sigmoid(), view, 0) for v in (values, merged, opaque)
    )
    # Not quite: the falloff does not go with the power of the opacity.
    assert float((one - four).abs().mean()) < 0.3 * float((one - thick).abs().mean())


@pytest.mark.parametrize("point", ["step:20", "step:40", "checkpoint.pt.rename:9"])
def test_killed_in_a_later_run_and_started_again_ends_alike(
    whole: Path, tmp_path: Path, point: str
) -> None:
    shutil.copytree(whole / "input", tmp_path / "input")
    killed = multiprocessing.get_context("forkserver").Process(
        target=run_to, args=(tmp_path, point)
    )
    killed.start()
    killed.join(300)
    assert killed.exitcode == -signal.SIGKILL
    see_only_whole_files(tmp_path)
    assert run(tmp_path) == 0
    found, other = metrics(tmp_path), metrics(whole)
    assert found["resumed_from"] in (5, 10)
    assert [r["seed"] for r in found["choice"]["runs"]] == list(range(6))
    assert found["psnr"] == pytest.approx(other["psnr"], abs=1e-3)


def at_run(number: int, then: Callable[[], object]) -> Any:
    """Replaces ``Progress.record``: at the third step of a run ``then`` is called."""
    original, seen = progress.Progress.record, []

    def record(self: progress.Progress, step: int, *rest: Any) -> None:
        original(self, step, *rest)
        if step == 3:
            seen.append(step)
            if len(seen) == number:
                then()

    return record


@pytest.mark.parametrize(("number", "steps", "tried"), [(1, 3, 0), (2, 12, 1), (4, 12, 3)])
def test_stopped_in_a_run_leaves_the_best_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, steps: int, tried: int
) -> None:
    base = chosen(tmp_path)
    ask = at_run(number, lambda: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(progress.Progress, "record", ask)
    assert run(base) == 0
    found = metrics(base)
    assert (found["status"], found["steps"]) == ("stopped", steps)
    assert len((found["choice"] or {"runs": []})["runs"]) == tried
    assert found["gaussians"] <= CAP // choice.MEMBERS


def test_time_for_one_run_gives_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "_SLACK", 1e9)
    base = chosen(tmp_path, max_minutes=100)
    assert run(base) == 0
    assert "warning: 1 of 6 runs were made, max_minutes has no more" in capsys.readouterr().out
    found = metrics(base)
    assert (found["ended_by"], found["choice"]["recipe"]) == ("iterations", "detail")


@pytest.mark.parametrize(
    ("visits", "told", "count"),
    # Steps count through all runs; two in one run are more than that run can give way to.
    [
        ("step:30", "3 of 6 runs were made, memory has no more", 3),
        ("step:25-", "run 3 of 6 failed, and is left out", 2),
        ("step:73", "memory ran out as runs were merged: one is kept alone", 6),
    ],
    ids=["reduced", "failed", "merging"],
)
def test_memory_that_runs_out_leaves_the_best_that_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], visits: str, told: str, count: int
) -> None:
    base = chosen(tmp_path)
    assert run_to(base, f"{visits}=oom") == 0
    assert told in capsys.readouterr().out
    found = metrics(base)
    assert found["status"] == "completed"
    assert len(found["choice"]["runs"]) == count


def test_run_kept_alone_finds_free_what_merging_had_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    seen: list[object] = []

    def fails(*_: object) -> None:
        new = torch.zeros(1)
        made.append(weakref.ref(new))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(choice.Choice, "settled", fails)
    monkeypatch.setattr(choice.Choice, "best", lambda self, ending: seen.append(made[0]()))
    settings, cpu = config.Config(recipe="choose", max_gaussians=CAP), torch.device("cpu")
    chooses = choice.Choice(settings, None, None, None, Stop(), cpu, 0.0)
    tried = [{"recipe": name, "inner_psnr": 20.0} for name in config.RECIPES]
    chooses.runs = tried + [{"values": {}}] * choice.MEMBERS
    chooses.merged()
    assert seen == [None]


def asked(tmp_path: Path, **environment: str) -> config.Config:
    """The configuration of a request."""
    return config.load(tmp_path, environment)


@pytest.mark.parametrize(
    ("request_", "photographs", "recipe"),
    [
        ({}, 30, "choose"),
        ({}, 31, "many"),
        ({"PLATEAU": "500"}, 31, "many"),
        ({"MAX_ITERATIONS": "1999"}, 20, "detail"),
        ({"DEVICE": "cpu"}, 20, "detail"),
        ({"PLATEAU": "500"}, 20, "many"),
        ({"DEVICE": "cpu"}, 999, "detail"),
        ({"RECIPE": "choose", "DEVICE": "cpu"}, 999, "choose"),
        ({"RECIPE": "sparse"}, 999, "sparse"),
    ],
)
def test_auto_chooses_where_it_pays(
    tmp_path: Path, request_: dict[str, str], photographs: int, recipe: str
) -> None:
    assert asked(tmp_path, **request_).resolved(photographs).recipe == recipe


def test_many_photographs_are_trained_for_longer_and_with_more(tmp_path: Path) -> None:
    settings = asked(tmp_path)
    few, more = (settings.resolved(n, n * 2_000_000, 15_000) for n in (80, 240))
    assert (few.max_iterations, more.max_iterations) == (7000, 70 * 210)
    assert few.max_gaussians == 15_000 * 54, "as many as the points can become"
    assert more.max_gaussians == 15_000 * 54 * 70 * 210 // 7000
    assert settings.resolved(240, 240 * 200_000, 15_000).max_gaussians == 420_000, "by the pixels"
    assert settings.resolved(240, 240 * 2_000_000, 15_000, 200_000).max_gaussians == 200_000
    for found in (few, more):
        assert math.isclose(Strategy.reachable(found, 15_000), found.max_gaussians, rel_tol=0.02), (
            "reached at the last refinement"
        )
    own = asked(tmp_path, MAX_ITERATIONS="9000", MAX_GAUSSIANS="50000", GROWTH="0.2")
    found = own.resolved(240, 240 * 2_000_000, 15_000)
    assert (found.max_iterations, found.max_gaussians, found.growth) == (9000, 50_000, 0.2)


def test_what_the_request_says_stands(tmp_path: Path) -> None:
    found = asked(tmp_path, RECIPE="sparse", GROWTH="0.5").resolved(20)
    assert (found.growth, found.dropout) == (0.5, config.RECIPES["sparse"]["dropout"])
    assert found.sources["growth"] == "environment variable GROWTH"
    assert found.sources["dropout"] == "recipe sparse"


def test_all_runs_share_the_cap(tmp_path: Path) -> None:
    settings = asked(tmp_path, MAX_GAUSSIANS="1000")
    caps = {name: choice.member(settings, name, 0).max_gaussians for name in config.RECIPES}
    assert caps == dict.fromkeys(caps, 250)
    resolved = settings.resolved(20)
    assert choice.reachable(resolved, 300) == 1000
    assert math.isclose(choice.member(settings, "sparse", 3).lr_means, 1.6e-4)
