"""An independent renderer of the standard 3DGS image formation, in numpy.

It exists so that the quality of a ``.ply`` can be measured without the code that made it. The
formation is that of gsplat 1.5.3, ``rasterize_mode="classic"``: ``gsplat/cuda/include/Utils.cuh``
(``persp_proj``, ``add_blur``), ``csrc/ProjectionEWA3DGSFused.cu``,
``csrc/SphericalHarmonicsCUDA.cu`` and ``csrc/RasterizeToPixels3DGSFwd.cu``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from splatgate.scene.colmap import View, rotations
from splatgate.scene.splats import Splats

Array = npt.NDArray[Any]

#: Splats nearer than this (world units along the optical axis) are not drawn.
NEAR = 0.01
#: Added to the diagonal of every projected covariance, in square pixels.
BLUR = 0.3
#: A splat's contribution to a pixel is dropped below this and capped at ``MAX_ALPHA``.
MIN_ALPHA = 1 / 255
MAX_ALPHA = 0.999
#: A pixel is finished before the splat that would bring its transmittance to this or below.
MIN_TRANSMITTANCE = 1e-4

#: Side of a tile in pixels; 8 was the fastest of 8, 16 and 32 on trained scenes.
_TILE = 8
#: Splats composited at once in a tile; more are wasted work once the tile is opaque.
_CHUNK = 128
#: Candidate (splat, tile) pairs held at once: bounds memory to about 200 MB whatever the splats'
#: size.
_PAIRS = 1_000_000


@dataclass(frozen=True, eq=False)
class _Projected:
    """Visible splats, front to back: means and extents [n,2] px, conics a b c [n,3], the rest."""

    means: Array
    conics: Array
    log_opacity: Array
    colours: Array
    radii: Array


def render(
    splats: Splats, view: View, background: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> npt.NDArray[np.float32]:
    """Draw ``splats`` as ``view`` sees them.

    Returns:
        [height, width, 3] float32, linear in the splats' colours, at least 0 and not clamped above.
        Pixel (row i, column j) has its centre at (j + 0.5, i + 0.5), as in COLMAP. Splats whose
        projection overflows are not drawn.
    """
    drawn = _project(splats, view)
    across, down = -(-view.width // _TILE), -(-view.height // _TILE)
    colour = np.zeros((down * across, _TILE * _TILE, 4), np.float32)
    left = np.ones((down * across, _TILE * _TILE), np.float32)
    alive = np.ones((down, across), bool)
    start = 0
    while start < len(drawn.means) and alive.any():
        start, splat, tile = _bin(drawn, start, alive)
        _composite(drawn, splat, tile, across, colour, left)
        alive = (left > 0).any(axis=1).reshape(down, across)
    pixels = colour.reshape(down, across, _TILE, _TILE, 4).transpose(0, 2, 1, 3, 4)
    pixels = pixels.reshape(down * _TILE, across * _TILE, 4)[: view.height, : view.width]
    # The fourth channel is the sum of weights, that is one minus the transmittance that is left.
    behind = np.array(background, np.float32)
    image: npt.NDArray[np.float32] = pixels[..., :3] + (1 - pixels[..., 3:]) * behind
    return image


def _project(splats: Splats, view: View) -> _Projected:
    """EWA projection in float64, so that the reference is not what rounds."""
    in_camera = splats.means.astype(np.float64) @ view.R.T + view.t
    opacity = 1 / (1 + np.exp(-np.clip(splats.opacities.astype(np.float64), -80, 80)))
    keep = np.flatnonzero((in_camera[:, 2] >= NEAR) & (opacity >= MIN_ALPHA))
    x, y, z = in_camera[keep].T
    opacity = opacity[keep]
    fx, fy, cx, cy = view.K[0, 0], view.K[1, 1], view.K[0, 2], view.K[1, 2]
    # The Jacobian is taken no further out than 15 % of the image beyond its edge: EWA's
    # linearisation explodes there.
    slack_x, slack_y = 0.15 * view.width / fx, 0.15 * view.height / fy
    tx = np.clip(x / z, -cx / fx - slack_x, (view.width - cx) / fx + slack_x)
    ty = np.clip(y / z, -cy / fy - slack_y, (view.height - cy) / fy + slack_y)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        axes = view.R @ (
            rotations(splats.quats[keep]) * np.exp(splats.scales[keep, None, :].astype(np.float64))
        )
        u = (fx / z)[:, None] * (axes[:, 0] - tx[:, None] * axes[:, 2])
        v = (fy / z)[:, None] * (axes[:, 1] - ty[:, None] * axes[:, 2])
        xx, xy, yy = (u * u).sum(1) + BLUR, (u * v).sum(1), (v * v).sum(1) + BLUR
        det = xx * yy - xy * xy
        conics = np.stack([yy / det, -xy / det, xx / det], axis=1)
        means = np.stack([fx * x / z + cx, fy * y / z + cy], axis=1)
        reach = np.sqrt(2 * np.log(opacity / MIN_ALPHA))[:, None]
        radii = reach * np.sqrt(np.stack([xx, yy], axis=1))
        size = np.array([view.width, view.height])
        seen = (means + radii > 0).all(1) & (means - radii < size).all(1) & (det > 0)
        seen &= np.isfinite(conics).all(1) & np.isfinite(radii).all(1) & np.isfinite(means).all(1)
    # gsplat sorts float32 depths; equal ones stay in the order of the file.
    order = np.flatnonzero(seen)[np.argsort(z[seen].astype(np.float32), kind="stable")]
    chosen = keep[order]
    centre = -view.R.T @ view.t
    colours = sh_colours(splats, chosen, splats.means[chosen] - centre)
    return _Projected(means[order], conics[order], np.log(opacity[order]), colours, radii[order])


def sh_colours(splats: Splats, chosen: Array, directions: Array) -> npt.NDArray[np.float32]:
    """Colours [n,3] of the splats ``chosen`` [n] seen along ``directions`` [n,3], not below 0.

    Real spherical harmonics up to degree 3 in the order and signs of Sloan, "Efficient Spherical
    Harmonic Evaluation", JCGT 2013, as every 3DGS viewer expects them.
    """
    colours = 0.28209479177387814 * splats.sh0[chosen, 0, :]
    degree = splats.degree
    if degree > 0:
        x, y, z = (
            directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
        ).T
        basis = [-0.48860251190292 * y, 0.48860251190292 * z, -0.48860251190292 * x]
        if degree > 1:
            xx_yy, xy2 = x * x - y * y, 2 * x * y
            basis += [
                0.5462742152960395 * xy2,
                -1.092548430592079 * y * z,
                0.9461746957575601 * z * z - 0.3153915652525201,
                -1.092548430592079 * x * z,
                0.5462742152960395 * xx_yy,
            ]
        if degree > 2:
            ring = -2.285228997322329 * z * z + 0.4570457994644658
            basis += [
                -0.5900435899266435 * (x * xy2 + y * xx_yy),
                1.445305721320277 * z * xy2,
                ring * y,
                z * (1.865881662950577 * z * z - 1.119528997770346),
                ring * x,
                1.445305721320277 * z * xx_yy,
                -0.5900435899266435 * (x * xx_yy - y * xy2),
            ]
        weights = np.stack(basis, axis=1).astype(np.float32)
        colours = colours + np.einsum("nk,nkc->nc", weights, splats.shN[chosen])
    result: npt.NDArray[np.float32] = np.maximum(colours + 0.5, 0).astype(np.float32)
    return result


def _bin(drawn: _Projected, start: int, alive: Array) -> tuple[int, Array, Array]:
    """Pairs (splat, tile) that touch, by tile and then front to back, from splat ``start`` on.

    Takes as many splats as fit the budget of pairs; returns where to go on. Only tiles that are not
    finished count.
    """
    rows, columns = np.flatnonzero(alive.any(axis=1)), np.flatnonzero(alive.any(axis=0))
    first, last = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]])
    stop = min(start + _PAIRS // 8, len(drawn.means))
    means, radii = drawn.means[start:stop], drawn.radii[start:stop]
    low = np.clip(np.floor((means - radii) / _TILE), first, last + 1).astype(np.int64)
    high = np.clip(np.floor((means + radii) / _TILE), first - 1, last).astype(np.int64)
    wide, tall = np.maximum(high - low + 1, 0).T
    counts = wide * tall
    stop = start + max(int(np.searchsorted(np.cumsum(counts), _PAIRS, side="right")), 1)
    counts = counts[: stop - start]
    local = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(local)) - np.repeat(np.cumsum(counts) - counts, counts)
    column = low[local, 0] + nth % wide[local]
    row = low[local, 1] + nth // wide[local]
    splat = local + start
    touch = np.flatnonzero(alive[row, column])
    splat, row, column = splat[touch], row[touch], column[touch]
    touch = np.flatnonzero(_touches(drawn, splat, column, row))
    tile = (row * alive.shape[1] + column)[touch]
    # numpy sorts 16-bit keys by radix, several times faster than the merge sort of wider ones.
    keys = tile.astype(np.uint16) if alive.size <= 1 << 16 else tile
    by_tile = np.argsort(keys, kind="stable")
    return stop, splat[touch][by_tile], tile[by_tile]


def _touches(drawn: _Projected, splat: Array, column: Array, row: Array) -> Array:
    """Whether a splat reaches ``MIN_ALPHA`` anywhere between a tile's outermost pixel centres."""
    left = column * _TILE + 0.5 - drawn.means[splat, 0]
    top = row * _TILE + 0.5 - drawn.means[splat, 1]
    a, b, c = drawn.conics[splat].T
    span = _TILE - 1
    dx, dy = np.clip(0, left, left + span), np.clip(0, top, top + span)
    # The minimum over a rectangle of a convex quadratic lies on a side that faces its centre.
    side_y = np.clip(-b / c * dx, top, top + span)
    side_x = np.clip(-b / a * dy, left, left + span)
    least = np.minimum(
        a * dx * dx + 2 * b * dx * side_y + c * side_y * side_y,
        a * side_x * side_x + 2 * b * side_x * dy + c * dy * dy,
    )
    # The slack keeps pairs at the very threshold for the pixel's own test.
    touches: Array = least <= 2 * (drawn.log_opacity[splat] - np.log(MIN_ALPHA)) + 1e-3
    return touches


def _composite(
    drawn: _Projected, splat: Array, tile: Array, across: int, colour: Array, left: Array
) -> None:
    """Blend pairs into ``colour`` [tiles,pixels,4] and transmittance ``left`` [tiles,pixels]."""
    offset = np.arange(_TILE) - (_TILE - 1) / 2
    v, u = (grid.ravel() for grid in np.meshgrid(offset, offset, indexing="ij"))
    basis = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v]).astype(np.float32)
    # log alpha is a quadratic in the pixel; expanded around the tile's centre it is one matrix
    # product a tile, and the constant term, where float32 would cancel, is made in float64.
    ex = tile % across * _TILE + _TILE / 2 - drawn.means[splat, 0]
    ey = tile // across * _TILE + _TILE / 2 - drawn.means[splat, 1]
    a, b, c = drawn.conics[splat].T
    gx, gy = a * ex + b * ey, b * ex + c * ey
    constant = drawn.log_opacity[splat] - 0.5 * (gx * ex + gy * ey)
    quadratic = np.stack([constant, -gx, -gy, -0.5 * a, -b, -0.5 * c], axis=1).astype(np.float32)
    paint = np.concatenate([drawn.colours, np.ones((len(drawn.colours), 1), np.float32)], axis=1)[
        splat
    ]
    edges = np.flatnonzero(np.diff(tile, prepend=-1, append=-1))
    for begin, end in pairwise(edges):
        here = tile[begin]
        for first in range(begin, end, _CHUNK):
            chunk = slice(first, min(first + _CHUNK, end))
            alpha = np.exp(quadratic[chunk] @ basis)
            np.minimum(alpha, np.float32(MAX_ALPHA), out=alpha)
            alpha *= alpha >= np.float32(MIN_ALPHA)
            through = np.empty((len(alpha) + 1, alpha.shape[1]), np.float32)
            through[0] = left[here]
            np.subtract(1, alpha, out=through[1:])
            np.multiply.accumulate(through, axis=0, out=through)
            open_ = through[1:] > MIN_TRANSMITTANCE
            alpha *= through[:-1]
            alpha *= open_
            colour[here] += alpha.T @ paint[chunk]
            left[here] = through[-1] * open_[-1]
            if not left[here].any():
                break
