"""Do photographs show what the model saw? Their names say nothing of what is in them.

Where an image observes a point, its photograph has a brightness; the point has the mean of all
that saw it, and so do the other photographs. On the photographs that were solved the two go
together (correlation 0.94 to 0.99 over the observations of one image, on the suite's scenes); on
shuffled or foreign ones they do not (-0.24 to 0.29).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from splatgate.scene.colmap import Scene, View

Array = npt.NDArray[Any]

#: Longest side at which a photograph is looked at, or less than twice of it, in pixels.
LOOK = 512
#: On a smaller one (longest side, pixels) a pixel's error of a keypoint is another thing's place;
#: features are not matched there either.
_SMALLEST = 100
#: Fewer observations say too little: the error of a correlation is 1/sqrt(n).
_LEAST = 30
#: Below both it is another photograph. Light, season and exposure lower the first; where points
#: came without colours, or with made up ones, the second speaks, which is coarser: photographs
#: that are all shifted by one reach 0.62.
_WITH_COLOURS, _WITH_OTHERS = 0.35, 0.65
#: A photograph that varies less than this shows nothing (grey levels).
_FLAT = 0.5
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def brightness(image: Image.Image, view: View) -> Array:
    """Brightness [n] of a decoded, upright photograph, of any size, at a view's observations."""
    # Pillow clips more than 8 bits a channel.
    deep = image.mode[0] in "IF"
    grey = image if deep else image.convert("L")
    pixels = np.asarray(grey, np.float32)
    scale = [grey.width / view.width, grey.height / view.height]
    with np.errstate(invalid="ignore"):
        at = np.nan_to_num(view.xy * scale).clip(0, [grey.width - 1, grey.height - 1]).astype(int)
    found: Array = pixels[at[:, 1], at[:, 0]]
    return found * (255 / max(float(pixels.max()), 1.0)) if deep else found


def strangers(scene: Scene, seen: Mapping[str, Array]) -> list[str]:
    """Names of the images whose photographs show something else, the surest first.

    ``seen`` holds what `brightness` found of each photograph at hand.
    """
    large = [view for view in scene.views if max(view.width, view.height) >= _SMALLEST]
    views = [view for view in large if view.name in seen and len(view.point_ids)]
    if not views:
        return []
    own = [_normal(seen[view.name]) for view in views]
    ids, place = np.unique(np.concatenate([v.point_ids for v in views]), return_inverse=True)
    total, count = np.bincount(place, np.concatenate(own)), np.bincount(place)
    order = np.argsort(scene.point_ids)
    known = scene.point_ids[order]
    at = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    coloured = np.full(len(ids), np.nan)
    if len(known):
        match = known[at] == ids
        coloured[match] = (scene.points_rgb[order[at]] @ _LUMINANCE)[match]
    groups: dict[str, list[tuple[str, Array]]] = {}
    start = 0
    for view, values in zip(views, own, strict=True):
        mine = place[start : start + len(values)]
        start += len(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            others = (total[mine] - values) / (count[mine] - 1)
        # Images that say too little each are asked together.
        key = view.name if len(values) >= _LEAST else ""
        groups.setdefault(key, []).append((view.name, np.array([values, coloured[mine], others])))
    found = []
    for members in groups.values():
        values, colours, others = np.concatenate([columns for _, columns in members], axis=1)
        likeness = _correlation(values, colours)
        if likeness < _WITH_COLOURS and _correlation(values, others) < _WITH_OTHERS:
            found += [(likeness, name) for name, _ in members]
    return [name for _, name in sorted(found)]


def exposures(scene: Scene, seen: Mapping[str, Array]) -> dict[str, float]:
    """Exposure of each photograph in stops: the median of how much brighter it shows its points
    than the photographs do on the whole. sRGB is taken as a power of 2.2.
    """
    light: dict[str, tuple[Array, Array]] = {}
    for view in scene.views:
        values = seen.get(view.name, np.zeros(0))
        # What is nearly black or clipped says nothing of the light.
        usable = (values > 8) & (values < 247)
        if usable.sum() >= _LEAST:
            light[view.name] = view.point_ids[usable], 2.2 * np.log2(values[usable] / 255)
    if len(light) < 2:
        return {}
    rows = list(light.values())
    _, place = np.unique(np.concatenate([ids for ids, _ in rows]), return_inverse=True)
    values = np.concatenate([stops for _, stops in rows])
    total, count = np.bincount(place, values), np.bincount(place)
    apart = values - (total / count)[place]
    shared = count[place] > 1
    ends = np.cumsum([len(ids) for ids, _ in rows])
    return {
        name: float(np.median(apart[first:last][shared[first:last]]))
        for name, first, last in zip(light, [0, *ends], ends, strict=False)
        if shared[first:last].any()
    }


def _normal(values: Array) -> Array:
    spread = float(values.std())
    normal: Array = (values - values.mean()) / spread if spread > _FLAT else np.zeros(len(values))
    return normal


def _correlation(values: Array, reference: Array) -> float:
    """Correlation where there is a reference; 1, nothing to say, where that is too little."""
    there = np.isfinite(reference)
    if there.sum() < _LEAST:
        return 1.0
    a, b = values[there], reference[there]
    if not a.std():
        return 0.0
    return float(np.corrcoef(a, b)[0, 1]) if b.std() > 1e-6 else -1.0
