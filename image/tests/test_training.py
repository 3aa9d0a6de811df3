"""From a COLMAP scene to the artefact, on a scene small enough for a unit test."""

from __future__ import annotations

import math
import re
import signal
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData
from small import make_job, metrics, run, run_to
from trainer import (
    budget,
    densify,
    export,
    fused,
    loss,
    model,
    progress,
    rasterise,
    train,
)
from trainer.config import Config
from trainer.config import load as load_config
from trainer.errors import TrainerError
from trainer.step import At, AutogradStep
from trainer.stop import Stop


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base folder of a job that has run to its end."""
    base = make_job(tmp_path_factory.mktemp("job"), max_gaussians=320)
    assert run(base) == 0
    return base


def test_job_writes_exactly_three_files(finished: Path) -> None:
    names = sorted(p.name for p in (finished / "model").iterdir())
    assert names == ["metrics.json", "point_cloud.ply", "training_config.json"]
    assert not (finished / "output/failure").exists()


def test_ply_has_the_reference_layout(finished: Path) -> None:
    vertex = PlyData.read(finished / "model/point_cloud.ply")["vertex"]
    names = [p.name for p in vertex.properties]
    assert names == export.columns(15)
    table = np.stack([vertex[n] for n in names], 1)
    assert table.dtype == np.float32
    assert np.isfinite(table).all()
    quats = np.stack([vertex[f"rot_{i}"] for i in range(4)], 1)
    assert np.allclose(np.linalg.norm(quats, axis=1), 1, atol=1e-5)


def test_metrics_are_those_of_the_artefact(finished: Path) -> None:
    found = metrics(finished)
    assert found["status"] == "completed"
    assert found["steps"] == 12
    assert found["held_out"] == ["sub dir/v1.png", "sub dir/v4.png"]
    assert found["gaussians"] == len(PlyData.read(finished / "model/point_cloud.ply")["vertex"])
    assert found["gaussians"] <= 320
    assert found["loss_last"] < found["loss_first"]
    assert found["psnr"] == pytest.approx(np.mean([v["psnr"] for v in found["views"]]))


def test_same_seed_gives_the_same_model(finished: Path, tmp_path: Path) -> None:
    base = make_job(tmp_path, max_gaussians=320)
    assert run(base) == 0
    assert metrics(base)["psnr"] == pytest.approx(metrics(finished)["psnr"], abs=1e-3)


def test_stop_at_a_step_leaves_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_job(tmp_path, max_iterations=100000)
    original = progress.Progress.record

    def ask(self: progress.Progress, step: int, *rest: object) -> None:
        original(self, step, *rest)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(progress.Progress, "record", ask)
    assert run(base) == 0
    assert (metrics(base)["status"], metrics(base)["steps"]) == ("stopped", 3)


@pytest.mark.parametrize(
    ("point", "best"),
    [("", 4), ("step:5=oom", 6), ("sigterm", 4)],
    ids=["in-one-go", "reduced-on-the-way", "restarted"],
)
def test_plateau_returns_to_the_best_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, best: int
) -> None:
    """Views kept aside are drawn best at step 4, then worse and worse: the model is step 4's.

    Unless memory ran out meanwhile: what is best is measured anew, within the lower cap.
    """
    base = make_job(tmp_path, max_iterations=1000, plateau=8, log_every=50)
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def quality(self: progress.Progress, splats: model.Splats, _: object) -> tuple[float, float]:
        step = 2 * len(seen) + 2
        seen[step] = {n: v.clone() for n, v in splats.values().items()}
        if (point, step) == ("sigterm", 6):
            signal.raise_signal(signal.SIGTERM)
        return {2: 10.0, 4: 20.0}.get(step, 19.0), 0.5

    monkeypatch.setattr(progress.Progress, "_quality", quality)
    if point == "sigterm":
        assert run(base) == 0
        assert (metrics(base)["status"], metrics(base)["steps"]) == ("stopped", 6)
    assert run_to(base, point if "=" in point else "") == 0
    found = metrics(base)
    assert (found["ended_by"], found["steps"], found["best_step"]) == ("plateau", best + 8, best)
    assert found["gaussians"] <= (found["cap"] or math.inf)
    written = export.read_ply(base / "model/point_cloud.ply")
    assert all(torch.equal(written[n], seen[best][n]) for n in ("means", "scales", "sh0", "shN"))


def test_views_that_leave_none_to_train_on_are_refused(tmp_path: Path) -> None:
    settings_ = load_config(tmp_path, {"HOLD_OUT": "2", "PLATEAU": "8"})
    views = [rasterise.View(n, torch.eye(4), (1, 1, 0, 0), torch.zeros(1, 1, 3)) for n in "abc"]
    with pytest.raises(TrainerError, match="leave none of 3") as e:
        rasterise.split(settings_, views)
    assert e.value.code == "E_HYPERPARAMETER"


def test_time_is_projected_and_too_much_of_it_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step a second: 1,000 steps do not fit into ten minutes, which shows after 100."""
    settings_ = load_config(tmp_path, {"MAX_ITERATIONS": "1000", "MAX_MINUTES": "10"})
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    views = rasterise.Views([], [], [])
    seen = progress.Progress(settings_, views, {}, 0, Stop(), 0.0)
    values = {n: torch.zeros(1) for n in model.Splats.names}
    splats = SimpleNamespace(count=1, values=lambda: values)
    step = 0
    while seen.ended(step) is None:
        step, clock[0] = step + 1, clock[0] + 1
        seen.record(step, torch.tensor([0.1, 0.1]), splats, "v")
        told = "warning: 1000 steps need about 1000 s, more than" in capsys.readouterr().out
        assert told == (step == 100)
    assert seen.ended(step) == "max_minutes"
    assert seen.notes["projected_seconds"] == pytest.approx(1000)
    assert step == 600


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_not_finite_parameter_is_named_with_its_steps(tmp_path: Path, bad: float) -> None:
    """A Gaussian that is not finite is not drawn: the loss alone would never tell."""
    seen = progress.Progress(
        load_config(tmp_path, {}), rasterise.Views([], [], []), {}, 0, Stop(), 0.0
    )
    values = {n: torch.zeros(1) for n in model.Splats.names}
    splats = SimpleNamespace(count=1, values=lambda: values)
    seen.record(1, torch.tensor([0.1, 0.1]), splats, "a")
    seen.record(2, torch.tensor([0.1, 0.1]), splats, "b")
    values["scales"][0] = bad
    with pytest.raises(TrainerError, match="scales became not finite between step 2 on b and") as e:
        seen.settle(2, splats)
    assert e.value.code == "E_NOT_FINITE"


@pytest.mark.parametrize("points", [300, 2500, 300_000])
def test_growth_suits_few_points_and_many(tmp_path: Path, points: int) -> None:
    """At the defaults few points become many times as many, and none exceed the cap."""
    settings_ = load_config(tmp_path, {})
    most = densify.Strategy.reachable(settings_, points)
    assert min(10 * points, settings_.max_gaussians) <= most <= settings_.max_gaussians


def test_memory_that_runs_out_between_steps_is_given_way_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures and checkpoints take memory too."""
    original, failed = progress.Progress.settle, []

    def settle(self: progress.Progress, step: int, splats: model.Splats) -> None:
        if step == 8 and not failed:
            failed.append(step)
            raise torch.OutOfMemoryError("CUDA out of memory")
        original(self, step, splats)

    monkeypatch.setattr(progress.Progress, "settle", settle)
    base = make_job(tmp_path)
    assert run(base) == 0
    assert failed
    found = metrics(base)
    assert (found["steps"], found["gaussians"]) == (12, found["cap"])


def test_giving_way_first_frees_what_the_failed_step_had_made() -> None:
    """Keeping some needs room beside all: what failed must not hold it."""
    made: list[weakref.ref[torch.Tensor]] = []
    seen: list[object] = []

    def fails() -> None:
        new = torch.zeros(1)
        made.append(weakref.ref(new))
        raise torch.OutOfMemoryError("CUDA out of memory")

    splats = SimpleNamespace(
        count=4,
        values=lambda: {"opacities": torch.tensor([3.0, 1.0, 2.0, 4.0])},
        keep=lambda rows: seen.append((made[0](), rows.tolist())),
    )
    step = SimpleNamespace(splats=splats, release=lambda: seen.append("release"))
    with pytest.raises(torch.OutOfMemoryError) as failure:
        fails()
    assert train.give_way(step, rasterise.Views([], [], []), {}, 3, failure.value) == 3
    assert seen == ["release", (None, [0, 2, 3])]


def test_memory_that_runs_out_again_while_giving_way_is_told_by_name() -> None:
    """So that a choice leaves out this run alone, and keeps those before it."""

    def keep(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    splats = SimpleNamespace(count=1, values=lambda: {"opacities": torch.zeros(1)}, keep=keep)
    step = SimpleNamespace(splats=splats, release=lambda: None)
    none = rasterise.Views([], [], [])
    with pytest.raises(TrainerError, match="with 1 Gaussians, and again as they were to be") as e:
        train.give_way(step, none, {}, 3, torch.OutOfMemoryError("CUDA out of memory"))
    assert e.value.code == "E_OOM"


def test_line_that_is_due_is_not_lost_with_the_step_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told while the next step computes, and that one may fail."""
    original = AutogradStep.step

    def step(self: AutogradStep, view: rasterise.View, photo: torch.Tensor, at: At) -> torch.Tensor:
        if at.step == 5:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return original(self, view, photo, at)

    monkeypatch.setattr(AutogradStep, "step", step)
    assert run(make_job(tmp_path)) != 0
    told = re.findall(r"^step=([0-9]+) ", capsys.readouterr().out, re.MULTILINE)
    assert told == ["1", "4"]


def test_planar_gaussians_change_as_the_others_do() -> None:
    """The compiled step's buffers, grown beyond their room and cut, against PyTorch's optimiser."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3)}
    shapes["shN"] = (8, 3)

    def random(n: int) -> dict[str, torch.Tensor]:
        return {name: torch.randn(n, *shape, generator=draw) for name, shape in shapes.items()}

    values = random(40)
    moments = {
        name: {"step": torch.tensor(2.0), "exp_avg": a, "exp_avg_sq": random(40)[name]}
        for name, a in random(40).items()
    }
    rates = dict.fromkeys(shapes, 0.1)
    both = [model.Splats(values, rates, moments), fused.PlanarSplats(values, moments)]
    for splats in both:
        splats.append(torch.tensor([3, 3, 39]))
        splats.assign(torch.tensor([1, 5]), {"opacities": torch.tensor([9.0, 8.0])})
        splats.append(torch.arange(5))
        splats.copy(torch.tensor([1, 2, 1]), torch.tensor([7, 0, 41]))
        splats.keep(torch.arange(1, 48, 2))
    assert [splats.count for splats in both] == [24, 24]
    plain, planar = both
    for name in shapes:
        assert torch.equal(plain.values()[name], planar.values()[name]), name
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(plain.moments()[name][key], planar.moments()[name][key]), name


def test_evaluation_that_memory_is_short_for_goes_on_on_the_cpu(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a device would raise, at the first of two views of each evaluation."""
    draw, fails = rasterise.render, [True, False, False] * 9

    def render(*given: object) -> torch.Tensor:
        if fails and fails.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(*given)

    monkeypatch.setattr(rasterise, "render", render)
    base = make_job(tmp_path, max_gaussians=320)
    assert run(base) == 0
    assert "warning: memory ran out while evaluating: the CPU goes on" in capsys.readouterr().out
    assert metrics(base)["psnr"] == pytest.approx(metrics(finished)["psnr"], abs=1e-3)


def test_renders_stand_beside_the_photographs(finished: Path) -> None:
    folder = finished / "output/data/renders"
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert names == ["sub dir/v1.png.png", "sub dir/v4.png.png"]
    picture = np.asarray(Image.open(folder / names[0]))
    photo = np.asarray(Image.open(finished / "input/data/training/images/sub dir/v1.png"))
    assert picture.shape == (48, 128, 3)
    assert np.array_equal(picture[:, :64], photo)
    error = np.mean((picture[:, 64:] / 255 - photo / 255) ** 2)
    assert loss.psnr(error) == pytest.approx(metrics(finished)["views"][0]["psnr"], abs=0.1)


def test_metrics_tell_memory_time_and_curve(finished: Path) -> None:
    found = metrics(finished)
    assert found["peak_rss_bytes"] > 1e8
    assert found["memory_needed_bytes"] > 1e8
    assert set(found["seconds"]) >= {"load", "import", "photos", "train", "export", "evaluate"}
    steps = [point["step"] for point in found["curve"] if "loss" in point]
    assert steps == [1, 4, 8, 12]
    assert [p["step"] for p in found["curve"] if "held_out_psnr" in p] == [6, 12]


@pytest.mark.parametrize(
    ("name", "grows", "power"),
    [("max_image_size", ("photographs", "drawing"), 2), ("max_gaussians", ("Gaussians",), 1)],
)
def test_parameter_that_a_refusal_names_fits(name: str, grows: tuple[str], power: int) -> None:
    """And hardly more than that does: what was asked for is not given up for nothing."""
    settings_, have = Config(max_gaussians=9000), 12 * 10**9
    needs = {n: 9e9 if n in grows else 2e9 for n in ("photographs", "drawing", "Gaussians")}
    with pytest.raises(TrainerError, match=f"{name}=[0-9]+ would fit") as e:
        budget.Budget("host", needs, have, "limit").require(settings_)
    way_out = int(re.search(f"{name}=([0-9]+)", str(e.value))[1])
    for given, fits in ((way_out, True), (way_out * 1.01, False)):
        share = (given / getattr(settings_, name)) ** power
        less = {n: v * share if n in grows else v for n, v in needs.items()}
        assert budget.Budget("host", less, have, "limit").fits == fits


def test_neighbour_distance_is_near_the_exact_one() -> None:
    points = np.random.default_rng(1).normal(size=(2000, 3))
    exact = np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), 1)[:, 1:4].mean(1)
    got = model.neighbour_distance(points, np.random.default_rng(2))
    assert np.median(got / exact) < 1.15
    assert (got > 0.99 * exact).mean() > 0.999


def test_duplicates_and_outliers_do_not_spoil_distances() -> None:
    points = np.random.default_rng(1).normal(size=(500, 3))
    points[:50] = points[0]
    points[60] = 1e7
    got = model.neighbour_distance(points, np.random.default_rng(2))
    assert np.isfinite(got).all()
    assert (got > 0).all()
    assert got.max() < 40 * np.median(got)


def test_division_keeps_what_is_drawn(tmp_path: Path) -> None:
    """Two halves of a Gaussian laid over each other draw nearly what it drew alone."""
    settings_ = load_config(tmp_path, {})
    values = {
        "means": torch.zeros(1, 3),
        "quats": torch.tensor([[1.0, 0, 0, 0]]),
        "scales": torch.zeros(1, 3),
        "opacities": torch.tensor([2.0]),
        "sh0": torch.zeros(1, 1, 3),
        "shN": torch.zeros(1, 15, 3),
    }
    splats = model.Splats(values, model.learning_rates(settings_, 1.0))
    strategy = densify.Strategy(settings_, torch.device("cpu"), 10)
    before = float(torch.tensor(2.0).sigmoid())
    strategy._divide(splats, torch.tensor([0]))
    after = float(splats.values()["opacities"].sigmoid()[0])
    assert 1 - (1 - after) ** 2 == pytest.approx(before, abs=1e-5)
    # Closed form for two parts: o / (2 p - p^2 / sqrt 2), equation 9 of the paper.
    shrink = before / (2 * after - after**2 / math.sqrt(2))
    assert float(splats.values()["scales"][0, 0].exp()) == pytest.approx(shrink, rel=1e-5)


def test_ply_round_trip(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    values = {
        n: torch.randn(7, *shape, generator=g)
        for n, shape in {
            "means": (3,),
            "quats": (4,),
            "scales": (3,),
            "opacities": (),
            "sh0": (1, 3),
            "shN": (8, 3),
        }.items()
    }
    export.write_ply(tmp_path / "a.ply", values)
    back = export.read_ply(tmp_path / "a.ply")
    values["quats"] = values["quats"] / values["quats"].norm(dim=1, keepdim=True)
    for name, value in values.items():
        assert torch.allclose(back[name], value, atol=1e-7), name


def test_ply_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    values = {
        "means": torch.zeros(1, 3),
        "quats": torch.ones(1, 4),
        "scales": torch.zeros(1, 3),
        "opacities": torch.tensor([math.inf]),
        "sh0": torch.zeros(1, 1, 3),
        "shN": torch.zeros(1, 0, 3),
    }
    with pytest.raises(TrainerError, match="opacity"):
        export.write_ply(tmp_path / "a.ply", values)
    assert not (tmp_path / "a.ply").exists()


def test_ssim_of_an_image_with_itself_is_one() -> None:
    image = torch.rand(20, 31, 3)
    assert float(loss.ssim(image, image)) == pytest.approx(1, abs=1e-4)
    assert float(loss.ssim(image, 1 - image)) < 0.1
