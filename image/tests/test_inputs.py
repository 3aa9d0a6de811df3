"""What SfM may hand over: every layout and legal oddity trains, everything unsound is refused."""

from __future__ import annotations

import faulthandler
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycolmap
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small import VIEWS, gained, load, make_job, make_scene, metrics, opened, run, truth
from trainer import channel, export, loss, photos
from trainer.errors import TrainerError
from trainer.scene import read_scene

#: A training that is short and steep: at its end the wall is drawn better by ``BETTER`` dB.
SHORT: dict[str, object] = {
    "max_iterations": 30,
    "eval_every": 0,
    "checkpoint_every": 0,
    "lr_scales": 0.1,
    "lr_sh": 0.02,
}
BETTER = 3.0

Change = Callable[[Path], None]
MODELS = sorted(set(pycolmap.CameraModelId.__members__) - {"INVALID"})


def psnr(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """In dB, of two pictures from 0 to 255."""
    return loss.psnr(float(np.mean((a / 255.0 - b / 255.0) ** 2)))


@pytest.mark.parametrize("camera_model", [m for m in MODELS if m != "EQUIRECTANGULAR"])
def test_every_camera_model_trains_towards_the_truth(tmp_path: Path, camera_model: str) -> None:
    """Photographs are straightened as the wall that they show, text is read like binary, and the
    job's model comes nearer to the wall than its points were.
    """
    base = make_job(tmp_path / "job", camera_model, **SHORT)
    photos = load(base / "input/data/training")
    assert photos[0].undistorted == (camera_model not in ("PINHOLE", "SIMPLE_PINHOLE"))
    assert min(psnr(p.pixels, truth(p)) for p in photos) > 33
    text = load(make_scene(tmp_path / "txt", camera_model, text=True))
    for a, b in zip(text, photos, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert (a.name, a.fx, a.cy) == (b.name, b.fx, b.cy)
    assert run(base) == 0
    assert gained(base) > BETTER


def test_scene_far_from_zero_is_trained_about_its_own_origin(tmp_path: Path) -> None:
    """At map coordinates float32 would round the steps away; the .ply is in them all the same."""
    base = make_job(tmp_path, max_iterations=2)
    similar(1, 6000, -4000, 200)(base / "input/data/training")
    scene, _ = opened(base / "input/data/training")
    assert np.abs(scene.points).max() < 5
    assert run(base) == 0
    middle = export.read_ply(base / "model/point_cloud.ply")["means"].median(0).values
    assert middle.tolist() == pytest.approx([6000, -4000, 204], abs=1)


def test_panorama_is_refused_with_a_way_out(tmp_path: Path) -> None:
    make_scene(tmp_path)
    path = tmp_path / "sparse/0/cameras.bin"
    kind = pycolmap.CameraModelId.EQUIRECTANGULAR.value
    path.write_bytes(struct.pack("<QIiQQ2d", 1, 1, kind, 64, 48, 64, 48))
    with pytest.raises(TrainerError, match=r"EQUIRECTANGULAR.*perspective views") as e:
        load(tmp_path)
    assert e.value.code == "E_SCENE_CAMERA"


def drop_rigs(root: Path) -> None:
    """COLMAP before 3.12 wrote three files."""
    (root / "sparse/0/rigs.bin").unlink()
    (root / "sparse/0/frames.bin").unlink()


def flatten(root: Path) -> None:
    """``sparse/`` without ``0/``."""
    for path in (root / "sparse/0").iterdir():
        path.rename(root / "sparse" / path.name)
    (root / "sparse/0").rmdir()


def text_without_comments(root: Path) -> None:
    model = root / "sparse/0"
    pycolmap.Reconstruction(str(model)).write_text(str(model))
    for path in model.glob("*.bin"):
        path.unlink()
    for path in model.glob("*.txt"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith("#")))


def extra_files(root: Path) -> None:
    (root / "sfm_metadata.json").write_text("{}")
    (root / "images/notes.txt").write_text("not a photograph")
    (root / "sparse/0/project.ini").write_text("x")


def packed(kind: str) -> Change:
    """The whole channel as one archive, as a Mac makes it, with a note of where it comes from."""

    def apply(root: Path) -> None:
        shutil.move(root, root.parent / "whole/scene")
        (root.parent / "whole/__MACOSX").mkdir()
        (root.parent / "whole/__MACOSX/._scene").write_bytes(b"x")
        root.mkdir()
        shutil.make_archive(str(root / "scene"), kind, root.parent / "whole")
        (root / "manifest.json").write_text("{}")

    return apply


def changed(change: Callable[[pycolmap.Reconstruction], object]) -> Change:
    """An edit of the model."""

    def apply(root: Path) -> None:
        model = pycolmap.Reconstruction(str(root / "sparse/0"))
        change(model)
        model.write_binary(str(root / "sparse/0"))

    return apply


def more_points(model: pycolmap.Reconstruction) -> None:
    """Fifty duplicates of a point, and one far out."""
    first = next(iter(model.points3D.values()))
    for _ in range(50):
        model.add_point3D(first.xyz, pycolmap.Track(), first.color)
    model.add_point3D(np.array([1e7, 0, 0]), pycolmap.Track(), first.color)


def similar(scale: float, *shift: float) -> Change:
    """The same scene in other coordinates: x to ``scale`` x + ``shift``."""
    turn = pycolmap.Sim3d(scale, pycolmap.Rotation3d(), shift)
    return changed(lambda model: model.transform(turn))


def lost_camera(model: pycolmap.Reconstruction) -> None:
    """One pose that went astray, as happens to photographs with few matches."""
    away = pycolmap.Rigid3d(pycolmap.Rotation3d(), [1e6, 0, 0])
    frame = model.images[6].frame
    frame.set_cam_from_world(model.images[6].camera_id, away)


def photo(change: Callable[[Image.Image], Image.Image], **options: Any) -> Change:
    """An edit of a photograph that is trained on."""

    def apply(root: Path) -> None:
        path = root / PHOTO
        change(Image.open(path)).save(path, **options)

    return apply


def turned(root: Path) -> None:
    """Stored lying on its side, with the EXIF tag that says so, as phones and drones do."""
    photo(lambda im: im.transpose(Image.Transpose.ROTATE_270), exif=EXIF)(root)


def giant(root: Path) -> None:
    """A PNG of three thousand million pixels, which nobody has to send."""
    path = root / PHOTO
    head = b"IHDR" + struct.pack(">IIBBBBB", 64000, 48000, 8, 2, 0, 0, 0)
    rest = path.read_bytes()[33:]
    path.write_bytes(PNG + head + struct.pack(">I", zlib.crc32(head)) + rest)


PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13)
#: Shown turned by 90 degrees counter-clockwise.
EXIF = Image.Exif()
EXIF[0x0112] = 8
PHOTO = "images/sub dir/v2.png"
ODDITIES: dict[str, Change] = {
    "without-rigs": drop_rigs,
    "flat": flatten,
    "text-without-comments": text_without_comments,
    "extra-files": extra_files,
    "duplicate-points": changed(more_points),
    "lost-camera": changed(lost_camera),
    "large-units": similar(1e4, 0, 0, 0),
    "small-units": similar(0.05, 0, 0, 0),
    "map-coordinates": similar(1, 6000, -4000, 200),
    "zip": packed("zip"),
    "tar.gz": packed("gztar"),
    "exif": turned,
    "exif-of-before": photo(lambda im: im, exif=EXIF),
    "grey": photo(lambda im: im.convert("L")),
    "alpha": photo(lambda im: im.convert("RGBA")),
    "grey-16-bit": photo(lambda im: Image.fromarray(np.asarray(im.convert("L"), "u2") * 257)),
    "larger": photo(lambda im: im.resize((128, 96))),
    "far-larger": photo(lambda im: im.resize((512, 384)), format="jpeg", quality=95),
    "smaller": photo(lambda im: im.resize((32, 24))),
    "upper-case": lambda root: (root / PHOTO).rename((root / PHOTO).with_suffix(".PNG")) and None,
    "not-registered": lambda root: shutil.copy(root / PHOTO, root / "images/v9.jpg") and None,
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_legal_oddity_trains_towards_the_truth(tmp_path: Path, oddity: str) -> None:
    """Cameras of three models, and one thing that SfM may do: nothing of it harms the result."""
    base = make_job(tmp_path, "PINHOLE", "OPENCV", "SIMPLE_RADIAL", **SHORT)
    ODDITIES[oddity](base / "input/data/training")
    found = load(base / "input/data/training")
    assert [f.name for f in found] == [f"sub dir/v{i}.png" for i in range(1, VIEWS + 1)]
    assert [f.undistorted for f in found] == [True, True, False] * 2
    for one in found:
        grey = oddity.startswith("grey") and one.name == "sub dir/v2.png"
        want = Image.fromarray(truth(one)).convert("L" if grey else "RGB").convert("RGB")
        assert psnr(one.pixels, np.asarray(want)) > 33, one.name
    assert run(base) == 0
    assert gained(base) > BETTER
    assert metrics(base)["initial_points"] == 296 + 51 * (oddity == "duplicate-points")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: (root / PHOTO).unlink(), "missing"),
        (lambda root: (root / PHOTO).write_bytes(b"x"), "v2.png"),
        (lambda root: os.truncate(root / PHOTO, 200), "v2.png"),
        (lambda root: (root / PHOTO).write_bytes(b"\0\0\0\x18ftypheic"), "any of JPEG"),
        (photo(lambda im: im.convert("F"), format="tiff"), "floating-point"),
        (giant, "v2.png .64000x48000, far larger"),
        (photo(lambda im: im.resize((64, 64))), "64x64.*64x48"),
        (photo(lambda im: im.transpose(Image.Transpose.ROTATE_90)), "48x64.*64x48"),
    ],
    ids=["missing", "damaged", "truncated", "heic", "floats", "giant", "square", "turned"],
)
def test_unusable_photographs_are_refused_by_name(
    tmp_path: Path, change: Change, reason: str
) -> None:
    change(make_scene(tmp_path))
    with pytest.raises(TrainerError, match=reason) as e:
        load(tmp_path)
    assert e.value.code == "E_SCENE_IMAGES"


@pytest.mark.parametrize(("kind", "size"), [("png", (640, 480)), ("jpeg", (80, 60))])
def test_memory_is_reckoned_by_what_is_decoded(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    """A photograph ten times as large as its camera says; of a JPEG an eighth is decoded."""
    photo(lambda im: im.resize((640, 480)), format=kind)(make_scene(tmp_path))
    scene, found = opened(tmp_path)
    assert photos.sizes(scene) == [(64, 48), size, *[(64, 48)] * 4]
    assert (found[1].width, found[1].height) == size


@pytest.mark.parametrize("text", [False, True], ids=["bin", "txt"])
def test_name_that_is_not_utf_8_is_shown(tmp_path: Path, text: bool) -> None:
    path = make_scene(tmp_path, text=text) / f"sparse/0/images.{'txt' if text else 'bin'}"
    path.write_bytes(path.read_bytes().replace(b"v2.png", b"caf\xe9.png"))
    with pytest.raises(TrainerError, match=r"not UTF-8: b'.*sub dir/caf\\xe9\.png'") as e:
        load(tmp_path)
    assert e.value.code == "E_SCENE_FORMAT"


@pytest.mark.parametrize("packed_by_macos", [False, True])
def test_accents_are_found_however_they_are_written(tmp_path: Path, packed_by_macos: bool) -> None:
    """macOS writes e and its accent as two characters, and UTF-8 in archives without saying so."""
    make_scene(tmp_path)
    (tmp_path / PHOTO).rename(tmp_path / "images/sub dir/cafe\u0301.png")
    changed(lambda model: setattr(model.images[2], "name", "sub dir/caf\u00e9.png"))(tmp_path)
    if packed_by_macos:
        packed("zip")(tmp_path)
        path = next(tmp_path.iterdir())
        data = path.read_bytes()
        for head, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            parts = data.split(head)
            assert len(parts) > 6
            at -= len(head)
            data = head.join([parts[0], *(p[:at] + b"\0\0" + p[at + 2 :] for p in parts[1:])])
        path.write_bytes(data)
    assert len(load(tmp_path)) == VIEWS


def look_away(model: pycolmap.Reconstruction) -> None:
    """As if the third axis of a camera pointed backwards, which other tools write."""
    for image in model.images.values():
        flip = pycolmap.Rotation3d(np.diag([1.0, -1.0, -1.0]))
        pose = pycolmap.Rigid3d(flip, np.zeros(3)) * image.cam_from_world()
        image.frame.set_cam_from_world(image.camera_id, pose)


def camera_to_world(model: pycolmap.Reconstruction) -> None:
    for image in model.images.values():
        turn = pycolmap.Rotation3d(np.array([0, 0.1 * image.image_id, 0]))
        pose = (pycolmap.Rigid3d(turn, np.array([0, 0, 3.0])) * image.cam_from_world()).inverse()
        image.frame.set_cam_from_world(image.camera_id, pose)


def in_one_place(model: pycolmap.Reconstruction) -> None:
    """A panorama: seen from one place, every point may as well be anywhere on its ray."""
    for image in model.images.values():
        image.frame.set_cam_from_world(image.camera_id, pycolmap.Rigid3d())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (look_away, "100% of the image .* world-to-camera"),
        (camera_to_world, "world-to-camera"),
        (in_one_place, "one place, 4"),
    ],
)
def test_poses_that_nothing_can_be_learned_from_are_refused(
    tmp_path: Path, change: Callable[[pycolmap.Reconstruction], None], reason: str
) -> None:
    changed(change)(make_scene(tmp_path))
    with pytest.raises(TrainerError, match=reason) as e:
        load(tmp_path)
    assert e.value.code == "E_SCENE_CAMERA"


@pytest.fixture(scope="module")
def scene_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole small scene of either format, for tests that damage it and mend it again."""
    return {k: make_scene(tmp_path_factory.mktemp(k), text=k == "txt") for k in ("bin", "txt")}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of two steps on a whole small scene."""
    base = tmp_path_factory.mktemp("job")
    return make_job(base, max_iterations=2, eval_every=0, checkpoint_every=0)


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """End the whole test run loudly if the body hangs, even in C++."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def broken(data: st.DataObject, whole: bytes) -> bytes:
    """``whole`` cut short, with bytes changed, cut out or doubled."""
    out = bytearray(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, max(0, len(out) - 1)))
        if out:
            out[place] ^= data.draw(st.integers(1, 255))
        if data.draw(st.booleans()):
            del out[place : place + data.draw(st.integers(1, 64))]
    return bytes(out)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(["cameras", "images", "points3D", "rigs", "frames"]), st.data())
@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_damaged_model_is_refused_or_harmless(
    scene_folders: dict[str, Path], kind: str, name: str, data: st.DataObject
) -> None:
    folder = scene_folders[kind]
    path = folder / f"sparse/0/{name}.{kind}"
    whole = path.read_bytes()
    code = "E_SCENE_"
    try:
        path.write_bytes(broken(data, whole))
        with in_time(60):
            read_scene(channel.find_layout(folder))
    except TrainerError as error:
        code = error.code
    finally:
        path.write_bytes(whole)
    assert code.startswith("E_SCENE_")


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_scene_trains_to_a_valid_model_or_is_refused(
    job: Path, data: st.DataObject
) -> None:
    """Whatever file of the scene is damaged: exit 0 with a sound .ply, or a code and no .ply."""
    scene = job / "input/data/training"
    files = sorted(p for p in scene.rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    shutil.rmtree(job / "model", ignore_errors=True)
    try:
        path.write_bytes(broken(data, whole))
        with in_time(120):
            status = run(job)
    finally:
        path.write_bytes(whole)
    if status == 0:
        values = export.read_ply(job / "model/point_cloud.ply")
        assert len(values["means"]) == metrics(job)["gaussians"]
        assert all(bool(v.isfinite().all()) for v in values.values())
    else:
        assert (job / "output/failure").read_text().startswith("E_SCENE_")
        assert not list((job / "model").glob("*"))
