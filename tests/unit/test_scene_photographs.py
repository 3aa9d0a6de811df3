"""Photographs against the model: those of something else are named, another light passes."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splatgate.sagemaker.variants import as_text
from splatgate.scene.colmap import read_scene
from splatgate.scene.judge import judge_scene
from splatgate.scene.photos import counted

SCENES = Path(__file__).parents[1] / "scenes"


@pytest.fixture
def beach(tmp_path):
    """A copy of a real scene: what photographs show cannot be told on planted ones."""
    return shutil.copytree(SCENES / "brighton_beach", tmp_path / "beach")


def photographs(scene):
    return sorted((scene / "images").iterdir())


def exchanged(scene, by):
    """Every photograph under the name of the one ``by`` further on."""
    paths = photographs(scene)
    content = [path.read_bytes() for path in paths]
    for path, other in zip(paths, content[by:] + content[:by], strict=True):
        path.write_bytes(other)


def foreign(scene):
    others = photographs(SCENES / "banana")
    for path, other in zip(photographs(scene), others * 2, strict=False):
        Image.open(other).resize((776, 435)).save(path)


def two_exchanged(scene):
    first, *_, last = photographs(scene)
    content = first.read_bytes()
    first.write_bytes(last.read_bytes())
    last.write_bytes(content)


def mirrored(scene):
    for path in photographs(scene):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)


def blank(scene):
    for path in photographs(scene)[4:6]:
        Image.new("RGB", (776, 435), "grey").save(path)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda scene: exchanged(scene, 1), 18),
        (lambda scene: exchanged(scene, 9), 18),
        (foreign, 18),
        (two_exchanged, 2),
        (mirrored, 18),
        (blank, 2),
    ],
    ids=["next", "half", "foreign", "two", "mirrored", "blank"],
)
def test_photographs_of_something_else_are_named(beach, change, count):
    change(beach)
    verdict = judge_scene(beach)
    assert [finding.code for finding in verdict.findings] == ["photos-disagree"]
    assert f"{count} of 18 photographs show something else" in verdict.reason


@pytest.mark.parametrize("by", [0, 1], ids=["own", "next"])
def test_images_of_few_observations_are_asked_together(beach, by):
    """Twenty observations an image tell nothing, and 360 do."""
    path = as_text(beach) / "images.txt"
    lines = path.read_text().splitlines()
    words = [line.split() for line in lines[1::2]]
    rows = [[row[i : i + 3] for i in range(0, len(row), 3) if row[i + 2] != "-1"] for row in words]
    often = Counter(row[2] for image in rows for row in image)
    for number, image in enumerate(rows):
        few = sorted(image, key=lambda row: -often[row[2]])[:20]
        lines[2 * number + 1] = " ".join(word for row in few for word in row)
    path.write_text("".join(f"{line}\n" for line in lines))
    exchanged(beach, by)
    found = judge_scene(beach)
    assert found.code == ("photos-disagree" if by else ""), found.reason


def exposed(scene):
    """Light changes from photograph to photograph, and the last ones are without colour."""
    for number, path in enumerate(photographs(scene)):
        image = Image.open(path).point(lambda value, gain=0.4 + number / 12: int(value * gain))
        (image.convert("L") if number > 12 else image).save(path)


def reduced(scene):
    for path in photographs(scene):
        Image.open(path).reduce(4).save(path)


def recolour(scene, colour):
    path = as_text(scene) / "points3D.txt"
    lines = (line.split() for line in path.read_text().splitlines())
    path.write_text("".join(f"{' '.join([*w[:4], *colour(), *w[7:]])}\n" for w in lines))


def without_colours(scene):
    recolour(scene, lambda: "000")


def made_up_colours(scene):
    draw = np.random.default_rng(0)
    recolour(scene, lambda: map(str, draw.integers(0, 256, 3)))


@pytest.mark.parametrize("change", [exposed, reduced, without_colours, made_up_colours])
def test_photographs_in_another_light_pass(beach, change):
    change(beach)
    verdict = judge_scene(beach)
    assert verdict.ok, verdict.reason


@pytest.mark.parametrize("how", ["alpha", "file"])
def test_a_mask_is_turned_with_its_photograph(beach, how):
    """Stored lying on its side with the EXIF tag that says so: the mask is stored so too."""
    view = read_scene(beach).views[0]
    image = Image.open(view.photo).convert("RGB")
    left_out = Image.new("L", image.size, 255)
    left_out.paste(0, (0, 0, image.width // 4, image.height))
    tag = Image.Exif()
    tag[0x0112] = 8  # shown turned by 90 degrees counter-clockwise
    if how == "alpha":
        image.putalpha(left_out)
    else:
        (beach / "masks").mkdir()
        mask = left_out.transpose(Image.Transpose.ROTATE_270)
        mask.save(beach / "masks" / f"{view.name}.png")
    # Pillow tells a format by the content, as every reader here does.
    stored = image.transpose(Image.Transpose.ROTATE_270)
    stored.save(view.photo, "PNG", exif=tag)
    pixels, _ = counted(read_scene(beach).views[0], view.width, view.height)
    assert not pixels[:, : view.width // 4].any()
    assert pixels[:, view.width // 4 + 1 :].all()
