"""What SfM may hand over: every layout and legal oddity trains, everything unsound is refused."""

from __future__ import annotations

import faulthandler
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small import VIEWS, load, make_job, make_scene, metrics, run
from trainer import channel, export
from trainer.errors import TrainerError
from trainer.scene import read_scene

MODELS = sorted(set(pycolmap.CameraModelId.__members__) - {"INVALID"})


@pytest.mark.parametrize("text", [False, True], ids=["bin", "txt"])
@pytest.mark.parametrize("camera_model", [m for m in MODELS if m != "EQUIRECTANGULAR"])
def test_every_camera_model_and_format_loads(tmp_path: Path, camera_model: str, text: bool) -> None:
    make_scene(tmp_path, camera_model, text)
    photos = load(tmp_path, 48)
    assert [p.name for p in photos] == [f"sub dir/v{i}.png" for i in range(1, VIEWS + 1)]
    assert max(photos[0].width, photos[0].height) == 48
    assert photos[0].undistorted == (camera_model not in ("PINHOLE", "SIMPLE_PINHOLE"))


def test_panorama_is_refused_with_a_way_out(tmp_path: Path) -> None:
    make_scene(tmp_path)
    path = tmp_path / "sparse/0/cameras.bin"
    kind = pycolmap.CameraModelId.EQUIRECTANGULAR.value
    path.write_bytes(struct.pack("<QIiQQ2d", 1, 1, kind, 64, 48, 64, 48))
    with pytest.raises(TrainerError, match=r"EQUIRECTANGULAR.*perspective views") as e:
        load(tmp_path)
    assert e.value.code == "E_SCENE_CAMERA"


def test_undistorted_photograph_shows_points_where_its_camera_puts_them(tmp_path: Path) -> None:
    """A pixel of the distorted photograph comes to lie where the pinhole camera sees its point."""
    make_scene(tmp_path, "OPENCV", parameters=[50, 50, 32, 24, -0.1, 0.02, 0.001, 0.002])
    photo = load(tmp_path)[0]
    model = pycolmap.Reconstruction(str(tmp_path / "sparse/0"))
    agree = []
    for point in model.points3D.values():
        x, y, z = photo.rotation @ point.xyz + photo.translation
        u, v = int(photo.fx * x / z + photo.cx), int(photo.fy * y / z + photo.cy)
        if 3 < u < photo.width - 3 and 3 < v < photo.height - 3:
            agree.append(abs(photo.pixels[v, u].astype(int) - point.color).max() < 40)
    assert len(agree) > 100
    # Squares lie over one another: most, not all, show their own colour.
    assert np.mean(agree) > 0.5


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


def duplicate_points(root: Path) -> None:
    path = root / "sparse/0/points3D.bin"
    model = pycolmap.Reconstruction(str(path.parent))
    first = next(iter(model.points3D.values()))
    for _ in range(50):
        model.add_point3D(first.xyz, pycolmap.Track(), first.color)
    model.add_point3D(np.array([1e7, 0, 0]), pycolmap.Track(), first.color)
    model.write_binary(str(path.parent))


@pytest.mark.parametrize(
    "oddity",
    [drop_rigs, flatten, text_without_comments, extra_files, duplicate_points],
    ids=lambda oddity: oddity.__name__,
)
def test_legal_oddities_train(tmp_path: Path, oddity: Callable[[Path], None]) -> None:
    base = make_job(tmp_path, max_iterations=2)
    oddity(base / "input/data/training")
    assert run(base) == 0
    assert len(export.read_ply(base / "model/point_cloud.ply")["means"]) >= 285


def test_several_cameras_keep_their_own_intrinsics(tmp_path: Path) -> None:
    make_scene(tmp_path)
    folder = tmp_path / "sparse/0"
    text_without_comments(tmp_path)
    (folder / "cameras.txt").write_text(
        "1 PINHOLE 64 48 50 50 32 24\n2 PINHOLE 64 48 60 61 30 20\n"
    )
    images = (folder / "images.txt").read_text().splitlines()
    head = images[0].split(maxsplit=9)
    head[8] = "2"
    images[0] = " ".join(head)
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    for name in ("rigs.txt", "frames.txt"):
        (folder / name).unlink()
    by_name = {photo.name: photo for photo in load(tmp_path)}
    odd = by_name.pop(head[9])
    assert (odd.fx, odd.fy, odd.cx, odd.cy) == (60, 61, 30, 20)
    assert {(p.fx, p.cy) for p in by_name.values()} == {(50, 24)}


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
    photo = load(tmp_path)[0]
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
        photo = load(tmp_path)[0]
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
    with pytest.raises(TrainerError, match=reason) as e:
        load(tmp_path)
    assert e.value.code == "E_SCENE_IMAGES"


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


def test_scene_without_points_is_refused_with_the_number(tmp_path: Path) -> None:
    make_scene(tmp_path)
    (tmp_path / "sparse/0/points3D.bin").write_bytes(struct.pack("<Q", 0))
    with pytest.raises(TrainerError, match=r"0 finite points|cannot read"):
        read_scene(channel.find_layout(tmp_path))
