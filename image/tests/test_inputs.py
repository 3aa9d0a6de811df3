"""What SfM may hand over: every layout and legal oddity trains, everything unsound is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small import VIEWS, load, make_scene
from trainer import channel
from trainer.errors import TrainerError
from trainer.scene import read_scene


@pytest.mark.parametrize(
    "camera_model", ["SIMPLE_PINHOLE", "SIMPLE_RADIAL", "OPENCV", "OPENCV_FISHEYE"]
)
@pytest.mark.parametrize("text", [False, True], ids=["bin", "txt"])
def test_camera_models_and_formats_load(tmp_path: Path, camera_model: str, text: bool) -> None:
    make_scene(tmp_path, camera_model, text)
    photos = load(tmp_path, 48)
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
