"""A scene as the SfM stage hands it over: a COLMAP model, binary or text, and its photographs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from splatgate.evidence import BadInput
from splatgate.scene.colmap_files import MODELS, PARTS, Unsound, open_files

Array = npt.NDArray[Any]

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
        return read_model(root, *_find_model(root))
    except OSError as error:
        where = error.filename or path
        raise BadInput(f"{where}: {error.strerror}; make the scene readable") from None


def read_model(path: Path, model: Path, suffix: str) -> Scene:
    """Read the files of ``model`` that end in ``suffix``; raises as `read_scene` does, or
    OSError.
    """
    files = open_files(model, suffix)
    rows = list(files.cameras())
    cameras = {row[0]: Camera(*row) for row in rows}
    views = []
    for image, name, pose, camera, keypoints in files.images():
        if camera not in cameras:
            which = f"{model / 'images'}{suffix}: {name} names camera {camera}, which is not in"
            raise Unsound("broken-model", f"{which} cameras{suffix}; export them together")
        views.append(_view(path, image, name, pose, cameras[camera], keypoints))
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


def _view(path: Path, image: int, name: str, pose: Array, camera: Camera, keypoints: Array) -> View:
    photo = path / "images" / name if safe_name(name) else None
    own = keypoints[(keypoints[:, 2] >= 0) & (keypoints[:, 2] < 2**62)]
    return View(
        name=name,
        width=camera.width,
        height=camera.height,
        K=camera.K,
        R=rotations(pose[None, :4])[0],
        t=pose[4:7],
        photo=photo if photo and photo.is_file() else None,
        camera_id=camera.id,
        xy=own[:, :2],
        point_ids=own[:, 2].astype(np.int64),
        norm=float(np.linalg.norm(pose[:4])),
        id=image,
    )


def safe_name(name: str) -> bool:
    """Whether an image's name stays inside ``images/``."""
    return bool(name) and name[0] != "/" and ".." not in name.split("/") and "\0" not in name


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
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    nested = len(entries) == 1 and (entries[0] / "sparse").is_dir()
    return entries[0] if nested else path


def _find_model(path: Path) -> tuple[Path, str]:
    for folder in (path / "sparse" / "0", path / "sparse"):
        for suffix in (".bin", ".txt"):
            if all((folder / f"{part}{suffix}").is_file() for part in PARTS):
                return folder, suffix
    parts = {f"{part}{suffix}" for part in PARTS for suffix in (".bin", ".txt")}
    near = sorted(
        found.relative_to(path).as_posix()
        for depth in range(4)
        for found in path.glob("*/" * depth + "*")
        if found.name in parts
    )
    if near:
        found = f"found only {', '.join(near[:6])}; complete them or move them there"
    else:
        names = sorted(entry.name for entry in path.iterdir())
        found = (
            f"found {', '.join(names[:6]) or 'nothing'}; hand over the SfM stage's sparse folder"
        )
    expected = "expected sparse/0/{cameras,images,points3D}.bin or .txt"
    raise Unsound("missing-model", f"{path}: {expected}, {found}")
