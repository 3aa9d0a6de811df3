"""Judges a scene: is what the SfM stage handed over fit to train on?

Every finding has a stable code, so that a trainer's own refusal can be compared with it. Only what
no trainer can work with is unsound; what is merely unusual is a note. The earliest cause stands
first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splatgate.scene import archive, model_consistency, photo_consistency
from splatgate.scene.colmap import Camera, Scene, View, below, read_scene, safe_name
from splatgate.scene.colmap_files import Unsound
from splatgate.scene.finding import MAX_MISSING, Finding, few
from splatgate.scene.judge_photos import Photos, judge_photos

#: One view held out, and two that see a point from different places.
MIN_IMAGES = 3
#: A point's first size comes from its three nearest neighbours.
MIN_POINTS = 4
#: SfM keeps observations within 4 px or so of where their point projects. A median of a twentieth
#: of the image's diagonal is no noise: the poses are camera-to-world, or another scene's.
MAX_REPROJECTION = 0.05
#: An image of fewer observations may be off by their noise.
MIN_OBSERVATIONS = 10
#: Distance between cameras, by their median distance to the points, below which there is no depth
#: to be seen: SfM asks for angles some fifteen times as wide (COLMAP, Mapper.init_min_tri_angle).
MIN_PARALLAX = 1e-3
#: The .ply holds float32, 1 part in 1.7e7: farther from the origin, by the points' extent, details
#: are coarser than a thousandth of the scene.
MAX_OFFSET = 1e4
#: Stops between the darkest and the brightest photograph of the same points, beyond which a model
#: without compensation learns the exposure. One flight on automatic exposure reaches 1.2.
MAX_EXPOSURE = 1.5


@dataclass(frozen=True)
class CameraFacts:
    """One camera: focal lengths and size in pixels, and how many images it took."""

    id: int
    model: str
    width: int
    height: int
    fx: float
    fy: float
    images: int


@dataclass(frozen=True)
class SceneVerdict:
    """What a scene is worth (``splatgate/scene/1``).

    ``code`` and ``reason`` are the first finding's, or empty. ``tracks`` are the points seen from
    at least two images, ``observations`` all sightings of points.
    """

    ok: bool
    code: str
    reason: str
    images: int
    points: int
    tracks: int
    cameras: tuple[CameraFacts, ...]
    observations: int = 0
    findings: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    model: str = ""
    schema: str = "splatgate/scene/1"


def judge_scene(path: Path, say: Callable[[str], None] = lambda line: None) -> SceneVerdict:
    """Judge the scene below ``path``. Every photograph is decoded; ``say`` gets progress.

    Raises:
        BadInput: ``path`` is no readable folder.
    """
    try:
        with archive.opened(path) as folder:
            return _judge(folder, path, say)
    except Unsound as error:
        finding = Finding(error.code, str(error))
        return SceneVerdict(False, finding.code, finding.reason, 0, 0, 0, (), findings=(finding,))


def _judge(folder: Path, path: Path, say: Callable[[str], None]) -> SceneVerdict:
    """Judge the scene in ``folder``, which is ``path`` or what was packed there."""
    try:
        scene = read_scene(folder)
    except Unsound as error:
        raise Unsound(error.code, str(error).replace(str(folder), str(path))) from None
    photos = Photos()
    found = (
        *_images(scene),
        *_accounts(scene),
        *_cameras(scene),
        *_poses(scene),
        *_points(scene),
        *judge_photos(scene, photos, say),
    )
    findings, notes = (
        tuple(Finding(f.code, f.reason.replace(str(folder), str(path))) for f in some)
        for some in (found, _notes(scene, photos))
    )
    first = findings[0] if findings else Finding("", "")
    taken = Counter(view.camera_id for view in scene.views)
    sightings = Counter(int(point) for view in scene.views for point in np.unique(view.point_ids))
    lengths = list(sightings.values()) if sightings else scene.track_lengths.tolist()
    return SceneVerdict(
        ok=not findings,
        code=first.code,
        reason=first.reason,
        images=len(scene.views),
        points=len(scene.points_xyz),
        tracks=sum(length > 1 for length in lengths),
        cameras=tuple(
            CameraFacts(c.id, c.model, c.width, c.height, *_focals(c), taken[c.id])
            for c in scene.cameras
        ),
        observations=sum(len(view.point_ids) for view in scene.views),
        findings=findings,
        notes=notes,
        model=scene.model.relative_to(folder).as_posix(),
    )


def _focals(camera: Camera) -> tuple[float, float]:
    fx, fy = np.nan_to_num(np.diag(camera.K)[:2], posinf=0, neginf=0).tolist()
    return fx, fy


def _images(scene: Scene) -> Iterator[Finding]:
    names = Counter(view.name for view in scene.views)
    if len(names) < MIN_IMAGES:
        what = f"{len(names)} registered images, at least {MIN_IMAGES} are needed"
        yield Finding("too-few-images", f"{scene.model}: {what}; look into the SfM stage")
    if odd := [name for name, count in names.items() if count > 1 or not safe_name(name)]:
        what = f"image names that repeat or leave images/: {few(odd)}"
        yield Finding("bad-names", f"{scene.model}: {what}; rename them")


def _accounts(scene: Scene) -> Iterator[Finding]:
    try:
        told = list(model_consistency.differences(scene))
    except Unsound as error:
        yield Finding(error.code, str(error))
        return
    if told:
        what = f"the files tell of different models: {'; '.join(told)}"
        yield Finding("models-disagree", f"{scene.model}: {what}; export them together, or one set")


def _cameras(scene: Scene) -> Iterator[Finding]:
    for camera in scene.cameras:
        sound = min(*_focals(camera), camera.width, camera.height) > 0
        if not sound or not np.isfinite(camera.params).all():
            size = f"{camera.width}x{camera.height}"
            what = f"camera {camera.id} ({camera.model} {size} {list(camera.params)[:4]})"
            what += " has no usable size or focal length"
            yield Finding("bad-camera", f"{scene.model}: {what}; undistort to PINHOLE in SfM")


def _poses(scene: Scene) -> Iterator[Finding]:
    def sound(view: View) -> bool:
        return bool(np.isfinite(view.R).all() and np.isfinite(view.t).all() and view.norm > 1e-6)

    if bad := [view.name for view in scene.views if not sound(view)]:
        what = f"poses that are no numbers or no rotation: {few(bad)}"
        yield Finding("bad-pose", f"{scene.model}: {what}; register these images again")
        return
    centres = np.array([view.centre for view in scene.views]).reshape(-1, 3)
    apart = np.ptp(centres, axis=0).max() if len(centres) > 1 else np.inf
    if apart <= max(1e-9 * np.abs(centres).max(), MIN_PARALLAX * _depth(scene)):
        what = "all cameras stand in one place, and splats need parallax"
        yield Finding("bad-pose", f"{scene.model}: {what}; look into the SfM stage")
        return
    off = {view.name: error for view, error in _reprojection(scene) if error > MAX_REPROJECTION}
    if off:
        worst = sorted(off, key=lambda name: -off[name])
        what = f"in {len(off)} of {len(scene.views)} images ({few(worst)}) half of the observations"
        what += f" lie over {MAX_REPROJECTION:.0%} of the diagonal from where their points project"
        remedy = "write world-to-camera poses with OpenCV axes, and points of the same model"
        yield Finding("poses-disagree", f"{scene.model}: {what}; {remedy}")


def _depth(scene: Scene) -> float:
    """Median distance of the points from the cameras' middle; 0 without points."""
    middle = np.mean([view.centre for view in scene.views], axis=0)
    away = np.linalg.norm(scene.points_xyz - middle, axis=1)
    away = away[np.isfinite(away)]
    return float(np.median(away)) if away.size else 0.0


def _reprojection(scene: Scene) -> Iterator[tuple[View, float]]:
    """Median distance of each view's observations from their points' projections, in diagonals.

    A point behind the camera counts as 1. Views of no pinhole camera and of few observations are
    left out.
    """
    pinhole = {c.id for c in scene.cameras if c.pinhole and min(*_focals(c), c.width, c.height) > 0}
    order = np.argsort(scene.point_ids)
    known = scene.point_ids[order]
    for view in scene.views:
        if view.camera_id not in pinhole or not len(known):
            continue
        at = np.minimum(np.searchsorted(known, view.point_ids), len(known) - 1)
        match = known[at] == view.point_ids
        if match.sum() < MIN_OBSERVATIONS:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            points = scene.points_xyz[order[at[match]]] @ view.R.T + view.t
            ahead = points[:, 2] > 0
            pixels = points[ahead] @ view.K.T
            offset = pixels[:, :2] / pixels[:, 2:] - view.xy[match][ahead]
        error = np.ones(len(points))
        error[ahead] = np.linalg.norm(offset, axis=1) / np.hypot(view.width, view.height)
        yield view, float(np.median(error))


def _points(scene: Scene) -> Iterator[Finding]:
    count = len(scene.points_xyz)
    if count < MIN_POINTS:
        what = f"{count} 3-D points, and training starts from them"
        yield Finding("no-points", f"{scene.model}: {what}; look into the SfM stage")
    if (bad := _no_numbers(scene)) > MAX_MISSING * count:
        what = f"{bad} of {count} points have coordinates that are no numbers"
        yield Finding("bad-points", f"{scene.model}: {what}; export the model again")
    elif count >= MIN_POINTS:
        yield from _extent(scene)


def _no_numbers(scene: Scene) -> int:
    return int((~np.isfinite(scene.points_xyz)).any(axis=1).sum())


def _reach(scene: Scene) -> tuple[float, float]:
    """Distance of the points from the origin, and their extent; 0 for points in one place."""
    points = scene.points_xyz[np.isfinite(scene.points_xyz).all(axis=1)]
    middle = np.median(points, axis=0) if len(points) else np.zeros(3)
    away = np.linalg.norm(points - middle, axis=1)
    return float(np.linalg.norm(middle)), float(np.median(away)) if len(points) else 0.0


def _extent(scene: Scene) -> Iterator[Finding]:
    if not _reach(scene)[1] > 0:
        what = "half of the points and more lie in one place"
        yield Finding("bad-points", f"{scene.model}: {what}; look into the SfM stage")


def _notes(scene: Scene, photos: Photos) -> Iterator[Finding]:
    yield from photos.few
    if scene.others:
        told = ", ".join(f"{folder.name} has {count} images" for folder, count in scene.others)
        what = f"several models: {scene.model.name} has {len(scene.views)} images and is read"
        remedy = "photographs of the others are in no model that is trained"
        yield Finding("several-models", f"{scene.model}: {what}; {told}; {remedy}")
    offset, extent = _reach(scene)
    if offset > MAX_OFFSET * extent > 0:
        what = f"the points lie {offset:.4g} from the origin and reach {extent:.4g}"
        remedy = "too far for float32: a trainer must work, and write, about a local origin"
        yield Finding("georeferenced", f"{scene.model}: {what}; {remedy}")
    if bad := _no_numbers(scene):
        what = f"{bad} points have coordinates that are no numbers, and are left out"
        yield Finding("bad-points", f"{scene.model}: {what}; export the model again")
    ids = np.concatenate([view.point_ids for view in scene.views] or [np.zeros(0, np.int64)])
    if ids.size and (lost := int((~np.isin(ids, scene.point_ids)).sum())):
        what = f"{lost} of {ids.size} observations name points that points3D lacks"
        yield Finding("tracks-disagree", f"{scene.model}: {what}; export all files together")
    if not ids.size:
        what = "nothing ties points to photographs, so that poses cannot be checked by them"
        yield Finding("no-observations", f"{scene.model}: {what}; keep keypoints and tracks")
    if len(scene.points_rgb) and not np.ptp(scene.points_rgb, axis=0).any():
        what = "the points have no colours of their own"
        yield Finding("no-colours", f"{scene.model}: {what}; a trainer starts from worse")
    if named := [v.name for v in scene.views if v.photo and _written_otherwise(v, scene)]:
        what = f"{len(named)} photographs are there in other letter case: {few(named)}"
        yield Finding("other-case", f"{scene.path}: {what}; rename them, some trainers refuse them")
    if photos.masked:
        masked = photos.masked
        what = f"masks or transparency leave parts of {len(masked)} photographs out: {few(masked)}"
        yield Finding("masks", f"{scene.path}: {what}; make sure that the trainer uses them")
    elif below(scene.path, "masks"):
        what = "no file of it is named after a photograph (NAME.jpg.png or NAME.png)"
        yield Finding("masks", f"{scene.path}/masks: {what}; rename them")
    stops = photo_consistency.exposures(photos.of(scene), photos.seen)
    if stops and max(stops.values()) - min(stops.values()) > MAX_EXPOSURE:
        low, high = min(stops, key=stops.__getitem__), max(stops, key=stops.__getitem__)
        what = f"the same points are {stops[high] - stops[low]:.1f} stops brighter in {high} than"
        remedy = "a model without exposure compensation learns it"
        yield Finding("exposures", f"{scene.path}/images: {what} in {low}; {remedy}")
    if warped := [camera for camera in scene.cameras if not camera.pinhole]:
        what = f"{len(warped)} of {len(scene.cameras)} cameras are no pinholes ({warped[0].model})"
        remedy = "splats are trained on undistorted images: run colmap image_undistorter"
        yield Finding("distorted-camera", f"{scene.model}: {what}; {remedy}")
    if photos.resized:
        resized = photos.resized
        what = f"{len(resized)} photographs are not of their cameras' size: {few(resized)}"
        yield Finding("resized-photos", f"{scene.path}/images: {what}; intrinsics must follow")
    blind = [view.name for view in scene.views if not len(view.point_ids)]
    if 0 < len(blind) < len(scene.views):
        yield Finding("blind-images", f"{len(blind)} images observe no point: {few(blind)}")


def _written_otherwise(view: View, scene: Scene) -> bool:
    plain = Path(view.name.replace("\\", "/"))
    return view.photo is not None and view.photo.parts[-len(plain.parts) :] != plain.parts
