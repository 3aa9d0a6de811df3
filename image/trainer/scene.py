"""The scene: a COLMAP model, judged before any GPU time is spent."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycolmap

from trainer import colmap, log
from trainer.channel import Layout
from trainer.errors import TrainerError

Array = npt.NDArray[Any]

MIN_IMAGES = 3
MIN_POINTS = 100
MIN_OBSERVATIONS = 300
#: Share of points that may have coordinates that are no numbers.
MAX_LOST = 0.05
#: Float32, which the .ply is written in, resolves about 1 part in 1.7e7; beyond this ratio of
#: offset to extent, details are coarser than a thousandth of the scene, and the .ply is written
#: about a local origin.
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
    #: Rows of ``Scene.points`` that this photograph observes.
    seen: Array = field(default_factory=lambda: np.zeros(0, np.int64))

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

    Shots and points are relative to ``origin`` (3,), which is 0 but for scenes far away from 0;
    ``written`` (3,) is the origin of the .ply's coordinates: 0, the scene's own, or ``origin``
    where float32 does not resolve those.
    """

    shots: tuple[Shot, ...]
    points: Array
    colors: Array
    images: Path
    digest: str
    origin: Array
    written: Array

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
    pycolmap.logging.minloglevel = 3  # its multi-line reports are raised as exceptions anyway
    model = colmap.read(layout.files)
    order = np.argsort(model.ids)
    shots = [_shot(model, row, order) for row in model.images]
    shots.sort(key=lambda shot: shot.name.encode())
    _judge_shots(shots)
    origin = _judge_points(model.xyz, shots)
    _judge_tracks(model, shots)
    finite = np.isfinite(model.xyz).all(1)
    place = np.cumsum(finite) - 1
    scene = Scene(
        tuple(
            replace(
                s,
                translation=s.translation + s.rotation @ origin,
                seen=place[s.seen[finite[s.seen]]],
            )
            for s in shots
        ),
        model.xyz[finite] - origin,
        model.rgb[finite],
        layout.images,
        _digest(layout),
        origin,
        origin if _far(model.xyz[finite]) > MAX_OFFSET else np.zeros(3),
    )
    if scene.written.any():
        log.line(
            f"georeferenced: the .ply is written about {', '.join(f'{x:.3f}' for x in origin)}, "
            "see georeference.json"
        )
    log.event(
        phase="scene",
        images=len(shots),
        points=len(scene.points),
        cameras=len(model.cameras),
        size=scene.size,
        observations_per_image=sum(len(row.ids) for row in model.images) / len(shots),
    )
    return scene


def _shot(model: colmap.Model, row: colmap.ImageRow, order: Array) -> Shot:
    quat = row.pose[:4] / (np.linalg.norm(row.pose[:4]) or 1)
    rotation = pycolmap.Rotation3d(quat[[1, 2, 3, 0]]).matrix()
    seen = np.zeros(0, np.int64)
    if len(model.ids) and len(row.ids):
        known = model.ids[order]
        at = np.minimum(np.searchsorted(known, row.ids), len(known) - 1)
        seen = order[at[known[at] == row.ids]]
    return Shot(row.name, model.cameras[row.camera], rotation, row.pose[4:], seen)


def _judge_tracks(model: colmap.Model, shots: list[Shot]) -> None:
    """Refuse poses and points that the observations contradict; say so where there are too few."""
    observations = sum(len(row.ids) for row in model.images)
    if observations < MIN_OBSERVATIONS:
        log.line(
            f"warning: {observations} observations tie points to photographs: poses cannot be "
            "checked by them, and training goes on without"
        )
        return
    off = _reprojection(model)
    if off > MAX_REPROJECTION:
        raise TrainerError(
            "E_SCENE_CAMERA",
            f"half of the observations lie {off:.0%} of the image or more from where their points "
            "project; SfM must hand over world-to-camera poses, and points, of one model",
        )


def _reprojection(model: colmap.Model) -> float:
    """Median distance of observations from their points' projections, in diagonals of the image.

    Of some thousand points. Behind the camera counts as 1; 0 without observations.
    """
    some = np.sort(model.ids)[:: math.ceil(len(model.ids) / 1000) or 1]
    order = np.argsort(model.ids)
    known, off = model.ids[order], [np.zeros(0)]
    for row in model.images:
        of = np.isin(row.ids, some)
        at = np.searchsorted(known, row.ids[of])
        shot = _shot(model, replace(row, ids=row.ids[of], xy=row.xy[of]), order)
        points = model.xyz[order[at]] @ shot.rotation.T + shot.translation
        ahead = points[:, 2] > 0
        gap = np.ones(len(points))
        if ahead.any():
            pixels = np.array(shot.camera.img_from_cam(points[ahead])).reshape(-1, 2)
            diagonal = math.hypot(shot.camera.width, shot.camera.height) or 1
            away = np.linalg.norm(pixels - row.xy[of][ahead], axis=1) / diagonal
            gap[ahead] = np.minimum(np.nan_to_num(away, nan=1.0), 1.0)
        off.append(gap)
    every = np.concatenate(off)
    return float(np.median(every)) if len(every) else 0.0


def _judge_shots(shots: list[Shot]) -> None:
    if len(shots) < MIN_IMAGES:
        raise TrainerError(
            "E_SCENE_IMAGES",
            f"{len(shots)} photographs have a pose, "
            f"at least {MIN_IMAGES} are needed; SfM must register more",
        )
    twice = [name for name, count in Counter(shot.name for shot in shots).items() if count > 1]
    if twice:
        raise TrainerError(
            "E_SCENE_IMAGES",
            f"{len(twice)} names of photographs stand for two poses each: "
            f"{', '.join(map(repr, twice[:3]))}; SfM must give each photograph a name of its own",
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


def _judge_points(points: Array, shots: list[Shot]) -> Array:
    """Refuse what cannot be started from; returns the origin to train about."""
    finite = int(np.isfinite(points).all(1).sum())
    if finite < MIN_POINTS:
        raise TrainerError(
            "E_SCENE_POINTS",
            f"{finite} finite points, at least {MIN_POINTS} are "
            "needed; SfM must triangulate more (more overlap, more features)",
        )
    if lost := len(points) - finite:
        if lost > MAX_LOST * len(points):
            raise TrainerError(
                "E_SCENE_POINTS",
                f"{lost} of {len(points)} points have coordinates that are no numbers; "
                "SfM must export the model again",
            )
        log.line(f"warning: left out {lost} points whose coordinates are no numbers")
    good = points[np.isfinite(points).all(1)]
    middle = np.median(good, 0)
    far = _far(good)
    if not far < np.inf:
        raise TrainerError(
            "E_SCENE_POINTS",
            "half of the points and more lie in one place; SfM must triangulate them anew",
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
    return middle if far > LOCAL_OFFSET else np.zeros(3)


def _far(points: Array) -> float:
    """Distance of finite points from 0, by their extent; inf for points in one place."""
    middle = np.median(points, 0)
    extent = float(np.median(np.linalg.norm(points - middle, axis=1)))
    return float(np.linalg.norm(middle)) / extent if extent > 0 else math.inf


def _digest(layout: Layout) -> str:
    """Hash of the model's files, which names the scene in checkpoints and metrics."""
    digest = hashlib.sha256()
    for path in layout.files.values():
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
