"""Variants of a sound scene: what a job must refuse, and what it must accept.

Each is a way in which an SfM stage really handed over its work. The model is rewritten as text, so
that an edit is an edit of lines; `REFUSED` says by which code `splatgate.scene.judge` knows it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from splatgate.evidence import BadInput
from splatgate.sagemaker import audit
from splatgate.scene.colmap import read_scene
from splatgate.scene.colmap_files import PARTS, open_files

#: Variant to refuse → the scene judge's code for it.
REFUSED = {
    "no-model": "missing-model",
    "no-photos": "missing-images-folder",
    "cut-model": "broken-model",
    "no-focal-length": "bad-camera",
    "no-points": "no-points",
    "extension-twice": "missing-photos",
    "photo-cut": "unreadable-photo",
    "other-photos": "photo-size",
    "archive-cut": "broken-archive",
}
#: A folder and a name as drones and people make them: spaces, other letter case.
_FOLDER, _SUFFIX = "Flight 1", ".JPG"


def make(scene: Path, name: str, folder: Path) -> None:
    """Write the variant ``name`` of a scene to ``folder``, whole or not at all.

    Raises:
        BadInput: no such variant.
    """
    if name not in _MAKERS:
        raise BadInput(f"no variant {name!r} of a scene; one of {', '.join(_MAKERS)}")
    work = folder.with_name(f".{folder.name}")
    shutil.rmtree(work, ignore_errors=True)
    if name == "empty":
        work.mkdir(parents=True)
    else:
        shutil.copytree(scene, work)
        _MAKERS[name](work)
    work.rename(folder)


def as_text(scene: Path) -> Path:
    """Rewrite a scene's model as COLMAP's text files, without a comment; returns its folder.

    Tracks are made from the images' own observations; a point's error is written as 0.
    """
    found = read_scene(scene)
    suffix = ".bin" if (found.model / "points3D.bin").exists() else ".txt"
    files = open_files(found.model, suffix)
    cameras = [
        f"{number} {model} {width} {height} {_joined(parameters)}"
        for number, model, width, height, parameters in files.cameras()
    ]
    tracks: dict[int, list[str]] = {}
    images = []
    for number, (_, name, pose, camera, keypoints) in enumerate(files.images(), 1):
        images.append(f"{number} {_joined(pose)} {camera} {name}")
        images.append(" ".join(f"{x!r} {y!r} {int(point)}" for x, y, point in keypoints.tolist()))
        for index, point in enumerate(keypoints[:, 2].astype(int).tolist()):
            tracks.setdefault(point, []).append(f"{number} {index}")
    points = [
        f"{point} {_joined(xyz)} {' '.join(map(str, rgb))} 0 {' '.join(tracks.get(point, []))}"
        for point, xyz, rgb in zip(
            found.point_ids.tolist(),
            found.points_xyz.tolist(),
            found.points_rgb.tolist(),
            strict=True,
        )
    ]
    for part, lines in zip(PARTS, (cameras, images, points), strict=True):
        (found.model / f"{part}.bin").unlink(missing_ok=True)
        (found.model / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
    return found.model


def _joined(numbers: object) -> str:
    return " ".join(repr(float(number)) for number in numbers)  # type: ignore[attr-defined]


def _photos(scene: Path) -> list[Path]:
    """The registered photographs, in byte order of their names."""
    return [view.photo for view in read_scene(scene).views if view.photo]


def _edit(scene: Path, part: str, change: Callable[[list[str]], list[str]]) -> None:
    path = as_text(scene) / f"{part}.txt"
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


def _no_model(scene: Path) -> None:
    shutil.rmtree(scene / "sparse")


def _no_photos(scene: Path) -> None:
    shutil.rmtree(scene / "images")


def _cut_model(scene: Path) -> None:
    found = read_scene(scene)
    path = next(p for p in sorted(found.model.glob("points3D.*")) if p.suffix in (".bin", ".txt"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].rstrip())


def _no_focal_length(scene: Path) -> None:
    def change(lines: list[str]) -> list[str]:
        words = (line.split() for line in lines)
        return [
            " ".join([*w[:4], "0", *(["0"] if w[1] == "PINHOLE" else []), *w[6:]]) for w in words
        ]

    _edit(scene, "cameras", change)


def _no_points(scene: Path) -> None:
    _edit(scene, "points3D", lambda lines: [])
    path = read_scene(scene).model / "images.txt"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" if n % 2 == 0 else "\n" for n, line in enumerate(lines)))


def _extension_twice(scene: Path) -> None:
    for photo in _photos(scene):
        photo.rename(photo.with_name(photo.name + photo.suffix))


def _photo_cut(scene: Path) -> None:
    for photo in _photos(scene)[1::4]:
        data = photo.read_bytes()
        photo.write_bytes(data[: len(data) // 3])


def _other_photos(scene: Path) -> None:
    from PIL import Image

    for photo in _photos(scene):
        with Image.open(photo) as image:
            side = min(image.size)
            square = image.convert("RGB").crop((0, 0, side, side))
        square.save(photo, format="PNG" if photo.suffix.lower() == ".png" else "JPEG")


def _archive_cut(scene: Path) -> None:
    packed = Path(shutil.make_archive(str(scene.with_name(f"{scene.name}-packed")), "tar", scene))
    data = packed.read_bytes()
    packed.unlink()
    shutil.rmtree(scene)
    scene.mkdir()
    (scene / "scene.tar").write_bytes(data[: len(data) * 2 // 3])


def _oddities(scene: Path) -> None:
    """All that is legal and was once refused, in one hand-over (K31, K35 and their like)."""
    photos = _photos(scene)
    names = [photo.relative_to(scene / "images").as_posix() for photo in photos]
    new = {name: f"{_FOLDER}/{Path(name).stem}{_SUFFIX}" for name in names}

    def change(lines: list[str]) -> list[str]:
        return [" ".join([*w[:9], new.get(w[9], w[9])]) if len(w) == 10 else line
                for n, line in enumerate(lines)
                for w in [line.split(maxsplit=9) if n % 2 == 0 else []]]  # fmt: skip

    _edit(scene, "images", change)
    model = read_scene(scene).model
    for name, photo in zip(names, photos, strict=True):
        target = scene / "images" / new[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        photo.rename(target)
    if model.name == "0":
        for path in sorted(model.iterdir()):
            path.rename(model.parent / path.name)
        model.rmdir()
    (scene / "sfm_metadata.json").write_text('{"status": "completed"}\n')
    (scene / "images" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (scene / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    shutil.copyfile(scene / "images" / new[names[0]], scene / "images" / "not registered.jpg")


def _shuffled(scene: Path) -> None:
    """Each photograph under the name of one half the flight away, in a model without tracks.

    By tracks a trainer may see that photographs are not those of the model, and refuse them: that
    would not tell whether it learns from them.
    """
    photos = _photos(scene)
    content, half = [photo.read_bytes() for photo in photos], len(photos) // 2
    for photo, other in zip(photos, content[half:] + content[:half], strict=True):
        photo.write_bytes(other)
    model = as_text(scene)
    for part, change in (
        ("images", lambda lines: [x for line in lines[::2] for x in (line, "")]),
        ("points3D", lambda lines: [" ".join(line.split()[:8]) for line in lines]),
    ):
        path = model / f"{part}.txt"
        path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


def _audited(scene: Path) -> None:
    """The scene, and in a folder of no meaning the hook that hears what an interpreter does."""
    (scene / audit.FOLDER).mkdir()
    shutil.copyfile(audit.HOOK, scene / audit.FOLDER / "sitecustomize.py")


_MAKERS: dict[str, Callable[[Path], None]] = {
    "empty": lambda scene: None,
    "no-model": _no_model,
    "no-photos": _no_photos,
    "cut-model": _cut_model,
    "no-focal-length": _no_focal_length,
    "no-points": _no_points,
    "extension-twice": _extension_twice,
    "photo-cut": _photo_cut,
    "other-photos": _other_photos,
    "archive-cut": _archive_cut,
    "oddities": _oddities,
    "shuffled": _shuffled,
    "audited": _audited,
}
