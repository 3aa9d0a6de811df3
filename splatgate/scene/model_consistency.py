"""What else a model's folder says of the same scene: a second copy as text, rigs and frames.

Readers differ in which they take. Those older than COLMAP 3.12 take a pose from ``images``, COLMAP
since then from ``frames`` (its reader never ends on a damaged one: pycolmap 4.2). So each is read
here by hand, and all must agree.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from splatgate.scene.colmap import Array, Scene, View, read_model, rotations
from splatgate.scene.colmap_files import EXTRA, PARTS, FrameRow, open_files

#: What rounding to six digits leaves is less: rotations as they are, intrinsics by their size,
#: positions by the scene's.
_TOLERANCE = 1e-3


def differences(scene: Scene) -> Iterator[str]:
    """What contradicts the model that was read, a line each: which file, and what it says.

    Raises:
        Unsound: ``broken-model``, a file beside it cannot be read.
    """
    files = open_files(scene.model, scene.suffix)
    rigs, frames = files.rigs(), list(files.frames())
    there = [part for part in EXTRA if (scene.model / f"{part}{scene.suffix}").is_file()]
    if len(there) == len(EXTRA):
        yield from _frames(scene, rigs, frames)
    elif there:
        yield f"{there[0]}{scene.suffix} is there alone, and COLMAP reads rigs and frames together"
    if scene.suffix == ".bin" and all((scene.model / f"{part}.txt").is_file() for part in PARTS):
        yield from _twin(scene, read_model(scene.path, scene.model, ".txt"))


def _frames(scene: Scene, rigs: dict[int, int], frames: list[FrameRow]) -> Iterator[str]:
    named = {image: (rig, pose) for rig, pose, images in frames for image in images}
    where = f"frames{scene.suffix}"
    if lost := [view.name for view in scene.views if view.id not in named]:
        yield f"{where} lacks {len(lost)} of {len(scene.views)} images, {lost[0]} among them"
    if strange := {rig for rig, _, _ in frames} - rigs.keys():
        yield f"{where} names rig {min(strange)}, which rigs{scene.suffix} lacks"
    size = _size(scene)
    for view in scene.views:
        rig, pose = named.get(view.id, (-1, None))
        # Other cameras of a rig stand elsewhere than it, by a pose of their own.
        if pose is None or rigs.get(rig) != view.camera_id:
            continue
        rotation = rotations(pose[None, :4])[0]
        if _moved(view, rotation, -rotation.T @ pose[4:], size):
            yield f"{where} gives {view.name} another pose"
            return


def _twin(scene: Scene, text: Scene) -> Iterator[str]:
    ours, theirs = ({view.name: view for view in s.views} for s in (scene, text))
    if ours.keys() != theirs.keys():
        other = min(ours.keys() ^ theirs.keys())
        yield f"images.txt names {len(theirs)} images, images.bin {len(ours)}; not in both: {other}"
    size = _size(scene)
    for name in sorted(ours.keys() & theirs.keys()):
        view, twin = ours[name], theirs[name]
        if _moved(view, twin.R, twin.centre, size):
            yield f"images.txt gives {name} another pose"
            break
        if not np.allclose(view.K, twin.K, rtol=_TOLERANCE, atol=0.01, equal_nan=True) or (
            (view.width, view.height) != (twin.width, twin.height)
        ):
            yield f"cameras.txt gives {name} another camera"
            break
    if not np.array_equal(np.sort(scene.point_ids), np.sort(text.point_ids)):
        yield f"points3D.txt holds {len(text.point_ids)} points, points3D.bin other ones"
        return
    a, b = (s.points_xyz[np.argsort(s.point_ids)] for s in (scene, text))
    if len(a) and not np.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE * size, equal_nan=True):
        yield "points3D.txt puts points elsewhere"


def _size(scene: Scene) -> float:
    """Half the scene's spread, in its units: points and cameras, outliers left out."""
    at = np.concatenate([scene.points_xyz, *(view.centre[None] for view in scene.views)])
    at = at[np.isfinite(at).all(axis=1)]
    return float(np.ptp(np.percentile(at, [25, 75], axis=0), axis=0).max()) if len(at) else 0.0


def _moved(view: View, rotation: Array, centre: Array, size: float) -> bool:
    turned = np.abs(view.R - rotation).max() > _TOLERANCE
    return bool(turned or np.linalg.norm(view.centre - centre) > _TOLERANCE * max(size, 1e-9))
