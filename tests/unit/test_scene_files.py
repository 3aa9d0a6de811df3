"""A model's five files, the archive it comes in, and what they say of each other."""

from __future__ import annotations

import io
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from splatgate.scene.archive import kept
from splatgate.scene.colmap import load_scene
from splatgate.scene.colmap_files import EXTRA, PARTS
from splatgate.scene.judge import judge_scene

SCENE = Path(__file__).parents[1] / "scenes" / "brighton_beach"
FILES = [f"{part}.bin" for part in (*PARTS, *EXTRA)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A real scene, its photographs reduced: only its model is spoilt here."""
    scene = tmp_path_factory.mktemp("whole") / "scene"
    shutil.copytree(SCENE / "sparse", scene / "sparse")
    (scene / "images").mkdir()
    for path in (SCENE / "images").iterdir():
        Image.open(path).reduce(4).save(scene / "images" / path.name)
    return scene


@pytest.fixture
def scene(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "scene")


def cut(data):
    return data[: len(data) * 2 // 3]


def empty(data):
    return b""


def longer(data):
    return data + bytes(16)


def zeros(data):
    """What a copy leaves that was broken off after the room had been taken."""
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def words(data):
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 64\n"


def many(data):
    return struct.pack("<Q", 2**63) + data[8:]


@pytest.mark.parametrize("damage", [cut, empty, longer, words, many])
@pytest.mark.parametrize("name", FILES)
def test_each_damage_to_each_file_is_named(scene, name, damage):
    path = scene / "sparse/0" / name
    path.write_bytes(damage(path.read_bytes()))
    verdict = judge_scene(scene)
    assert verdict.code == "broken-model", verdict.reason
    assert f"{scene}/sparse/0/{name}" in verdict.reason
    assert verdict.reason.endswith("export the model again and copy it whole")


@pytest.mark.parametrize("name", sorted({*FILES} - {"rigs.bin"}))
def test_a_file_half_of_zeros_is_unsound(scene, name):
    path = scene / "sparse/0" / name
    path.write_bytes(zeros(path.read_bytes()))
    assert not judge_scene(scene).ok


@settings(
    max_examples=40,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_to_any_file_ends_in_a_verdict(scene, data):
    """Whatever the bytes: nothing is raised, and nothing runs for ever."""
    path = scene / "sparse/0" / data.draw(st.sampled_from(FILES))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    blob = data.draw(st.one_of(st.binary(max_size=16), st.just(b"\xff" * 8)))
    try:
        path.write_bytes(before[:at] + blob + before[at + len(blob) :])
        verdict = judge_scene(scene)
        assert verdict.ok == (verdict.code == "")
    finally:
        path.write_bytes(before)


def rewritten(scene, change=lambda model: None, text=True, binary=False):
    """The model changed and written by COLMAP itself beside what is there, or over it."""
    model = pycolmap.Reconstruction(scene / "sparse/0")
    change(model)
    if text:
        model.write_text(scene / "sparse/0")
    if binary:
        model.write_binary(scene / "sparse/0")


def pose_moved(model):
    frame = model.frames[1]
    pose = frame.rig_from_world
    frame.rig_from_world = pycolmap.Rigid3d(pose.rotation, pose.translation + np.array([0, 0, 2]))


def camera_wider(model):
    camera = model.cameras[1]
    camera.params = camera.params * [1.2, *[1] * (len(camera.params) - 1)]


def point_lost(model):
    model.delete_point3D(next(iter(model.points3D)))


def image_lost(model):
    model.deregister_frame(3)


def points_scaled(model):
    for point in model.points3D.values():
        point.xyz = point.xyz * 1.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (pose_moved, "images.txt gives DJI_0001.jpg another pose"),
        (camera_wider, "cameras.txt gives DJI_0001.jpg another camera"),
        (point_lost, "points3D.txt holds 2578 points"),
        (image_lost, "images.txt names 17 images, images.bin 18"),
        (points_scaled, "points3D.txt puts points elsewhere"),
    ],
)
def test_text_that_tells_of_another_model_is_named(scene, change, said):
    rewritten(scene, change)
    verdict = judge_scene(scene)
    assert verdict.code == "models-disagree"
    names = sorted(path.name for path in (SCENE / "images").iterdir())
    assert said.replace("DJI_0001.jpg", names[0]) in verdict.reason


def test_text_beside_binary_may_be_rounded(scene):
    rewritten(scene)
    path = scene / "sparse/0/points3D.txt"
    rounded = []
    for line in path.read_text().splitlines():
        head, *rest = line.split(" ")
        xyz = rest if line.startswith("#") else [f"{float(x):.6g}" for x in rest[:3]] + rest[3:]
        rounded.append(" ".join([head, *xyz]))
    path.write_text("\n".join(rounded) + "\n")
    verdict = judge_scene(scene)
    assert verdict.ok, verdict.reason


def test_text_that_cannot_be_read_is_named_beside_sound_binary(scene):
    rewritten(scene)
    (scene / "sparse/0/points3D.txt").write_text("1 2 3\n")
    verdict = judge_scene(scene)
    assert (verdict.code, verdict.images) == ("broken-model", 18)
    assert "points3D.txt: line 1" in verdict.reason


@pytest.mark.parametrize("left", EXTRA)
def test_rigs_and_frames_come_together(scene, left):
    (other,) = set(EXTRA) - {left}
    (scene / f"sparse/0/{other}.bin").unlink()
    verdict = judge_scene(scene)
    assert verdict.code == "models-disagree"
    assert f"{left}.bin is there alone" in verdict.reason
    (scene / f"sparse/0/{left}.bin").unlink()
    assert judge_scene(scene).ok


def test_frames_of_another_export_are_named(scene):
    """COLMAP takes poses from frames.bin, most trainers from images.bin: two scenes in one."""
    path = scene / "sparse/0/frames.bin"
    before = path.read_bytes()
    rewritten(scene, pose_moved, text=False, binary=True)
    moved = path.read_bytes()
    assert moved != before
    shutil.copytree(SCENE / "sparse", scene / "sparse", dirs_exist_ok=True)
    path.write_bytes(moved)
    verdict = judge_scene(scene)
    assert verdict.code == "models-disagree"
    assert "frames.bin gives" in verdict.reason


def test_cameras_of_one_rig_stand_where_their_own_pose_says(scene):
    """A rig of two cameras: the second image's pose is its own, not the frame's."""
    model = pycolmap.Reconstruction(scene / "sparse/0")
    sensor = pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 2)
    shift = struct.pack("<iIB7d", 0, sensor.id, 1, 1, 0, 0, 0, 0.5, 0, 0)
    (scene / "sparse/0/rigs.bin").write_bytes(struct.pack("<QIIiI", 1, 1, 2, 0, 1) + shift)
    camera = model.cameras[1]
    row = struct.pack("<iiQQ4d", 2, int(camera.model.value), 776, 435, *camera.params)
    cameras = (scene / "sparse/0/cameras.bin").read_bytes()
    (scene / "sparse/0/cameras.bin").write_bytes(struct.pack("<Q", 2) + cameras[8:] + row)
    verdict = judge_scene(scene)
    assert verdict.ok, verdict.reason


def packed(scene, target, kind, under=""):
    """The scene as one archive in ``target``, with its photographs."""
    target.mkdir()
    path = target / f"scene.{kind}"
    files = [p for p in scene.rglob("*") if p.is_file()]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as pack:
            for file in files:
                pack.write(file, under + file.relative_to(scene).as_posix())
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as tar:
            for file in files:
                tar.add(file, under + file.relative_to(scene).as_posix())
    return path


@pytest.mark.parametrize("under", ["", "flight/"], ids=["flat", "nested"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_scene_in_one_archive_is_judged(scene, tmp_path, kind, under):
    packed(scene, tmp_path / "channel", kind, under)
    (tmp_path / "channel" / "sfm_metadata.json").write_text("{}")
    verdict = judge_scene(tmp_path / "channel")
    assert verdict.ok, verdict.reason
    assert verdict.images == 18


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_cut_short_is_named(scene, tmp_path, kind):
    path = packed(scene, tmp_path / "channel", kind)
    path.write_bytes(cut(path.read_bytes()))
    verdict = judge_scene(tmp_path / "channel")
    assert verdict.code == "broken-archive", verdict.reason
    assert str(path) in verdict.reason


def test_a_flipped_byte_in_a_zip_is_named(scene, tmp_path):
    path = packed(scene, tmp_path / "channel", "zip")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert judge_scene(tmp_path / "channel").code == "broken-archive"


def link(tar):
    member = tarfile.TarInfo("images")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    tar.addfile(member)


def above(tar):
    tar.addfile(tarfile.TarInfo("../above"), io.BytesIO())


@pytest.mark.parametrize("add", [link, above])
def test_an_archive_that_reaches_outside_is_not_unpacked(tmp_path, add):
    (tmp_path / "channel").mkdir()
    with tarfile.open(tmp_path / "channel" / "scene.tar", "w") as tar:
        add(tar)
    verdict = judge_scene(tmp_path / "channel")
    assert verdict.code == "unsafe-archive", verdict.reason
    assert [path.name for path in tmp_path.iterdir()] == ["channel"]


def test_a_finding_in_an_archive_names_the_channel(scene, tmp_path):
    channel = tmp_path / "channel"
    channel.mkdir()
    with zipfile.ZipFile(channel / "scene.zip", "w") as pack:
        pack.writestr("images/a.jpg", b"")
    verdict = judge_scene(channel)
    assert verdict.code == "missing-model"
    assert str(channel) in verdict.reason
    assert "splatgate-scene-" not in verdict.reason


def test_points_far_from_the_origin_are_noted(scene):
    """National grids: what float32 cannot hold is written about a local origin."""

    def far(model):
        shift = pycolmap.Sim3d(1.0, pycolmap.Rotation3d(), np.array([5e6, 3e5, 0.0]))
        model.transform(shift)

    rewritten(scene, far, text=False, binary=True)
    verdict = judge_scene(scene)
    assert verdict.ok, verdict.reason
    assert "local origin" in {n.code: n.reason for n in verdict.notes}["georeferenced"]


def test_points_in_one_place_are_named(scene):
    def collapsed(model):
        for point in model.points3D.values():
            point.xyz = np.array([0.5, 0.5, 5.0])

    rewritten(scene, collapsed, text=False, binary=True)
    assert "bad-points" in [finding.code for finding in judge_scene(scene).findings]


def test_one_image_in_a_wrong_place_is_named(scene):
    def turned(model):
        frame = model.frames[1]
        pose = frame.rig_from_world
        half = pycolmap.Rotation3d(np.array([0.0, 1.0, 0.0, 0.0]))
        frame.rig_from_world = pycolmap.Rigid3d(half * pose.rotation, pose.translation)

    rewritten(scene, turned, text=False, binary=True)
    verdict = judge_scene(scene)
    assert verdict.code == "poses-disagree", verdict.reason
    assert "in 1 of 18 images" in verdict.reason


def test_cameras_without_parallax_are_named(scene):
    """All views from one place but for some dust: what a panorama gives."""

    def together(model):
        centre = np.mean([im.projection_center() for im in model.images.values()], axis=0)
        for number, frame in enumerate(model.frames.values()):
            rotation = frame.rig_from_world.rotation
            where = centre + 1e-6 * number
            frame.rig_from_world = pycolmap.Rigid3d(rotation, -(rotation.matrix() @ where))

    rewritten(scene, together, text=False, binary=True)
    verdict = judge_scene(scene)
    assert verdict.code == "bad-pose", verdict.reason
    assert "parallax" in verdict.reason


def test_a_packed_scene_stays_open_for_who_renders_it(scene, tmp_path):
    packed(scene, tmp_path / "channel", "tar", "flight/")
    found = load_scene(kept(tmp_path / "channel"))
    assert len(found.views) == 18
    assert all(view.photo and view.photo.is_file() for view in found.views)
