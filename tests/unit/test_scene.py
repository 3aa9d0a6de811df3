"""Reading and judging scenes: what is unsound is named by its code, what is legal passes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from splatgate.evidence import BadInput
from splatgate.scene.colmap import load_scene
from splatgate.scene.judge import judge_scene

SCENES = Path(__file__).parents[1] / "scenes"
#: A camera that looks at the origin from four units away, turned about y.
VIEWS, WIDTH, HEIGHT, FOCAL = 5, 48, 32, 50.0


def camera_pose(index, count=VIEWS):
    """Quaternion and translation of view ``index`` on a quarter circle."""
    angle = (index / count - 0.5) * 1.2
    return np.array([np.cos(angle / 2), 0, np.sin(angle / 2), 0, 0, 0, 4.0])


def plant(folder, points, colours, photographs):
    """Write a text scene: ``photographs`` {name: [h,w,3] uint8}, ``points`` [n,3] seen by all."""
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (folder / "images").mkdir()
    matrix = f"{FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}"
    (sparse / "cameras.txt").write_text(f"# cameras\n1 PINHOLE {WIDTH} {HEIGHT} {matrix}\n")
    lines, tracks = [], [[] for _ in points]
    for number, (name, pixels) in enumerate(photographs.items()):
        Image.fromarray(pixels).save(folder / "images" / name)
        pose = camera_pose(number, len(photographs))
        w, y = pose[0], pose[2]
        c, s = w * w - y * y, 2 * w * y
        seen = points @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + pose[4:]
        xy = FOCAL * seen[:, :2] / seen[:, 2:] + [WIDTH / 2, HEIGHT / 2]
        lines.append(f"{number + 1} {' '.join(map(str, pose))} 1 {name}")
        lines.append(" ".join(f"{x} {y} {i + 1}" for i, (x, y) in enumerate(xy)))
        for i, track in enumerate(tracks):
            track.append(f"{number + 1} {i}")
    (sparse / "images.txt").write_text("\n".join(["# images", *lines, ""]))
    rows = [
        f"{i + 1} {' '.join(map(str, xyz))} {' '.join(map(str, rgb))} 0.5 {' '.join(track)}\n"
        for i, (xyz, rgb, track) in enumerate(zip(points, colours, tracks, strict=True))
    ]
    (sparse / "points3D.txt").write_text("".join(rows))
    return folder


@pytest.fixture
def scene(tmp_path):
    draw = np.random.default_rng(0)
    photographs = {
        f"IMG_{i}.jpg": draw.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for i in range(VIEWS)
    }
    points, colours = draw.normal(0, 0.5, (30, 3)), draw.integers(0, 256, (30, 3))
    return plant(tmp_path / "scene", points, colours, photographs)


def edit(path, change):
    path.write_text(change(path.read_text()))


def change_pose(scene, position, word):
    def change(text):
        lines = text.splitlines()
        words = lines[1].split()
        words[position] = word
        return "\n".join([lines[0], " ".join(words), *lines[2:], ""])

    edit(scene / "sparse/0/images.txt", change)


@pytest.mark.parametrize("name", ["brighton_beach", "banana"])
def test_real_scenes_read_as_pycolmap_reads_them(name):
    ours, theirs = (
        load_scene(SCENES / name),
        pycolmap.Reconstruction(SCENES / name / "sparse" / "0"),
    )
    assert len(ours.points_xyz) == len(theirs.points3D)
    for ident, xyz, rgb, length in zip(
        ours.point_ids, ours.points_xyz, ours.points_rgb, ours.track_lengths, strict=True
    ):
        point = theirs.points3D[ident]
        np.testing.assert_array_equal(xyz, point.xyz)
        np.testing.assert_array_equal(rgb, point.color)
        assert length == point.track.length()
    by_name = {image.name: image for image in theirs.images.values()}
    assert [view.name for view in ours.views] == sorted(by_name)
    for view in ours.views:
        image = by_name[view.name]
        pose = image.cam_from_world().matrix()
        np.testing.assert_allclose(np.c_[view.R, view.t], pose, atol=1e-12)
        np.testing.assert_array_equal(view.K, image.camera.calibration_matrix())
        assert len(view.point_ids) == image.num_points3D


@pytest.mark.parametrize("kind", ["txt", "bin"])
@pytest.mark.parametrize("model", list(pycolmap.CameraModelId.__members__)[1:])
def test_every_camera_model_reads_as_pycolmap_reads_it(tmp_path, scene, model, kind):
    reconstruction = pycolmap.Reconstruction(scene / "sparse/0")
    camera = reconstruction.cameras[1]
    camera.model = pycolmap.CameraModelId.__members__[model]
    other = pycolmap.Camera.create_from_model_name(1, model, 50, WIDTH, HEIGHT)
    camera.params = other.params
    shutil.rmtree(scene / "sparse/0")
    (scene / "sparse/0").mkdir()
    (reconstruction.write_text if kind == "txt" else reconstruction.write_binary)(
        scene / "sparse/0"
    )
    (ours,) = load_scene(scene).cameras
    assert (ours.model, ours.width, ours.height) == (model, WIDTH, HEIGHT)
    np.testing.assert_array_equal(ours.params, other.params)
    if model != "EQUIRECTANGULAR":
        np.testing.assert_array_equal(ours.K, other.calibration_matrix())


@pytest.mark.parametrize("name", ["brighton_beach", "banana"])
def test_real_scenes_are_sound(name):
    verdict = judge_scene(SCENES / name)
    assert verdict.ok, verdict.reason
    assert not verdict.notes
    assert verdict.tracks == verdict.points


def test_a_sound_scene_is_counted(scene):
    verdict = judge_scene(scene)
    assert verdict.ok, verdict.reason
    assert (verdict.images, verdict.points, verdict.tracks, verdict.observations) == (
        5,
        30,
        30,
        150,
    )
    assert verdict.cameras[0].images == 5


def flat(scene):
    for path in (scene / "sparse/0").iterdir():
        path.rename(scene / "sparse" / path.name)
    (scene / "sparse/0").rmdir()


def no_comments(scene):
    for path in (scene / "sparse/0").iterdir():
        edit(path, lambda text: "".join(x for x in text.splitlines(True) if x[0] != "#"))


def extra_files(scene):
    (scene / "sfm_metadata.json").write_text("{}")
    (scene / "sparse/0/rigs.bin").write_bytes(b"")
    (scene / "sparse/1").mkdir()
    (scene / "images/extra.txt").write_text("")


def windows_lines(scene):
    for path in (scene / "sparse/0").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def spaces_and_folders(scene):
    (scene / "images/cam 1").mkdir()
    (scene / "images/IMG_0.jpg").rename(scene / "images/cam 1/IMG 0.JPG")
    edit(scene / "sparse/0/images.txt", lambda text: text.replace("IMG_0.jpg", "cam 1/IMG 0.JPG"))


def unmatched_keypoints(scene):
    edit(scene / "sparse/0/images.txt", lambda text: text.replace(" 3 ", " -1 "))


def turned_by_exif(scene):
    path = scene / "images/IMG_0.jpg"
    image = Image.open(path).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def long_quaternion(scene):
    change_pose(scene, 1, str(camera_pose(0)[0] * 1.000001))


LEGAL = [flat, no_comments, extra_files, windows_lines, spaces_and_folders, unmatched_keypoints]


@pytest.mark.parametrize("change", [*LEGAL, turned_by_exif, long_quaternion])
def test_what_is_legal_passes(scene, change):
    change(scene)
    verdict = judge_scene(scene)
    assert verdict.ok, verdict.reason


def test_a_quarter_million_points_pass_in_seconds(scene):
    text = "".join(f"{i} {i % 97} {i % 89} {i % 83} 9 9 9 0 1 0 2 0\n" for i in range(31, 230_000))
    edit(scene / "sparse/0/points3D.txt", lambda old: old + text)
    assert judge_scene(scene).ok


def test_reduced_photographs_are_a_note(scene):
    for path in (scene / "images").iterdir():
        Image.open(path).resize((WIDTH // 2, HEIGHT // 2)).save(path)
    verdict = judge_scene(scene)
    assert verdict.ok
    assert [note.code for note in verdict.notes] == ["resized-photos"]


def test_distortion_is_a_note(scene):
    camera = f"1 SIMPLE_RADIAL {WIDTH} {HEIGHT} 50 24 16 0.1\n"
    (scene / "sparse/0/cameras.txt").write_text(camera)
    verdict = judge_scene(scene)
    assert verdict.ok
    assert [note.code for note in verdict.notes] == ["distorted-camera"]


def _remove(*names):
    def change(scene):
        for name in names:
            path = scene / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _write(name, text):
    return lambda scene: (scene / name).write_text(text)


def _replace(name, old, new):
    return lambda scene: edit(scene / name, lambda text: text.replace(old, new))


def moved_model(scene):
    (scene / "sparse").rename(scene / "colmap")


def double_extension(scene):
    for path in list((scene / "images").iterdir()):
        path.rename(path.with_name(path.name + ".jpg"))


def other_case(scene):
    for path in list((scene / "images").iterdir()):
        path.rename(path.with_suffix(".JPG"))


def cut_photograph(scene):
    path = scene / "images/IMG_2.jpg"
    path.write_bytes(path.read_bytes()[:-400])


def turned_photograph(scene):
    path = scene / "images/IMG_2.jpg"
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)


def camera_to_world(scene):
    def change(text):
        lines = text.splitlines()
        for i in range(1, len(lines), 2):
            words = lines[i].split()
            words[3], words[5:8] = str(-float(words[3])), ["2", "0", "-4"]
            lines[i] = " ".join(words)
        return "\n".join([*lines, ""])

    edit(scene / "sparse/0/images.txt", change)


def one_place(scene):
    def change(text):
        lines = text.splitlines()
        for i in range(1, len(lines), 2):
            words = lines[i].split()
            lines[i] = " ".join([words[0], *["1", "0", "0", "0", "0", "0", "4"], *words[8:]])
        return "\n".join([*lines, ""])

    edit(scene / "sparse/0/images.txt", change)


def no_rotation(scene):
    change_pose(scene, 1, "0")
    change_pose(scene, 3, "0")


def first_keypoints_lost(scene):
    lines = (scene / IMAGES).read_text().splitlines(keepends=True)
    (scene / IMAGES).write_text("".join([*lines[:2], *lines[3:]]))


def no_sightings(scene):
    edit(
        scene / "sparse/0/images.txt",
        lambda text: "".join(x if ".jpg" in x else "\n" for x in text.splitlines(True)[1:]),
    )
    edit(
        scene / "sparse/0/points3D.txt",
        lambda text: "".join(" ".join(x.split()[:8]) + "\n" for x in text.splitlines()),
    )


def first_lines(name, count):
    return lambda scene: edit(
        scene / name, lambda text: "".join(text.splitlines(keepends=True)[:count])
    )


IMAGES, CAMERAS, POINTS = (f"sparse/0/{part}.txt" for part in ("images", "cameras", "points3D"))
UNSOUND = {
    "empty": ("missing-model", "found nothing", _remove("sparse", "images")),
    "part-lost": ("missing-model", "found only sparse/0/cameras.txt", _remove(POINTS)),
    "elsewhere": ("missing-model", "found only colmap/0/cameras.txt", moved_model),
    "words": (
        "broken-model",
        "line 2 holds the word",
        lambda scene: change_pose(scene, 3, "x"),
    ),
    "model": ("broken-model", "line 2 is no camera", _replace(CAMERAS, "PINHOLE", "PINHOLE2")),
    "camera-id": ("broken-model", "names camera 7", lambda scene: change_pose(scene, 8, "7")),
    "two-images": ("too-few-images", "2 registered", first_lines(IMAGES, 5)),
    "twice": ("bad-names", "IMG_0.jpg", _replace(IMAGES, "IMG_1", "IMG_0")),
    "escaping": ("bad-names", "../IMG_0.jpg", _replace(IMAGES, "IMG_0", "../IMG_0")),
    "no-images": ("missing-images-folder", "found sparse", _remove("images")),
    "one-missing": ("missing-photos", "1 of 5", _remove("images/IMG_3.jpg")),
    "double": ("missing-photos", "twice (IMG_0.jpg.jpg)", double_extension),
    "model-double": ("missing-photos", "model has", _replace(IMAGES, ".jpg", ".jpg.jpg")),
    "no-focal": ("bad-camera", "focal", _replace(CAMERAS, "50.0", "0")),
    "nan-focal": ("bad-camera", "focal", _replace(CAMERAS, "50.0", "nan")),
    "sphere": ("bad-camera", "focal", _write(CAMERAS, "1 EQUIRECTANGULAR 48 32 48 32\n")),
    "nan-pose": ("bad-pose", "IMG_0.jpg", lambda scene: change_pose(scene, 6, "nan")),
    "no-rotation": ("bad-pose", "IMG_0.jpg", no_rotation),
    "one-place": ("bad-pose", "one place", one_place),
    "inverted": ("poses-disagree", "world-to-camera", camera_to_world),
    "no-points": ("no-points", "0 3-D points", _write(POINTS, "")),
    "nan-points": (
        "bad-points",
        "2 of 32",
        _replace(POINTS, "\n2 ", "\n2 nan 0 0 9 9 9 0 1 1\n98 nan 0 0 9 9 9 0 1 1\n99 "),
    ),
    "comma": ("broken-model", "decimal comma", _replace(CAMERAS, "50.0", "50,0")),
    "cut-photo": ("unreadable-photo", "IMG_2.jpg", cut_photograph),
    "no-photo": ("unreadable-photo", "IMG_1.jpg", _write("images/IMG_1.jpg", "x")),
    "turned": ("photo-size", "IMG_2.jpg is 32x48, its camera 48x32", turned_photograph),
}


NOTED = {
    "lost-line": ("blind-images", "IMG_0.jpg", first_keypoints_lost),
    "case": ("other-case", "letter case", other_case),
    "no-sightings": ("no-observations", "nothing ties points", no_sightings),
    "other-points": ("tracks-disagree", "points3D lacks", first_lines(POINTS, 20)),
    "nan-point": (
        "bad-points",
        "1 points have",
        _replace(POINTS, "\n2 ", "\n2 -nan(ind) 0 0 9 9 9 0 1 1\n99 "),
    ),
}


@pytest.mark.parametrize(("code", "said", "change"), NOTED.values(), ids=NOTED.keys())
def test_what_is_only_odd_is_a_note(scene, code, said, change):
    change(scene)
    verdict = judge_scene(scene)
    assert verdict.ok, verdict.reason
    assert said in {note.code: note.reason for note in verdict.notes}[code]


@pytest.mark.parametrize(("code", "said", "change"), UNSOUND.values(), ids=UNSOUND.keys())
def test_what_is_unsound_is_named(scene, code, said, change):
    change(scene)
    verdict = judge_scene(scene)
    assert not verdict.ok
    assert verdict.code == code, verdict.reason
    assert said in verdict.reason
    assert "\n" not in verdict.reason
    assert ";" in verdict.reason, "the reason ends with a remedy"


def test_a_path_that_is_no_folder_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="does not exist; give"):
        judge_scene(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        judge_scene(tmp_path / "file")


def test_loading_an_unsound_folder_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="expected sparse/0"):
        load_scene(tmp_path)


@pytest.mark.parametrize("part", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("cut", [0, 0.5, 0.999], ids=str)
def test_a_binary_file_cut_short_is_named(tmp_path, part, cut):
    shutil.copytree(SCENES / "brighton_beach/sparse", tmp_path / "sparse")
    path = tmp_path / f"sparse/0/{part}.bin"
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    verdict = judge_scene(tmp_path)
    assert verdict.code == "broken-model"
    assert f"{part}.bin: cut short at byte" in verdict.reason


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_to_text_ends_in_a_verdict(scene, data):
    """Whatever a model's file holds, the scene is judged; nothing is raised."""
    path = scene / data.draw(st.sampled_from([IMAGES, CAMERAS, POINTS]))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    blob = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"nan", b"1e999", b"-"])))
    length = data.draw(st.sampled_from([0, 1, 9, 10**6]))
    try:
        path.write_bytes(whole[:at] + blob + whole[at + length :])
        verdict = judge_scene(scene)
        assert verdict.ok == (verdict.code == "")
    finally:
        path.write_bytes(whole)
