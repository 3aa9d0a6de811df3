"""What SfM tools, phones, drones and masks produce, as people report it: trained, or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from small import SIZE, VIEWS, gained, load, make_job, make_scene, metrics, opened, run
from test_inputs import BETTER, EXIF, PHOTO, SHORT, changed, similar, text_without_comments
from trainer import consistency, loss, masks, rasterise
from trainer.errors import TrainerError

Change = Callable[[Path], None]


def texts(change: Callable[[str], str], *names: str) -> Change:
    """An edit of the model as text."""

    def apply(root: Path) -> None:
        text_without_comments(root)
        for name in names or ("cameras", "images", "points3D"):
            path = root / f"sparse/0/{name}.txt"
            path.write_bytes(change(path.read_text()).encode())

    return apply


def no_tracks(root: Path) -> None:
    text_without_comments(root)
    path = root / "sparse/0/images.txt"
    path.write_text("".join(line + "\n\n" for line in path.read_text().splitlines()[::2]))
    path = root / "sparse/0/points3D.txt"
    lines = path.read_text().splitlines()
    path.write_text("".join(" ".join(line.split()[:8]) + "\n" for line in lines))


def no_keypoints(root: Path) -> None:
    text_without_comments(root)
    path = root / "sparse/0/images.txt"
    path.write_text("".join(line + "\n\n" for line in path.read_text().splitlines()[::2]))


def capitals(root: Path) -> None:
    text_without_comments(root)
    for path in (root / "sparse/0").glob("*.txt"):
        path.rename(path.with_name(path.name.capitalize()))


def smaller_model_first(root: Path) -> None:
    """SfM fell apart: a fragment of three photographs is model 0."""
    (root / "sparse/0").rename(root / "sparse/1")
    model = pycolmap.Reconstruction(str(root / "sparse/1"))
    for number in (4, 5, 6):
        model.deregister_frame(model.images[number].frame_id)
    (root / "sparse/0").mkdir()
    model.write_binary(str(root / "sparse/0"))


def grey_16(bits: int) -> Change:
    """All photographs as grey of so many bits in 16."""

    def apply(root: Path) -> None:
        for path in (root / "images").rglob("*.png"):
            grey = np.asarray(Image.open(path).convert("L"), np.float64) / 255
            Image.fromarray((grey * (2**bits - 1)).round().astype("u2")).save(path)

    return apply


CAPTURES: dict[str, Change] = {
    "no-tracks": no_tracks,
    "tracks-without-keypoints": no_keypoints,
    "no-last-blank-line": texts(lambda text: text.rstrip("\n").rpartition("\n")[0], "images"),
    "windows-text": texts(lambda text: "\ufeff" + text.replace("\n", "\r\n")),
    "capital-names": capitals,
    "backslashes": texts(lambda text: text.replace("sub dir/", "sub dir\\"), "images"),
    "no-colours": changed(
        lambda m: [setattr(p, "color", np.zeros(3, "u1")) for p in m.points3D.values()]
    ),
    "smaller-model-first": smaller_model_first,
    "a-point-that-is-no-number": texts(
        lambda text: text + "9999 -nan(ind) 0 0 1 1 1 0\n", "points3D"
    ),
    "map-coordinates-of-a-country": similar(1, 6.9e5, 5.3e6, 300),
    "grey-12-bit": grey_16(12),
    "grey-16-bit": grey_16(16),
}


@pytest.mark.parametrize("capture", CAPTURES)
def test_real_capture_trains_towards_the_truth(tmp_path: Path, capture: str) -> None:
    base = make_job(tmp_path, "PINHOLE", **SHORT)
    points = len(opened(base / "input/data/training")[0].points)
    CAPTURES[capture](base / "input/data/training")
    scene, photos = opened(base / "input/data/training")
    assert len(consistency.checked(scene, photos)) == VIEWS
    assert run(base) == 0
    assert metrics(base)["initial_points"] == points
    if not capture.startswith("grey"):
        assert gained(base) > BETTER
    else:
        assert 90 < float(np.mean([photo.pixels.mean() for photo in photos])) < 160


def test_country_coordinates_are_written_about_a_local_origin(tmp_path: Path) -> None:
    base = make_job(tmp_path, max_iterations=2)
    root = base / "input/data/training"
    similar(1, 6.9e5, 5.3e6, 300)(root)
    (root / "area.prj").write_text('PROJCS["WGS 84 / UTM zone 32N"]')
    assert run(base) == 0
    told = json.loads((base / "model/georeference.json").read_text())
    assert told["origin"] == pytest.approx([6.9e5, 5.3e6, 304], abs=5)
    assert "UTM zone 32N" in told["crs"]
    head = (base / "model/point_cloud.ply").read_bytes().partition(b"end_header")[0].decode()
    assert f"comment origin {told['origin'][0]!r}" in head


REFUSED: dict[str, tuple[str, str, Change]] = {
    "comma": (
        "E_SCENE_FORMAT",
        r"points3D.txt: line 1 holds -?\d+,\d+ with a decimal comma",
        texts(lambda text: text.replace(".", ","), "points3D"),
    ),
    "two-poses": (
        "E_SCENE_IMAGES",
        "two poses each: 'sub dir/v2.png'",
        changed(lambda m: setattr(m.images[3], "name", "sub dir/v2.png")),
    ),
    "other-extension": (
        "E_SCENE_IMAGES",
        "another extension: V2.PNG for sub dir/v2.jpg",
        lambda root: (
            (root / PHOTO).rename(root / "images/sub dir/V2.PNG"),
            texts(lambda text: text.replace("v2.png", "v2.jpg"), "images")(root),
        )[1],
    ),
    "points-as-ply": (
        "E_SCENE_LAYOUT",
        "found: sparse/0/cameras.bin, sparse/0/images.bin, sparse/0/points3D.ply",
        lambda root: (
            (root / "sparse/0/points3D.bin").rename(root / "sparse/0/points3D.ply") and None
        ),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_refused_with_what_helps(tmp_path: Path, kind: str) -> None:
    code, reason, change = REFUSED[kind]
    change(make_scene(tmp_path))
    with pytest.raises(TrainerError) as e:
        load(tmp_path)
    assert e.value.code == code
    assert re.search(reason, f"{e.value} {e.value.detail}"), e.value.text()


def test_photographs_of_another_place_are_refused(tmp_path: Path) -> None:
    """Names say nothing of what is in the files; the model's colours do."""
    root = make_scene(tmp_path)
    for path in (root / "images").rglob("*.png"):
        image = Image.open(path).resize((4 * SIZE[0], 4 * SIZE[1]))
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    scene, photos = opened(root)
    with pytest.raises(TrainerError, match="shows something else"):
        consistency.checked(scene, photos)


def masked(root: Path, how: str) -> None:
    """The right third of each photograph is loud green, and masked."""
    for path in sorted((root / "images").rglob("*.png")):
        pixels = np.array(Image.open(path).convert("RGBA"))
        edge = pixels.shape[1] * 2 // 3
        pixels[:, edge:, :3] = 0, 255, 0
        kept = np.full(pixels.shape[:2], 255, np.uint8)
        kept[:, edge:] = 0
        if how == "alpha":
            pixels[..., 3] = kept
        else:
            name = path.relative_to(root / "images")
            name = name.with_suffix(".png") if how == "stem" else Path(f"{name}.png")
            (root / "masks" / name.parent).mkdir(parents=True, exist_ok=True)
            Image.fromarray(kept).save(root / "masks" / name)
        Image.fromarray(pixels if how == "alpha" else pixels[..., :3]).save(path)


@pytest.mark.parametrize("how", ["alpha", "colmap", "stem"])
def test_masked_pixels_take_no_part(tmp_path: Path, how: str) -> None:
    """Not in the loss, in no window of SSIM that touches them, in no figure."""
    base = make_job(tmp_path, **SHORT)
    masked(base / "input/data/training", how)
    photos = load(base / "input/data/training")
    edge = SIZE[0] * 2 // 3
    for photo in photos:
        assert photo.mask is not None
        assert not photo.mask[:, edge:].any()
        assert (photo.mask[:, : edge - 1] & masks.COUNTS).all()
        half = masks.WINDOW // 2
        assert (photo.mask[half:-half, half : edge - half] & masks.WINDOW_COUNTS).all()
        assert not (photo.mask[:, edge - half :] & masks.WINDOW_COUNTS).any()
    assert run(base) == 0
    assert metrics(base)["masked"] == pytest.approx(1 / 3, abs=0.02)
    assert min(view["psnr"] for view in metrics(base)["views"]) > 18
    base = make_job(tmp_path / "without", masks="ignore", **SHORT)
    masked(base / "input/data/training", how)
    assert run(base) == 0
    assert metrics(base)["masked"] == 0


@pytest.mark.parametrize("how", ["alpha", "colmap"])
def test_a_mask_is_turned_with_its_photograph(tmp_path: Path, how: str) -> None:
    """Stored lying on its side with the EXIF tag that says so: the mask is stored so too."""
    masked(make_scene(tmp_path), how)
    photo = tmp_path / PHOTO
    turn = Image.Transpose.ROTATE_270
    Image.open(photo).transpose(turn).save(photo, exif=EXIF)
    if how == "colmap":
        mask = tmp_path / "masks/sub dir/v2.png.png"
        Image.open(mask).transpose(turn).save(mask)
    turned, plain = (load(tmp_path)[k].mask for k in (1, 0))
    assert turned is not None
    assert plain is not None
    assert np.array_equal(turned, plain)


@pytest.mark.parametrize("by", [2, 3])
def test_a_reduced_mask_leaves_out_all_that_was_left_out(by: int) -> None:
    kept = np.full((61, 74), 255, np.uint8)
    kept[:, 50:] = 0
    kept[20, 20] = 0
    whole = rasterise.reduced_mask(torch.from_numpy(masks.bits(Image.fromarray(kept))), by)
    height, width = 61 // by, 74 // by
    small = kept[: height * by, : width * by].reshape(height, by, width, by).min((1, 3))
    assert torch.equal(whole, torch.from_numpy(masks.bits(Image.fromarray(small))))


def test_no_gradient_comes_from_masked_pixels() -> None:
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(40, 50, 3, generator=draw, requires_grad=True)
    photo = torch.rand(40, 50, 3, generator=draw)
    kept = np.full((40, 50), 255, np.uint8)
    kept[:, 30:] = 0
    mask = torch.from_numpy(masks.bits(Image.fromarray(kept)))
    loss.photometric(image, photo, mask).backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert not image.grad[:, 30:].any()
    assert image.grad[:, :30].all()
    other = photo.clone()
    other[:, 30:] = 0
    for figure in (loss.photometric, loss.mse, loss.ssim):
        assert torch.equal(figure(image, photo, mask), figure(image, other, mask))
