"""Measuring splats on a planted scene, whose photographs are renders of known splats."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from splatgate.evidence import BadInput
from splatgate.scene.cli import main_scene, main_splats
from splatgate.scene.colmap import View, load_scene, rotations
from splatgate.scene.photos import load_photo, psnr, ssim
from splatgate.scene.render import render
from splatgate.scene.splats import SH_C0, Splats, write_splats
from splatgate.scene.truth import (
    fit,
    held_out,
    judge_splats,
    measure,
    moved,
    nearest_view,
    points_as_splats,
)
from tests.unit.test_scene import FOCAL, HEIGHT, WIDTH, camera_pose, plant

VIEWS = 10


def true_splats():
    draw = np.random.default_rng(3)
    colours = draw.integers(0, 256, (400, 3))
    return Splats(
        means=draw.uniform(-1.6, 1.6, (400, 3)).astype(np.float32),
        quats=draw.normal(size=(400, 4)).astype(np.float32),
        scales=draw.normal(-1.8, 0.4, (400, 3)).astype(np.float32),
        opacities=draw.normal(1.5, 2, 400).astype(np.float32),
        sh0=((colours / 255 - 0.5) / SH_C0).astype(np.float32)[:, None, :],
        shN=draw.normal(0, 0.05, (400, 3, 3)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The folder of a scene and the splats that its photographs are renders of."""
    splats = true_splats()
    matrix = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    photographs = {}
    for number in range(VIEWS):
        pose = camera_pose(number, VIEWS)
        turn = rotations(pose[None, :4])[0]
        view = View("", WIDTH, HEIGHT, matrix, turn, pose[4:])
        pixels = (render(splats, view).clip(0, 1) * 255).round().astype(np.uint8)
        photographs[f"view_{number}.png"] = pixels
    colours = (255 * (0.5 + SH_C0 * splats.sh0[:, 0])).round().astype(int)
    return plant(tmp_path_factory.mktemp("planted"), splats.means, colours, photographs), splats


@pytest.fixture
def scene(planted):
    return load_scene(planted[0])


def test_held_out_is_every_eighth_by_bytes():
    names = ["b.jpg", "B.jpg", "a.jpg", "é.jpg", *(f"c{i}.jpg" for i in range(8))]
    assert held_out(names) == ("B.jpg", "c5.jpg")
    assert held_out(names, every=4) == ("B.jpg", "c1.jpg", "c5.jpg")


def test_true_splats_measure_as_true(planted, scene):
    """Only the photographs' eight bits stand between render and truth."""
    said = []
    verdict = measure(planted[1], scene, say=said.append)
    assert [view.name for view in verdict.views] == ["view_0.png", "view_8.png"]
    assert verdict.psnr > 50
    assert verdict.ssim > 0.999
    assert verdict.margin > 25
    assert verdict.logits_ok
    assert len(said) == 3


def test_views_are_measured_at_the_size_asked(planted, scene):
    (view,) = measure(planted[1], scene, [("view_3.png", WIDTH // 2, HEIGHT // 2)]).views
    assert (view.name, view.width, view.height) == ("view_3.png", WIDTH // 2, HEIGHT // 2)
    assert view.psnr > 22, "intrinsics must follow the size"


def test_background_shows_through(planted, scene):
    white = measure(planted[1], scene, background=(1, 1, 1))
    assert white.psnr < measure(planted[1], scene).psnr - 10


@pytest.mark.parametrize(
    ("field", "activate"),
    [("opacities", lambda v: 1 / (1 + np.exp(-v))), ("scales", np.exp)],
    ids=["opacity", "scale"],
)
def test_activated_values_are_found_and_cost_quality(planted, scene, field, activate):
    wrong = dataclasses.replace(planted[1], **{field: activate(getattr(planted[1], field))})
    verdict = measure(wrong, scene)
    assert not verdict.logits_ok
    assert verdict.psnr < 30


def test_the_initialisation_has_not_moved(scene):
    start = points_as_splats(scene)
    assert moved(start, scene) == 0
    dressed = dataclasses.replace(start, opacities=start.opacities - 7, scales=start.scales - 1)
    assert moved(dressed, scene) == 0
    back_and_forth = ((start.means - 3.3) / 7).astype(np.float32) * np.float32(7) + np.float32(3.3)
    assert moved(dataclasses.replace(start, means=back_and_forth), scene) == 0


def test_a_step_of_the_optimiser_moves(scene):
    start = points_as_splats(scene)
    step = np.float32(1.6e-4 * 3)
    assert moved(dataclasses.replace(start, means=start.means + step), scene) == 1
    assert moved(dataclasses.replace(start, sh0=start.sh0 + np.float32(0.1)), scene) == 1
    half = np.where(np.arange(400)[:, None] % 2, start.means + step, start.means)
    assert moved(dataclasses.replace(start, means=half), scene) == pytest.approx(0.5)


def test_baselines_are_those_of_the_training_views(planted, scene):
    """The nearest photograph of view 0 is view 1, and no held-out view counts as training."""
    verdict = measure(planted[1], scene, [("view_0.png", WIDTH, HEIGHT)])
    photos = [load_photo(view) for view in scene.views]
    mean = np.mean([photo.mean(axis=(0, 1)) for photo in photos[1:]], axis=0)
    flat = np.broadcast_to(mean, photos[0].shape)
    assert verdict.baselines.mean_colour == pytest.approx(psnr(flat, photos[0]), abs=1e-4)
    assert verdict.baselines.nearest_photo == pytest.approx(psnr(photos[1], photos[0]))
    assert (
        nearest_view(scene.views[8], [scene.views[0], scene.views[7]], scene).name == "view_7.png"
    )


def test_all_views_held_out_leave_no_training(scene, planted):
    with pytest.raises(BadInput, match="0 to train on"):
        measure(planted[1], scene, [(view.name, 20, 20) for view in scene.views])


def test_an_unknown_view_is_bad_input(scene, planted):
    with pytest.raises(BadInput, match="no image 'x'"):
        measure(planted[1], scene, [("x", 20, 20)])


def test_distorted_photographs_are_not_compared(scene, planted):
    """A trainer undistorts them first; against the raw ones its splats would look wrong."""
    camera = dataclasses.replace(scene.cameras[0], model="SIMPLE_RADIAL", params=(50, 24, 16, 0.1))
    with pytest.raises(BadInput, match="undistorted scene"):
        measure(planted[1], dataclasses.replace(scene, cameras=(camera,)))


def test_metrics_have_known_values():
    flat = np.zeros((32, 40, 3))
    assert psnr(flat + 0.1, flat) == pytest.approx(20)
    assert psnr(flat + 1.5, flat) == pytest.approx(0)
    assert psnr(flat, flat) == 100
    assert ssim(flat, flat) == pytest.approx(1)
    # Of constant images only the luminance term is left.
    assert ssim(flat + 0.2, flat + 0.6) == pytest.approx((0.24 + 1e-4) / (0.04 + 0.36 + 1e-4))
    noise = np.random.default_rng(0).uniform(0, 1, (32, 40, 3))
    assert ssim(noise, 1 - noise) < 0
    with pytest.raises(BadInput, match="11 a side"):
        ssim(flat[:10], flat[:10])


@pytest.mark.parametrize(
    ("longest", "size"), [(None, (776, 435)), (200, (200, 112)), (9999, (776, 435))]
)
def test_fit_keeps_the_proportion(longest, size):
    assert fit(776, 435, longest) == size


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_photographs_stand_as_the_camera_saw_them(tmp_path, orientation):
    """COLMAP solves on pixels as stored; the tag counts only where the stored shape is wrong."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)
    size = (30, 20) if orientation == 6 else (20, 30)
    view = View("a.png", *size, np.eye(3), np.eye(3), np.zeros(3), path)
    expected = np.rot90(pixels, -1) if orientation == 6 else pixels
    np.testing.assert_array_equal(load_photo(view), expected.astype(np.float32) / np.float32(255))


def test_scene_verb_prints_one_object(planted, capsys):
    assert main_scene([str(planted[0]), "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["schema"] == "splatgate/scene/1"
    assert verdict["ok"]
    assert (verdict["images"], verdict["points"], verdict["tracks"]) == (VIEWS, 400, 400)


def test_splats_verb_prints_one_object(planted, tmp_path, capsys):
    path = tmp_path / "a.ply"
    write_splats(path, planted[1])
    assert (
        main_splats([str(path), "--scene", str(planted[0]), "--max-image-size", "24", "--json"])
        == 0
    )
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["schema"] == "splatgate/splats/1"
    assert verdict["count"] == 400
    assert {"mean_colour", "nearest_photo", "sfm_points"} == set(verdict["baselines"])
    assert verdict["views"][0]["width"] == 24


def test_verbs_exit_by_what_they_found(planted, scene, tmp_path, capsys):
    """1: judged unsound. 3: nothing to judge. Prose goes to standard error."""
    start, cut = tmp_path / "start.ply", tmp_path / "cut.ply"
    write_splats(start, points_as_splats(scene))
    cut.write_bytes(start.read_bytes()[:-1])
    folder = ["--scene", str(planted[0])]
    (tmp_path / "empty").mkdir()
    assert main_scene([str(tmp_path / "empty")]) == 1
    assert main_scene([str(tmp_path / "none")]) == 3
    assert main_scene([]) == 3
    assert main_scene(["--help"]) == 0
    capsys.readouterr()
    assert main_splats([str(cut), *folder]) == 1
    assert main_splats([str(start), *folder]) in (0, 1)
    assert main_splats([str(tmp_path / "none.ply"), *folder]) == 3
    assert main_splats([str(start), "--scene", str(tmp_path)]) == 3
    assert main_splats([str(start), *folder, "--max-image-size", "5"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "cut short" in err
    assert "0% of them moved" in err


def test_a_broken_layout_is_judged_without_rendering(planted, scene, tmp_path):
    path = tmp_path / "a.ply"
    path.write_bytes(b"ply\n")
    verdict = judge_splats(path, scene)
    assert not verdict.layout_ok
    assert verdict.psnr is None
