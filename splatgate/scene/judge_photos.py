"""The photographs of a scene: there, whole, of their cameras' shape, and what the model saw?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from splatgate.scene import photo_consistency
from splatgate.scene.colmap import UNREADABLE, Array, Scene, View, below, safe_name, whole
from splatgate.scene.finding import MAX_MISSING, Finding, few
from splatgate.scene.photos import NEAREST, kept, same_shape, upright

#: The EXIF tag of the orientation, and its values that swap width and height.
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)


@dataclass
class Photos:
    """What the photographs showed: findings that are too few to be unsound, and other notes."""

    resized: list[str] = field(default_factory=list)
    masked: list[str] = field(default_factory=list)
    #: Views without the keypoints that lie where nothing counts, and what is seen at the others.
    views: dict[str, View] = field(default_factory=dict)
    seen: dict[str, Array] = field(default_factory=dict)
    few: list[Finding] = field(default_factory=list)

    def of(self, scene: Scene) -> Scene:
        """The scene with the views that were looked at."""
        return replace(scene, views=tuple(self.views.get(v.name, v) for v in scene.views))


def judge_photos(scene: Scene, photos: Photos, say: Callable[[str], None]) -> Iterator[Finding]:
    """What is wrong with the photographs; where that is few of them, a note of ``photos``."""
    folder = below(scene.path, "images")
    if folder is None:
        there = ", ".join(sorted(entry.name for entry in scene.path.iterdir())[:6])
        what = f"no images folder, found {there}"
        yield Finding("missing-images-folder", f"{scene.path}: {what}; hand over the photographs")
        return
    for names, finding in _odd_photos(scene, folder, photos, say):
        odd_ones = len(names) <= MAX_MISSING * len(scene.views)
        if odd_ones and finding.code != "photo-size":
            photos.few.append(finding)
        else:
            yield finding


def _odd_photos(
    scene: Scene, folder: Path, photos: Photos, say: Callable[[str], None]
) -> Iterator[tuple[list[str], Finding]]:
    if missing := [v.name for v in scene.views if v.photo is None and safe_name(v.name)]:
        what = f"{len(missing)} of {len(scene.views)} registered photographs are missing"
        reason = f"{folder}: {what}: {few(missing)}; {_hint(folder, missing)}"
        yield missing, Finding("missing-photos", reason)
    broken: list[str] = []
    odd: list[str] = []
    seen = photos.seen
    present = [view for view in scene.views if view.photo is not None]
    for number, view in enumerate(present, 1):
        if number % 25 == 0:
            say(f"photograph {number} of {len(present)}")
        try:
            size = _decoded(view, photos)
        except UNREADABLE as error:
            broken.append(f"{view.name} ({error})")
            continue
        if size != (view.width, view.height):
            text = f"{view.name} is {size[0]}x{size[1]}, its camera {view.width}x{view.height}"
            (photos.resized if same_shape(size, view) else odd).append(text)
    if broken:
        what = f"{len(broken)} photographs cannot be decoded: {few(broken)}"
        yield broken, Finding("unreadable-photo", f"{folder}: {what}; copy them again")
    if odd:
        what = f"{len(odd)} photographs have another shape than their cameras: {few(odd)}"
        yield odd, Finding("photo-size", f"{folder}: {what}; hand over the images that were solved")
    if len({view.name for view in scene.views}) < len(scene.views):
        seen.clear()  # two poses of one name, which is told by that
    if strange := photo_consistency.strangers(photos.of(scene), seen):
        what = f"{len(strange)} of {len(seen)} photographs show something else than the model saw"
        remedy = "hand over the images that were solved, each under its own name"
        yield strange, Finding("photos-disagree", f"{folder}: {what}: {few(strange)}; {remedy}")


def _decoded(view: View, photos: Photos) -> tuple[int, int]:
    """Size in pixels as the camera saw it, and into ``photos`` what the photograph shows where the
    model looked. Every byte is read, so that a cut file is found.
    """
    assert view.photo is not None
    with Image.open(view.photo) as image:
        size = whole(image, view).size
        # A JPEG is read to its end, several times faster, when decoded at a part of its size.
        part = photo_consistency.LOOK / max(size)
        image.draft("RGB", (max(int(size[0] * part), 1), max(int(size[1] * part), 1)))
        image.load()
        if not same_shape(size, view) and image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS:
            size = (size[1], size[0])
        if same_shape(size, view) and len(view.xy):
            view = photos.views[view.name] = _counting(view, photos.masked)
            photos.seen[view.name] = photo_consistency.brightness(upright(image, view), view)
    return size


def _counting(view: View, masked: list[str]) -> View:
    """The view without keypoints that its mask leaves out."""
    mask = kept(view)
    if mask is None:
        return view
    masked.append(view.name)
    mask = mask.resize((view.width, view.height), NEAREST)
    with np.errstate(invalid="ignore"):
        at = np.nan_to_num(view.xy).clip(0, [view.width - 1, view.height - 1]).astype(int)
    own = np.asarray(mask)[at[:, 1], at[:, 0]] > 0
    return replace(view, xy=view.xy[own], point_ids=view.point_ids[own])


def _hint(folder: Path, missing: list[str]) -> str:
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    folded = {name.lower(): name for name in there}
    based = {name.rpartition("/")[2]: name for name in there}
    for name in missing:
        extension = "." + name.rpartition(".")[2]
        base = name.rpartition("/")[2]
        if twice := folded.get((name + extension).lower()):
            return f"the files have their extension twice ({twice}); rename them"
        if (once := name.removesuffix(extension)) in there:
            return f"the model has the extension twice (the file is {once}); rename the files"
        if base in based:
            return f"found {based[base]} in another folder; keep the folders of the SfM stage"
        stem = base.rpartition(".")[0].lower()
        if stem and (other := next((t for t in there if Path(t).stem.lower() == stem), "")):
            return f"the files have another extension: {other} for {name}; rename them"
    return f"the folder has {len(there)} files; hand over the images that were solved"
