"""From a COLMAP scene to the artefact, on a scene small enough for a unit test."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from plyfile import PlyData
from trainer import channel, densify, export, loss, main, model, train
from trainer.config import load as load_config
from trainer.errors import TrainerError
from trainer.photos import load_photos
from trainer.scene import read_scene

VIEWS, SIZE = 6, (64, 48)


def make_scene(root: Path, camera_model: str = "PINHOLE", text: bool = False) -> Path:
    """A textured plane seen by six cameras in a row, written by pycolmap; returns ``root``."""
    draw = np.random.default_rng(0)
    rec = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, camera_model, 50.0, *SIZE)
    rec.add_camera_with_trivial_rig(camera)
    points = np.c_[draw.uniform(-2, 2, (300, 2)), draw.uniform(3.9, 4.1, 300)]
    colors = (127 + 120 * np.sin(points * 3)).clip(0, 255).astype(np.uint8)
    seen: dict[int, list[tuple[int, int]]] = {k: [] for k in range(300)}
    (root / "images").mkdir(parents=True, exist_ok=True)
    for i in range(1, VIEWS + 1):
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), [-0.1 * i, 0.0, 0.0])
        local = points + np.array([-0.1 * i, 0, 0])
        pixels = np.stack([camera.img_from_cam(p) for p in local])
        inside = [k for k, p in enumerate(pixels) if (p >= 0).all() and (p < SIZE).all()]
        image = pycolmap.Image(
            name=f"sub dir/v{i}.png",
            camera_id=1,
            image_id=i,
            points2D=[pycolmap.Point2D(pixels[k]) for k in inside],
        )
        rec.add_image_with_trivial_frame(image, pose)
        for place, k in enumerate(inside):
            seen[k].append((i, place))
        canvas = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        for k in inside:
            x, y = pixels[k].astype(int)
            canvas[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = colors[k]
        path = root / "images" / image.name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(canvas).save(path)
    for k, track in seen.items():
        if len(track) > 1:
            rec.add_point3D(
                points[k],
                pycolmap.Track([pycolmap.TrackElement(i, p) for i, p in track]),
                colors[k],
            )
    folder = root / "sparse/0"
    folder.mkdir(parents=True)
    rec.write_text(str(folder)) if text else rec.write_binary(str(folder))
    return root


def make_job(base: Path, **parameters: object) -> Path:
    """A job's base folder with the small scene in its channel."""
    make_scene(base / "input/data/training")
    return configure(base, **parameters)


def configure(base: Path, **parameters: object) -> Path:
    """Write hyperparameters that suit the small scene."""
    values = {
        "device": "cpu",
        "max_iterations": 12,
        "log_every": 4,
        "eval_every": 6,
        "checkpoint_every": 5,
        "refine_start": 2,
        "refine_every": 3,
        "sh_every": 2,
        "init_scale": 1,
        "hold_out": 3,
        **parameters,
    }
    path = base / "input/config/hyperparameters.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({n: str(v) for n, v in values.items()}))
    return base


def run(base: Path) -> int:
    """Run one job in this process."""
    return main.main(["train"], {"SAGEMAKER_BASE_DIR": str(base)})


def metrics(base: Path) -> dict[str, object]:
    """The job's ``metrics.json``."""
    found: dict[str, object] = json.loads((base / "model/metrics.json").read_text())
    return found


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


def test_resumed_run_ends_like_an_uninterrupted_one(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = make_job(tmp_path, max_gaussians=320)
    original = train.Progress.record

    def die(self: train.Progress, step: int, *rest: object) -> None:
        original(self, step, *rest)
        if step == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.Progress, "record", die)
    assert run(base) == 1
    assert not (base / "model").exists()
    monkeypatch.undo()
    assert run(base) == 0
    assert "phase=resume step=5" in capsys.readouterr().out
    assert metrics(base)["psnr"] == pytest.approx(metrics(finished)["psnr"], abs=1e-3)


@pytest.mark.parametrize("damage", ["foreign", "truncated"])
def test_useless_checkpoint_is_ignored_with_a_line(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_job(tmp_path, max_iterations=6, eval_every=0)
    assert run(base) == 0
    path = base / "checkpoints/checkpoint.pt"
    if damage == "foreign":
        configure(base, max_iterations=6, eval_every=0, seed=5)
    else:
        path.write_bytes(path.read_bytes()[:500])
    assert run(base) == 0
    assert f"warning: ignored {path}" in capsys.readouterr().out


def test_stop_at_a_step_leaves_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_job(tmp_path, max_iterations=100000)
    original = train.Progress.record

    def ask(self: train.Progress, step: int, *rest: object) -> None:
        original(self, step, *rest)
        if step == 3:
            import signal

            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train.Progress, "record", ask)
    assert run(base) == 0
    assert (metrics(base)["status"], metrics(base)["steps"]) == ("stopped", 3)


def test_max_minutes_ends_with_a_model(tmp_path: Path) -> None:
    base = make_job(tmp_path, max_iterations=1000000, max_minutes=0.05)
    assert run(base) == 0
    assert metrics(base)["ended_by"] == "max_minutes"


def test_loss_that_is_not_finite_fails_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_job(tmp_path)
    monkeypatch.setattr(loss, "photometric", lambda image, *_: image.sum() * math.nan)
    assert run(base) == 1
    assert (base / "output/failure").read_text().startswith("E_NOT_FINITE: the loss became nan at")
    assert not (base / "model").exists()


@pytest.mark.parametrize(
    "camera_model", ["SIMPLE_PINHOLE", "SIMPLE_RADIAL", "OPENCV", "OPENCV_FISHEYE"]
)
@pytest.mark.parametrize("text", [False, True], ids=["bin", "txt"])
def test_camera_models_and_formats_load(tmp_path: Path, camera_model: str, text: bool) -> None:
    make_scene(tmp_path, camera_model, text)
    with channel.open_channel(tmp_path) as layout:
        scene = read_scene(layout)
        photos = load_photos(scene, 48, lambda: None)
    assert [p.name for p in photos] == [f"sub dir/v{i}.png" for i in range(1, VIEWS + 1)]
    assert max(photos[0].width, photos[0].height) == 48
    assert photos[0].undistorted == (camera_model != "SIMPLE_PINHOLE")


def edit(change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    """An edit of the first photograph."""

    def apply(path: Path) -> None:
        change(Image.open(path)).save(path)

    return apply


@pytest.mark.parametrize(
    "change",
    [
        edit(lambda im: im.convert("L")),
        edit(lambda im: im.convert("RGBA")),
        edit(lambda im: im.resize((128, 96))),
        edit(lambda im: im.resize((32, 24))),
        lambda path: path.rename(path.with_suffix(".PNG")),
    ],
    ids=["grey", "alpha", "larger", "smaller", "case"],
)
def test_legal_photographs_load(tmp_path: Path, change: Callable[[Path], None]) -> None:
    make_scene(tmp_path)
    change(tmp_path / "images/sub dir/v1.png")
    with channel.open_channel(tmp_path) as layout:
        photo = load_photos(read_scene(layout), 1600, lambda: None)[0]
    assert photo.fx / photo.width == pytest.approx(50 / 64)
    assert photo.cy / photo.height == pytest.approx(0.5)


def test_exif_is_followed_only_where_the_camera_has_the_turned_shape(tmp_path: Path) -> None:
    make_scene(tmp_path)
    path = tmp_path / "images/sub dir/v1.png"
    upright = np.asarray(Image.open(path))
    exif = Image.Exif()
    exif[0x0112] = 8  # shown turned by 90 degrees counter-clockwise
    stored = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_270)
    for image in (Image.fromarray(upright), stored):
        image.save(path, exif=exif)
        photo = load_photos(read_scene(channel.find_layout(tmp_path)), 1600, lambda: None)[0]
        assert np.array_equal(photo.pixels, upright)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b"x"), "v1.png"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "v1.png"),
        (edit(lambda im: im.resize((64, 64))), "64x64.*64x48"),
        (edit(lambda im: im.transpose(Image.Transpose.ROTATE_90)), "48x64.*64x48"),
    ],
    ids=["missing", "damaged", "truncated", "square", "turned"],
)
def test_unusable_photographs_are_refused_by_name(
    tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    make_scene(tmp_path)
    change(tmp_path / "images/sub dir/v1.png")
    with channel.open_channel(tmp_path) as layout, pytest.raises(TrainerError, match=reason) as e:
        load_photos(read_scene(layout), 1600, lambda: None)
    assert e.value.code == "E_SCENE_IMAGES"


@pytest.fixture(scope="module")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small scene that tests copy damage into."""
    return make_scene(tmp_path_factory.mktemp("scene"))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(["cameras", "images", "points3D"]), st.data())
def test_damaged_model_is_refused_or_harmless(
    scene_folder: Path, name: str, data: st.DataObject
) -> None:
    path = scene_folder / f"sparse/0/{name}.bin"
    whole = path.read_bytes()
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place in data.draw(st.lists(st.integers(0, max(0, len(broken) - 1)), max_size=3)):
        if broken:
            broken[place] ^= data.draw(st.integers(1, 255))
    code = "E_SCENE_"
    try:
        path.write_bytes(bytes(broken))
        read_scene(channel.find_layout(scene_folder))
    except TrainerError as error:
        code = error.code
    finally:
        path.write_bytes(whole)
    assert code.startswith("E_SCENE_")


def test_scene_without_points_is_refused_with_the_number(tmp_path: Path) -> None:
    make_scene(tmp_path)
    (tmp_path / "sparse/0/points3D.bin").write_bytes(struct.pack("<Q", 0))
    with pytest.raises(TrainerError, match=r"0 finite points|cannot read"):
        read_scene(channel.find_layout(tmp_path))


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
