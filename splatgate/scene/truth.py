"""What splats are worth, measured from the artefact, beside what is trivial to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from splatgate.evidence import BadInput
from splatgate.scene.colmap import Scene, View, load_scene
from splatgate.scene.photos import WINDOW, counted, load_photo, mean_colour, psnr, ssim
from splatgate.scene.render import render
from splatgate.scene.splats import SH_C0, Splats, check_layout, check_logits, read_splats

Array = npt.NDArray[Any]
Say = Callable[[str], None]
Colour = tuple[float, float, float]
#: A view to measure: name, width, height in pixels.
Size = tuple[str, int, int]

#: A mean nearer to an SfM point than this share of the scene's size has not moved. One Adam step at
#: the usual rate (1.6e-4 of the scene's size) moves sixteen times as far; a round trip through a
#: trainer's own coordinates in float32 less than a tenth.
_MOVED = 1e-5


@dataclass(frozen=True)
class ViewScore:
    """One view: PSNR in dB and SSIM, at ``width`` x ``height`` pixels."""

    name: str
    psnr: float
    ssim: float
    width: int
    height: int


@dataclass(frozen=True)
class Baselines:
    """PSNR in dB, mean over the views, of three answers that need no training."""

    mean_colour: float
    nearest_photo: float
    sfm_points: float

    @property
    def best(self) -> float:
        """The best of the three, in dB."""
        return max(self.mean_colour, self.nearest_photo, self.sfm_points)


@dataclass(frozen=True)
class SplatsVerdict:
    """What a ``.ply`` is worth (``splatgate/splats/1``).

    ``psnr`` and ``ssim`` are means over ``views``; ``margin`` is ``psnr`` less the best baseline,
    in dB; ``moved`` is the share of splats that are no longer an SfM point. All of these are None
    where the layout is broken. ``problems`` says what is wrong, a line each.
    """

    count: int
    layout_ok: bool
    logits_ok: bool
    views: tuple[ViewScore, ...] = ()
    psnr: float | None = None
    ssim: float | None = None
    baselines: Baselines | None = None
    margin: float | None = None
    moved: float | None = None
    problems: tuple[str, ...] = ()
    schema: str = "splatgate/splats/1"


def held_out(names: Sequence[str], every: int = 8) -> tuple[str, ...]:
    """Every ``every``-th name in byte order, from the first: what training may not see."""
    return tuple(sorted(names, key=str.encode)[::every])


def held_out_sizes(scene: Scene, longest: int | None = None) -> list[Size]:
    """The held-out views with their sizes, the longer side at most ``longest`` pixels."""
    views = [scene.view(name) for name in held_out([view.name for view in scene.views])]
    return [(view.name, *fit(view.width, view.height, longest)) for view in views]


def fit(width: int, height: int, longest: int | None) -> tuple[int, int]:
    """The size in proportion whose longer side is at most ``longest`` pixels; never enlarged."""
    scale = min(1.0, longest / max(width, height)) if longest else 1.0
    return max(round(width * scale), 1), max(round(height * scale), 1)


def judge_splats(
    path: Path,
    scene: Scene,
    views: Sequence[Size] | None = None,
    background: Colour = (0.0, 0.0, 0.0),
    say: Say = lambda line: None,
) -> SplatsVerdict:
    """Judge a ``.ply`` against its scene: the layout first, and only a sound one is rendered.

    Raises:
        BadInput: no such file, or what `measure` raises.
    """
    if problems := check_layout(path):
        return SplatsVerdict(0, False, False, problems=tuple(problems))
    return measure(read_splats(path), scene, views, background, say)


def judge_splats_at(
    path: Path, scene: Path, longest: int | None = None, say: Say = lambda line: None
) -> SplatsVerdict:
    """`judge_splats` on the scene in a folder, held-out views at most ``longest`` pixels."""
    loaded = load_scene(scene)
    return judge_splats(path, loaded, held_out_sizes(loaded, longest), say=say)


def measure(
    splats: Splats,
    scene: Scene,
    views: Sequence[Size] | None = None,
    background: Colour = (0.0, 0.0, 0.0),
    say: Say = lambda line: None,
) -> SplatsVerdict:
    """Render ``splats`` at the scene's cameras and compare with the photographs.

    ``views`` are what a subject reports on; by default the held-out ones at their cameras' size.
    All other views count as training photographs for the baselines. ``say`` gets progress.

    Raises:
        BadInput: a view that the scene lacks, a photograph that cannot be read, or cameras that
            are no pinholes.
    """
    scene = scene.about(splats.origin)
    chosen = list(views) if views is not None else held_out_sizes(scene)
    hidden = {name for name, _, _ in chosen}
    training = [view for view in scene.views if view.name not in hidden]
    if not chosen or not training:
        counts = f"{len(chosen)} views to measure and {len(training)} to train on"
        raise BadInput(f"{scene.path}: {counts}; a scene needs both")
    warped = {camera.id for camera in scene.cameras if not camera.pinhole}
    if odd := [view.name for view in scene.views if view.camera_id in warped]:
        what = f"{odd[0]} was taken by a distorting camera, which the renderer does not have"
        raise BadInput(f"{scene.path}: {what}; measure on the undistorted scene")
    if small := [size for size in chosen if min(size[1:]) < WINDOW]:
        raise BadInput(f"view {small[0]}: at least {WINDOW} pixels a side are needed")
    say(f"mean colour of {len(training)} training photographs")
    mean = np.mean([mean_colour(view) for view in training], axis=0)
    points = points_as_splats(scene)
    scores, trivial = [], []
    for number, (name, width, height) in enumerate(chosen, 1):
        view = scene.view(name).resized(width, height)
        photo = load_photo(scene.view(name), width, height)
        image = render(splats, view, background)
        pixels, windows = counted(scene.view(name), width, height) or (None, None)
        figures = psnr(image, photo, pixels), ssim(image, photo, windows)
        scores.append(ViewScore(name, *figures, width, height))
        nearest = load_photo(nearest_view(view, training, scene), width, height)
        answers = (np.broadcast_to(mean, photo.shape), nearest, render(points, view, background))
        trivial.append([psnr(answer, photo, pixels) for answer in answers])
        quality = f"{scores[-1].psnr:.2f} dB, SSIM {scores[-1].ssim:.3f}"
        say(f"view {number} of {len(chosen)}: {name} {quality}")
    baselines = Baselines(*np.mean(trivial, axis=0).tolist())
    total = float(np.mean([score.psnr for score in scores]))
    problems = check_logits(splats, scene.points_rgb)
    return SplatsVerdict(
        count=len(splats),
        layout_ok=True,
        logits_ok=not problems,
        views=tuple(scores),
        psnr=total,
        ssim=float(np.mean([score.ssim for score in scores])),
        baselines=baselines,
        margin=total - baselines.best,
        moved=moved(splats, scene),
        problems=tuple(problems),
    )


def mean_psnr(
    splats: Splats, scene: Scene, views: Sequence[Size], background: Colour = (0.0, 0.0, 0.0)
) -> float:
    """Mean PSNR in dB of ``splats`` over ``views``, with no baseline: to compare two models.

    Raises:
        BadInput: a view that the scene lacks, or a photograph that cannot be read.
    """
    found, scene = [], scene.about(splats.origin)
    for name, width, height in views:
        view = scene.view(name)
        image = render(splats, view.resized(width, height), background)
        pixels, _ = counted(view, width, height) or (None, None)
        found.append(psnr(image, load_photo(view, width, height), pixels))
    return float(np.mean(found))


def nearest_view(view: View, others: Sequence[View], scene: Scene) -> View:
    """The nearest of ``others``: camera distance in scene depths plus angle of axes in radians."""
    depths = scene.points_xyz @ view.R[2] + view.t[2]
    depth = float(np.median(depths[depths > 0])) if (depths > 0).any() else 1.0

    def apart(other: View) -> float:
        angle = float(np.arccos(np.clip(view.R[2] @ other.R[2], -1, 1)))
        return float(np.linalg.norm(view.centre - other.centre)) / depth + angle

    return min(others, key=apart)


def points_as_splats(scene: Scene) -> Splats:
    """The SfM points as they came: one nearly opaque sphere each, in the point's colour.

    Its sigma is the distance to the nearest other point, 3DGS's usual start.
    """
    count = len(scene.points_xyz)
    size = np.log(np.maximum(_gaps(scene.points_xyz), 1e-9)).astype(np.float32)
    return Splats(
        means=scene.points_xyz.astype(np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        scales=np.repeat(size[:, None], 3, axis=1),
        opacities=np.full(count, 5, np.float32),
        sh0=((scene.points_rgb / 255 - 0.5) / SH_C0).astype(np.float32)[:, None, :],
        shN=np.zeros((count, 0, 3), np.float32),
    )


def _gaps(points: Array, leaf: int = 64) -> Array:
    """Distance [n] of each point to its nearest other, sought in two partitions into boxes.

    Exact up to ``leaf`` points, what a box holds; beyond, a neighbour across a border of both
    partitions is missed, and a farther one taken. Coincident points do not count.
    """
    best = np.full(len(points), np.inf)
    for share in (0.5, 0.4):
        todo = [np.arange(len(points))]
        while todo:
            box = todo.pop()
            if len(box) > leaf:
                axis = int(np.ptp(points[box], axis=0).argmax())
                box = box[np.argsort(points[box, axis], kind="stable")]
                todo += [box[: int(share * len(box))], box[int(share * len(box)) :]]
            elif len(box):
                squares = ((points[box, None] - points[None, box]) ** 2).sum(axis=2)
                squares[squares == 0] = np.inf
                best[box] = np.minimum(best[box], squares.min(axis=1))
    found = np.isfinite(best)
    best[~found] = best[found].max(initial=0)
    gaps: Array = np.sqrt(best)
    return gaps


def moved(splats: Splats, scene: Scene) -> float:
    """The share of splats that are not an SfM point as it came: moved, recoloured, or new.

    A splat is still the point when its mean lies within a hundred-thousandth of the scene's size of
    it and its base colour within 3/255 of the point's. So an exported initialisation has 0,
    whatever its scales and opacities, and one optimiser step on all splats gives nearly 1.
    """
    points = scene.points_xyz
    if not len(splats) or not len(points):
        return 1.0
    size = float(np.linalg.norm(np.subtract(*np.percentile(points, [95, 5], axis=0))))
    # Coordinates far from the origin (national grids) round in float32 by more than that.
    reach = max(_MOVED * size, 4 * float(np.finfo(np.float32).eps) * float(np.abs(points).max()))
    # Neighbours are neighbours along any line; one of no special direction keeps candidates few.
    line = np.array([0.5377, 0.6131, 0.5788])
    order = np.argsort(points @ line)
    along = (points @ line)[order]
    means = splats.means.astype(np.float64)
    first = np.searchsorted(along, means @ line - reach)
    last = np.searchsorted(along, means @ line + reach, side="right")
    colours = 255 * (0.5 + SH_C0 * splats.sh0[:, 0])
    still = np.zeros(len(means), bool)
    left = np.flatnonzero(first < last)
    while left.size:
        point = order[first[left]]
        near = np.linalg.norm(points[point] - means[left], axis=1) <= reach
        still[left] = near & (np.abs(colours[left] - scene.points_rgb[point]) <= 3).all(axis=1)
        first[left] += 1
        left = left[(first[left] < last[left]) & ~still[left]]
    return float(1 - still.mean())
