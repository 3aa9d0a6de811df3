"""A scene as the SfM stage hands it over: a COLMAP model, binary or text, and its photographs."""

from __future__ import annotations

import contextlib
import dataclasses
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from splatgate.evidence import BadInput
from splatgate.scene.colmap_files import MODELS, PARTS, Unsound, count_images, open_files

Array = npt.NDArray[Any]

#: What Pillow raises for a file that is no sound photograph.
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
#: Pixels that a photograph may have although its camera has not a quarter as many.
_ANY_SIZE = 2**26
# Pillow's own limit refuses large aerial cameras; a photograph is held against its camera instead.
Image.MAX_IMAGE_PIXELS = None
#: Models whose parameters begin ``f cx cy``; those of the others begin ``fx fy cx cy``.
_ONE_FOCAL = {name for name in MODELS if name.startswith(("SIMPLE", "RADIAL"))}
#: Projections that no pinhole matrix approximates, even with their parameters at zero.
_NOT_PINHOLE = {"FOV", "EUCM", "EQUIRECTANGULAR", *(name for name in MODELS if "FISHEYE" in name)}


@dataclass(frozen=True)
class Camera:
    """One camera: model, size in pixels, COLMAP's parameters (focal lengths and centre first)."""

    id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]

    @property
    def K(self) -> npt.NDArray[np.float64]:
        """The pinhole part [3,3]; not a number where the model has none (``EQUIRECTANGULAR``)."""
        if self.model == "EQUIRECTANGULAR":
            return np.full((3, 3), np.nan)
        one = self.model in _ONE_FOCAL
        fx, fy, cx, cy = (self.params[0], *self.params[:3]) if one else self.params[:4]
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)

    @property
    def pinhole(self) -> bool:
        """Whether ``K`` says all there is: no distortion, or all of its parameters are zero."""
        distortion = self.params[3 if self.model in _ONE_FOCAL else 4 :]
        return self.model not in _NOT_PINHOLE and not any(distortion)


@dataclass(frozen=True, eq=False)
class View:
    """One registered image and its camera.

    ``x_camera = R x_world + t`` with OpenCV axes (x right, y down, z forward); ``K`` [3,3] in
    pixels. ``photo`` is None where the file is missing. ``xy`` [n,2] px and ``point_ids`` [n] are
    the keypoints that belong to a point. ``norm`` is the length of the stored quaternion, 1 in a
    sound model.
    """

    name: str
    width: int
    height: int
    K: npt.NDArray[np.float64]
    R: npt.NDArray[np.float64]
    t: npt.NDArray[np.float64]
    photo: Path | None = None
    camera_id: int = 0
    xy: Array = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    point_ids: Array = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    norm: float = 1.0
    id: int = 0
    #: What is white in 16-bit photographs of the scene.
    white: int = 2**16 - 1

    @property
    def centre(self) -> npt.NDArray[np.float64]:
        """The camera's position [3] in the world."""
        return -self.R.T @ self.t

    def resized(self, width: int, height: int) -> View:
        """The view of the photograph resized to ``width`` x ``height``; ``K`` follows per axis."""
        scale = np.array([[width / self.width], [height / self.height], [1.0]])
        return dataclasses.replace(self, width=width, height=height, K=self.K * scale)


@dataclass(frozen=True, eq=False)
class Scene:
    """A COLMAP model. Views are in byte order of their names; points are in the order of the file.

    ``points_xyz`` [n,3] float64 world units, ``points_rgb`` [n,3] uint8, ``point_ids`` [n],
    ``track_lengths`` [n] (observations of each point), ``model`` the folder whose files ending in
    ``suffix`` were read.
    """

    path: Path
    model: Path
    cameras: tuple[Camera, ...]
    views: tuple[View, ...]
    points_xyz: npt.NDArray[np.float64]
    points_rgb: npt.NDArray[np.uint8]
    point_ids: Array
    track_lengths: Array
    suffix: str = ".bin"
    #: Other models of the scene, and how many images each has: the largest was read.
    others: tuple[tuple[Path, int], ...] = ()

    def about(self, origin: tuple[float, float, float]) -> Scene:
        """The scene in coordinates whose origin lies at ``origin`` of its own."""
        if not any(origin):
            return self
        at = np.array(origin)
        views = tuple(dataclasses.replace(view, t=view.t + view.R @ at) for view in self.views)
        return dataclasses.replace(self, views=views, points_xyz=self.points_xyz - at)

    def view(self, name: str) -> View:
        """The view of the photograph ``name``.

        Raises:
            BadInput: the scene has no such view.
        """
        for view in self.views:
            if view.name == name:
                return view
        raise BadInput(
            f"{self.path}: no image {name!r} in {self.model.name}; name a registered one"
        )


def load_scene(path: Path) -> Scene:
    """Read the model below ``path`` (``sparse/0`` or ``sparse``); its photographs are not opened.

    Raises:
        BadInput: no such folder, or no readable model in it.
    """
    try:
        return read_scene(path)
    except Unsound as error:
        raise BadInput(str(error)) from None


def read_scene(path: Path) -> Scene:
    """Read as `load_scene` does, but say what is unsound by a code.

    Raises:
        BadInput: ``path`` is no readable folder.
        Unsound: ``missing-model`` or ``broken-model``.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise BadInput(f"{path}: {what}; give the folder that holds sparse/0 and images")
    try:
        root = _root(path)
        (model, suffix), others = _find_model(root)
        scene = read_model(root, model, suffix)
        white = _white(scene.views)
        views = tuple(dataclasses.replace(view, white=white) for view in scene.views)
        return dataclasses.replace(scene, others=others, views=views)
    except OSError as error:
        where = error.filename or path
        raise BadInput(f"{where}: {error.strerror}; make the scene readable") from None


def whole(image: Image.Image, view: View) -> Image.Image:
    """``image`` if it is no giant beside its camera: a header may be damaged, or lie.

    Raises:
        ValueError: it is.
    """
    if image.width * image.height > max(_ANY_SIZE, 4 * view.width * view.height):
        size = f"{image.width}x{image.height}"
        raise ValueError(f"{size}, far larger than its camera's {view.width}x{view.height}")
    return image


def _white(views: Iterable[View]) -> int:
    """White of 16-bit photographs: the full value of the bits that all of them use, as 4095.

    Cameras write 10, 12 or 14 bits into 16; one range for all keeps their brightness comparable.
    """
    most = 0
    for view in views:
        with contextlib.suppress(*UNREADABLE):
            if view.photo:
                with Image.open(view.photo) as image:
                    if image.mode.startswith("I"):
                        most = max(most, int(np.asarray(whole(image, view)).max()))
    return int(2 ** max(8, most.bit_length()) - 1) if most else 2**16 - 1


def read_model(path: Path, model: Path, suffix: str) -> Scene:
    """Read the files of ``model`` that end in ``suffix``; raises as `read_scene` does, or
    OSError.
    """
    files = open_files(model, suffix)
    rows = list(files.cameras())
    cameras = {row[0]: Camera(*row) for row in rows}
    photos = _index(below(path, "images") or path / "images")
    views = []
    for image, name, pose, camera, keypoints in files.images():
        if camera not in cameras:
            which = f"{model / 'images'}{suffix}: {name} names camera {camera}, which is not in"
            raise Unsound("broken-model", f"{which} cameras{suffix}; export them together")
        views.append(_view(photos, image, name, pose, cameras[camera], keypoints))
    ids, xyz, rgb, lengths = files.points()
    for part, count, known in (
        ("cameras", len(rows), len(cameras)),
        ("images", len(views), len({view.id for view in views})),
        ("points3D", len(ids), len(np.unique(ids))),
    ):
        if known != count:
            which = f"{model / part}{suffix}: {count - known} of {count} ids are there twice"
            raise Unsound("broken-model", f"{which}; export the model again and copy it whole")
    views.sort(key=lambda view: view.name.encode())
    return Scene(path, model, tuple(cameras.values()), tuple(views), xyz, rgb, ids, lengths, suffix)


def _index(folder: Path) -> dict[str, Path]:
    """Photographs below a folder by their names as written, and by `_folded` ones."""
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {_folded(name): path for name, path in found.items()} | found


def _folded(name: str) -> str:
    """A name without regard to case, and to how its accents are written: macOS parts them."""
    return unicodedata.normalize("NFC", name).casefold()


def _view(
    photos: dict[str, Path], image: int, name: str, pose: Array, camera: Camera, keypoints: Array
) -> View:
    plain = name.replace("\\", "/")
    photo = photos.get(plain) or photos.get(_folded(plain)) if safe_name(name) else None
    own = keypoints[(keypoints[:, 2] >= 0) & (keypoints[:, 2] < 2**62)]
    return View(
        name=name,
        width=camera.width,
        height=camera.height,
        K=camera.K,
        R=rotations(pose[None, :4])[0],
        t=pose[4:7],
        photo=photo,
        camera_id=camera.id,
        xy=own[:, :2],
        point_ids=own[:, 2].astype(np.int64),
        norm=float(np.linalg.norm(pose[:4])),
        id=image,
    )


def safe_name(name: str) -> bool:
    """Whether an image's name stays inside ``images/``; Windows separates by a backslash."""
    parts = name.replace("\\", "/").split("/")
    return bool(name) and bool(parts[0]) and ".." not in parts and "\0" not in name


def rotations(quats: Array) -> npt.NDArray[np.float64]:
    """Rotation matrices [n,3,3] of quaternions [n,4], w first, of any length; identity for zero."""
    q = quats.astype(np.float64)
    w, x, y, z = (q / np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-12)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows, np.float64), 2, 0)


def _root(path: Path) -> Path:
    """``path``, or the only folder in it where that holds the scene, as packers nest it."""
    entries = [e for e in path.iterdir() if not e.name.startswith((".", "__MACOSX"))]
    nested = len(entries) == 1 and entries[0].is_dir() and below(entries[0], "sparse")
    return entries[0] if nested else path


def below(path: Path, name: str) -> Path | None:
    """A folder of ``path``, whatever its letter case."""
    found = [entry for entry in path.iterdir() if entry.name.lower() == name and entry.is_dir()]
    return min(found, key=lambda entry: entry.name != name) if found else None


def _find_model(path: Path) -> tuple[tuple[Path, str], tuple[tuple[Path, int], ...]]:
    """Folder and suffix of the model of most images, and the other models with their images."""
    sparse = below(path, "sparse")
    folders = [*sorted(p for p in sparse.iterdir() if p.is_dir()), sparse] if sparse else []
    models: dict[Path, tuple[str, int]] = {}
    for folder in folders:
        there = {p.name.lower(): p for p in sorted(folder.iterdir(), reverse=True) if p.is_file()}
        for suffix in (".txt", ".bin"):
            if all(f"{part}{suffix}".lower() in there for part in PARTS):
                models[folder] = suffix, count_images(there[f"images{suffix}"])
    if models:
        best = max(models, key=lambda folder: models[folder][1])
        others = tuple((f, count) for f, (_, count) in models.items() if f != best)
        return (best, models[best][0]), others
    expected = "expected sparse/0/{cameras,images,points3D}.bin or .txt"
    raise Unsound("missing-model", f"{path}: {expected}, {_inventory(path)}")


def _inventory(path: Path) -> str:
    """What a folder holds: what may have been meant as a model by name, the rest by kind."""
    files = [p for p in sorted(path.rglob("*")) if p.is_file()]
    stems = {part.lower() for part in PARTS}
    near = [p.relative_to(path).as_posix() for p in files if p.stem.lower() in stems]
    if near:
        return f"found only {', '.join(near[:6])}; complete them or move them there"
    names = sorted(entry.name for entry in path.iterdir())
    return f"found {', '.join(names[:6]) or 'nothing'}; hand over the SfM stage's sparse folder"
