"""The COLMAP model: read through pycolmap, judged before any GPU time is spent."""

from __future__ import annotations

import hashlib
import math
import struct
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycolmap

from trainer import log
from trainer.channel import MODEL, Layout
from trainer.errors import TrainerError

Array = npt.NDArray[Any]

MIN_IMAGES = 3
MIN_POINTS = 100
MIN_OBSERVATIONS = 300
#: Float32, which the .ply is written in, resolves about 1 part in 1.7e7; beyond this ratio of
#: offset to extent, details are coarser than a thousandth of the scene.
MAX_OFFSET = 1e4
#: From this ratio on (map coordinates), steps of training would be lost in rounding: it happens
#: about an origin of its own.
LOCAL_OFFSET = 100.0
#: A camera this many times as far out as most is one that SfM has lost.
LOST = 20.0
#: Renderers draw nothing nearer than 0.01; most of the scene has to lie well beyond.
MIN_DISTANCE = 0.05
#: Cameras nearer to each other than this share of their distance to the points see no depth.
MIN_PARALLAX = 1e-3
#: SfM keeps observations within some 4 pixels of where their points project. This share of the
#: image's diagonal, at half of them, is no noise: poses, points and photographs are not of one
#: model, or the poses are camera-to-world.
MAX_REPROJECTION = 0.05


@dataclass(frozen=True)
class Shot:
    """One registered photograph, its camera and pose: ``x_camera = rotation @ x + translation``."""

    name: str
    camera: pycolmap.Camera
    rotation: Array
    translation: Array

    @property
    def pinhole(self) -> bool:
        """Whether the photograph is drawn as it is; others are undistorted first."""
        return self.camera.model_name in ("PINHOLE", "SIMPLE_PINHOLE")

    @property
    def centre(self) -> Array:
        """The camera's centre in world coordinates, shape (3,)."""
        centre: Array = -self.rotation.T @ self.translation
        return centre


@dataclass(frozen=True)
class Scene:
    """What SfM handed over: shots by byte-sorted name, points (N, 3) and colours (N, 3) uint8.

    Shots and points are relative to ``origin`` (3,), which is 0 but for scenes far away from 0.
    """

    shots: tuple[Shot, ...]
    points: Array
    colors: Array
    images: Path
    digest: str
    origin: Array

    @property
    def size(self) -> float:
        """The scene's size in its own units: learning rates of positions are relative to it.

        The largest distance of a camera from the cameras' mean, as in gsplat's reference trainer,
        leaving out lost ones; for cameras that hardly move, a tenth of their median distance to the
        points.
        """
        centres = np.stack([shot.centre for shot in self.shots])
        out = np.linalg.norm(centres - np.median(centres, 0), axis=1)
        centres = centres[out <= LOST * np.median(out)]
        middle = centres.mean(0)
        radius = float(np.linalg.norm(centres - middle, axis=1).max())
        return max(radius, 0.1 * float(np.median(np.linalg.norm(self.points - middle, axis=1))))


def read_scene(layout: Layout) -> Scene:
    """Read and judge the model; raises the ``E_SCENE_`` code of the first thing amiss."""
    require_whole(layout)
    pycolmap.logging.minloglevel = 3  # its multi-line reports are raised as exceptions anyway
    try:
        model = _read(layout)
        names = text_names(layout)
        shots = [
            Shot(
                names.get(im.image_id, im.name),
                model.cameras[im.camera_id],
                pose.rotation.matrix(),
                np.asarray(pose.translation),
            )
            for im in model.images.values()
            if im.has_pose and (pose := im.cam_from_world())
        ]
        off = _reprojection(model)
    except UnicodeDecodeError as error:
        raise TrainerError(
            "E_SCENE_FORMAT",
            f"a photograph's name is not UTF-8: {_around(error)!r}; rename it in SfM",
        ) from error
    except (RuntimeError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise TrainerError(
            "E_SCENE_FORMAT",
            f"pycolmap cannot read the model in {layout.model.name}/: {error}"[:400],
        ) from error
    tracks = [(p.xyz, p.color, p.track.length()) for p in model.points3D.values()]
    points = np.array([t[0] for t in tracks], np.float64).reshape(-1, 3)
    colors = np.array([t[1] for t in tracks], np.uint8).reshape(-1, 3)
    shots.sort(key=lambda shot: shot.name.encode())
    _judge_shots(shots, len(model.images))
    origin = _judge_points(points, sum(t[2] for t in tracks), shots)
    if off > MAX_REPROJECTION:
        raise TrainerError(
            "E_SCENE_CAMERA",
            f"half of the observations lie {off:.0%} of the image or more from where their points "
            "project; SfM must hand over world-to-camera poses, and points, of one model",
        )
    finite = np.isfinite(points).all(1)
    scene = Scene(
        tuple(replace(s, translation=s.translation + s.rotation @ origin) for s in shots),
        points[finite] - origin,
        colors[finite],
        layout.images,
        _digest(layout),
        origin,
    )
    log.event(
        phase="scene",
        images=len(shots),
        points=len(scene.points),
        cameras=len(model.cameras),
        size=scene.size,
        observations_per_image=sum(t[2] for t in tracks) / len(shots),
    )
    return scene


def _read(layout: Layout) -> pycolmap.Reconstruction:
    """The model of the three files that tell all.

    COLMAP 4's rigs and frames repeat the poses that the images have, and pycolmap 4.2 reads a
    damaged frames.bin for ever.
    """
    with tempfile.TemporaryDirectory(prefix="model-") as three:
        for path in map(layout.file, MODEL):
            (Path(three) / path.name).symlink_to(path.absolute())
        return pycolmap.Reconstruction(three)


def _around(error: UnicodeDecodeError) -> bytes:
    """The word that could not be read; a text model is one text, a binary one has one name."""
    before, after = error.object[: error.start], error.object[error.start :]
    return before.rpartition(b"\n")[2][-40:] + after.partition(b"\n")[0][:40]


def _reprojection(model: pycolmap.Reconstruction) -> float:
    """Median distance of observations from their points' projections, in diagonals of the image.

    Of some thousand points. Behind the camera counts as 1; 0 without observations.
    """
    points = list(model.points3D.values())
    off = []
    for point in points[:: math.ceil(len(points) / 1000) or 1]:
        for seen in point.track.elements:
            image = model.images[seen.image_id]
            pixel = image.project_point(point.xyz) if image.has_pose else None
            place = image.point2D(seen.point2D_idx).xy
            gap = math.inf if pixel is None else math.dist(pixel, place)
            camera = model.cameras[image.camera_id]
            off.append(min(1.0, gap / (math.hypot(camera.width, camera.height) or 1)))
    return float(np.median(off)) if off else 0.0


def require_whole(layout: Layout) -> None:
    """Walk the binary files: every record complete, nothing missing (``E_SCENE_FORMAT``).

    pycolmap 4.2 does not notice a file that ends early: it loops over a truncated points3D.bin
    for ever and invents cameras. Text files need no walk. Format: COLMAP documentation,
    "Output Format", binary.
    """
    if layout.kind != "bin":
        return
    for name, walk in (
        ("cameras", _walk_cameras),
        ("images", _walk_images),
        ("points3D", _walk_points),
    ):
        data = layout.file(name).read_bytes()
        try:
            (count,) = struct.unpack_from("<Q", data, 0)
            # The smallest record is 26 bytes: a larger count is damage, not a scene.
            end = walk(data, count) if count * 26 <= len(data) else -1
        except (struct.error, ValueError, OverflowError):
            end = -1
        if end != len(data):
            raise TrainerError(
                "E_SCENE_FORMAT",
                f"{name}.bin is damaged or incomplete "
                f"({len(data)} bytes); write the model again or upload it whole",
            )


def text_names(layout: Layout) -> dict[int, str]:
    """Image id to whole name in a text model; empty for a binary one.

    pycolmap 4.2 ends a name in images.txt at its first space.
    """
    if layout.kind == "bin":
        return {}
    names = {}
    lines = iter(layout.file("images").read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            fields = line.split(maxsplit=9)
            names[int(fields[0])] = fields[9].strip()
            next(lines, None)  # the observations, on a line that may be empty
    return names


def _walk_cameras(data: bytes, count: int) -> int:
    at = 8
    for _ in range(count):
        (model,) = struct.unpack_from("<i", data, at + 4)
        camera = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model), 1.0, 2, 2)
        at += 24 + 8 * len(camera.params)
    return at


def _walk_images(data: bytes, count: int) -> int:
    at = 8
    for _ in range(count):
        at = data.index(b"\0", at + 64) + 1
        at += 8 + 24 * struct.unpack_from("<Q", data, at)[0]
    return at


def _walk_points(data: bytes, count: int) -> int:
    at = 8
    for _ in range(count):
        at += 51 + 8 * struct.unpack_from("<Q", data, at + 43)[0]
    return at


def _judge_shots(shots: list[Shot], listed: int) -> None:
    if len(shots) < MIN_IMAGES:
        raise TrainerError(
            "E_SCENE_IMAGES",
            f"{len(shots)} of {listed} photographs have a pose, "
            f"at least {MIN_IMAGES} are needed; SfM must register more",
        )
    for shot in shots:
        pose = np.concatenate([shot.rotation.ravel(), shot.translation])
        rigid = np.isfinite(pose).all() and np.allclose(
            shot.rotation @ shot.rotation.T, np.eye(3), atol=1e-3
        )
        if not rigid:
            raise TrainerError(
                "E_SCENE_CAMERA",
                f"the pose of {shot.name!r} is not finite or not "
                "a rotation; SfM must drop or mend it",
            )
        camera = shot.camera
        if not camera.focal_length_idxs():
            raise TrainerError(
                "E_SCENE_CAMERA",
                f"camera {camera.camera_id} of {shot.name!r} is {camera.model_name}, which no "
                "pinhole camera can stand for; SfM must render perspective views of it",
            )
        sane = (
            np.isfinite(camera.params).all()
            and camera.width > 0
            and camera.height > 0
            and min(camera.focal_length_x, camera.focal_length_y) > 0
        )
        if not sane:
            raise TrainerError(
                "E_SCENE_CAMERA",
                f"camera {camera.camera_id} of {shot.name!r} is "
                f"unusable: {camera.width}x{camera.height}, "
                f"params {camera.params_to_string()}"[:300],
            )


def _judge_points(points: Array, observations: int, shots: list[Shot]) -> Array:
    """Refuse what cannot be started from; returns the origin to train about."""
    finite = int(np.isfinite(points).all(1).sum())
    if finite < MIN_POINTS:
        raise TrainerError(
            "E_SCENE_POINTS",
            f"{finite} finite points, at least {MIN_POINTS} are "
            "needed; SfM must triangulate more (more overlap, more features)",
        )
    if observations < MIN_OBSERVATIONS:
        raise TrainerError(
            "E_SCENE_POINTS",
            f"{observations} observations of {finite} points in "
            f"{len(shots)} photographs, at least {MIN_OBSERVATIONS} are needed; "
            "SfM must keep the tracks of its points",
        )
    good = points[np.isfinite(points).all(1)]
    middle = np.median(good, 0)
    extent = float(np.median(np.linalg.norm(good - middle, axis=1)))
    offset = float(np.linalg.norm(middle))
    if not extent > 0 or offset / extent > MAX_OFFSET:
        raise TrainerError(
            "E_SCENE_POINTS",
            f"the points lie {offset:.4g} from the origin with an "
            f"extent of {extent:.4g}: too far for float32; SfM must move the model "
            "to a local origin",
        )
    some = good[:: math.ceil(len(good) / 1000)]
    centres = np.stack([shot.centre for shot in shots])
    near = float(np.median(np.linalg.norm(some - centres[:, None], axis=2)))
    if np.ptp(centres, 0).max() < MIN_PARALLAX * near:
        raise TrainerError(
            "E_SCENE_CAMERA",
            f"all cameras stand in one place, {near:.3g} from the points; SfM must solve "
            "photographs taken from many places",
        )
    if near < MIN_DISTANCE:
        raise TrainerError(
            "E_SCENE_POINTS",
            f"the points lie {near:.3g} from the cameras, and nothing nearer than 0.01 is drawn; "
            f"SfM must scale the model up, to {MIN_DISTANCE} at least",
        )
    return middle if offset > LOCAL_OFFSET * extent else np.zeros(3)


def _digest(layout: Layout) -> str:
    """Hash of the model's files, which names the scene in checkpoints and metrics."""
    digest = hashlib.sha256()
    for path in map(layout.file, MODEL):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
