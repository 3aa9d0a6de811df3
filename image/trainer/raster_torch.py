"""The rasteriser in plain PyTorch: gsplat's image formation, for machines without a GPU.

Constants and formulas are those of gsplat 1.5.3's classic mode (``ProjectionEWA3DGSFused.cu``,
``RasterizeToPixels3DGSFwd.cu``): a gpu check compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

NEAR = 0.01
BLACK = (0.0, 0.0, 0.0)
#: Added to the diagonal of the projected covariance, in square pixels.
EPS2D = 0.3
MAX_ALPHA = 0.999
MIN_ALPHA = 1 / 255
MIN_TRANSMITTANCE = 1e-4
_TILE = 8
#: Elements (Gaussian x pixel) handled at once: some megabytes, near the caches.
_BUDGET = 1 << 18

_C1 = 0.4886025119029199
_C2 = (
    1.0925484305920792,
    -1.0925484305920792,
    0.31539156525252005,
    -1.0925484305920792,
    0.5462742152960396,
)
_C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)


def render(
    values: Mapping[str, Tensor],
    opacities: Tensor,
    viewmat: Tensor,
    intrinsics: tuple[float, float, float, float],
    width: int,
    height: int,
    sh_degree: int,
    background: tuple[float, float, float] = BLACK,
) -> Tensor:
    """Image (height, width, 3), not clamped; differentiable in ``values``, ``opacities``.

    ``values`` as in ``Splats.params``; ``opacities`` (N,) in [0, 1]; ``viewmat`` (4, 4) world to
    camera; ``intrinsics`` fx, fy, cx, cy in pixels.
    """
    centre, conic, depth, extent = project(values, opacities, viewmat, intrinsics, width, height)
    eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
    color = shade(values["means"] - eye, values["sh0"], values["shN"], sh_degree)
    # The logarithm of the opacity joins the exponent; what is culled never meets a tile.
    log_opacity = opacities.clamp_min(1e-12).log()
    behind = color.new_tensor(background)
    # What light is left shows the background: weights and rest add up to one.
    packed = torch.cat([centre, conic, log_opacity[:, None], color - behind], 1)
    with torch.no_grad():
        tiles = bin_tiles(packed, extent, depth, width, height)
    image: Tensor = _Composite.apply(packed, tiles, width, height)  # type: ignore[no-untyped-call]
    return image + behind


def project(
    values: Mapping[str, Tensor],
    opacities: Tensor,
    viewmat: Tensor,
    intrinsics: tuple[float, float, float, float],
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres (N, 2), conics (N, 3), depths (N,) and half extents (N, 2) in pixels.

    An extent is where alpha falls to ``MIN_ALPHA``, exactly; it is negative for what is behind the
    near plane or too faint. EWA splatting with gsplat's clamp of the Jacobian at 1.3 times the
    field of view.
    """
    fx, fy, cx, cy = intrinsics
    rotation = viewmat[:3, :3]
    x, y, z = (values["means"] @ rotation.T + viewmat[:3, 3]).unbind(1)
    visible = z > NEAR
    rz = 1 / torch.where(visible, z, torch.ones_like(z))
    centre = torch.stack([fx * x * rz + cx, fy * y * rz + cy], 1)
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    slope_x = (x * rz).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    slope_y = (y * rz).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    # Rows k of the transposed R S, turned into the camera: (N, 3 axes, 3 coordinates).
    axes = (rotation_rows(values["quats"]) * values["scales"].exp()[:, :, None]) @ rotation.T
    u = (fx * rz)[:, None] * (axes[:, :, 0] - slope_x[:, None] * axes[:, :, 2])
    v = (fy * rz)[:, None] * (axes[:, :, 1] - slope_y[:, None] * axes[:, :, 2])
    a = (u * u).sum(1) + EPS2D
    b = (u * v).sum(1)
    c = (v * v).sum(1) + EPS2D
    det = (a * c - b * b).clamp_min(1e-12)
    conic = torch.stack([c / det, -b / det, a / det], 1)
    with torch.no_grad():
        reach = (2 * (opacities.clamp_min(1e-12) / MIN_ALPHA).log()).clamp_min(0).sqrt()
        extent = torch.stack([reach * a.sqrt(), reach * c.sqrt()], 1)
        extent[~visible | (opacities < MIN_ALPHA)] = -1
    return centre, conic, z, extent


def rotation_rows(quats: Tensor) -> Tensor:
    """Transposed rotation matrices (N, 3, 3) of quaternions (N, 4), w first, any length."""
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y + w * z),
            2 * (x * z - w * y),
            2 * (x * y - w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z + w * x),
            2 * (x * z + w * y),
            2 * (y * z - w * x),
            1 - 2 * (x * x + y * y),
        ],
        1,
    ).view(-1, 3, 3)


def shade(directions: Tensor, sh0: Tensor, sh_rest: Tensor, degree: int) -> Tensor:
    """Colours (N, 3), at least 0: spherical harmonics up to ``degree`` plus one half."""
    basis = sh_basis(directions, degree)
    color = basis[:, :1] * sh0[:, 0]
    if degree:
        count = (degree + 1) ** 2 - 1
        color = color + (basis[:, 1:, None] * sh_rest[:, :count]).sum(1)
    return (color + 0.5).clamp_min(0)


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics (N, (degree + 1)^2) in the order and signs of 3DGS."""
    x, y, z = (directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)).unbind(1)
    out = [torch.full_like(x, 0.28209479177387814)]
    if degree > 0:
        out += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree > 1:
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        out += [
            _C2[0] * xy,
            _C2[1] * yz,
            _C2[2] * (2 * zz - xx - yy),
            _C2[3] * xz,
            _C2[4] * (xx - yy),
        ]
    if degree > 2:
        out += [
            _C3[0] * y * (3 * xx - yy),
            _C3[1] * xy * z,
            _C3[2] * y * (4 * zz - xx - yy),
            _C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            _C3[4] * x * (4 * zz - xx - yy),
            _C3[5] * z * (xx - yy),
            _C3[6] * x * (xx - 3 * yy),
        ]
    return torch.stack(out, 1)


class Tiles:
    """Which Gaussians meet which tile: ``ids`` sorted by tile and depth, with starts and counts."""

    def __init__(self, ids: Tensor, counts: Tensor, across: int, down: int) -> None:
        self.ids, self.counts, self.across, self.down = ids, counts, across, down
        self.starts = counts.cumsum(0) - counts

    def groups(self, dummy: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Tiles of like counts together: their numbers (G,) and padded Gaussians (G, K)."""
        counts, order = self.counts.sort(descending=True)
        sizes = counts.tolist()
        at = 0
        while at < len(sizes) and sizes[at]:
            most = sizes[at]
            tiles = order[at : at + max(1, _BUDGET // (most * _TILE * _TILE))]
            tiles = tiles[self.counts[tiles] > 0]
            rank = torch.arange(most, device=tiles.device)
            place = (self.starts[tiles][:, None] + rank).clamp_max(len(self.ids) - 1)
            yield tiles, torch.where(rank < self.counts[tiles][:, None], self.ids[place], dummy)
            at += len(tiles)


def bin_tiles(packed: Tensor, extent: Tensor, depth: Tensor, width: int, height: int) -> Tiles:
    """Pair Gaussians with the tiles in which they reach ``MIN_ALPHA``, nearest first.

    ``packed`` (N, 9): centre, conic, log opacity, colour. Boxes first, then the ellipse itself.
    """
    across, down = math.ceil(width / _TILE), math.ceil(height / _TILE)
    limit = torch.tensor([across, down], device=packed.device)
    # Clones lie exactly where their source lies: equal depths keep their order, as in gsplat.
    order = depth.argsort(stable=True)
    packed, extent = packed[order], extent[order]
    centre = packed[:, :2]
    low = ((centre - extent) / _TILE).floor().clamp(min=-1, max=1e6).long().clamp_min(0)
    high = ((centre + extent) / _TILE).floor().clamp(min=-1, max=1e6).long() + 1
    size = (torch.minimum(high, limit) - low).clamp_min(0)
    size[extent[:, 0] < 0] = 0
    pairs = size[:, 0] * size[:, 1]
    ids = torch.repeat_interleave(pairs)
    rank = torch.arange(len(ids), device=ids.device) - (pairs.cumsum(0) - pairs)[ids]
    wide = size[ids, 0]
    place = low[ids] + torch.stack([rank % wide, rank // wide], 1)
    meets = (
        _least(packed[ids, 2:5], place * _TILE + _TILE / 2 - centre[ids])
        <= (packed[:, 5] - math.log(MIN_ALPHA))[ids]
    )
    ids, place = ids[meets], place[meets]
    tile, by_tile = (place[:, 1] * across + place[:, 0]).sort(stable=True)
    return Tiles(order[ids[by_tile]], torch.bincount(tile, minlength=across * down), across, down)


def _least(conic: Tensor, middle: Tensor) -> Tensor:
    """Least exponent of conics (M, 3) over the pixel centres' square about ``middle`` (M, 2).

    A convex form is least on an edge that faces its centre: try the nearest of either direction.
    """
    half = (_TILE - 1) / 2
    a, b, c = conic.unbind(1)
    low, high = (middle - half).unbind(1), (middle + half).unbind(1)
    x, y = (torch.zeros_like(a).clamp(lo, hi) for lo, hi in zip(low, high, strict=True))
    y_best = (-b * x / c).clamp(low[1], high[1])
    x_best = (-b * y / a).clamp(low[0], high[0])
    return torch.minimum(
        0.5 * (a * x * x + c * y_best * y_best) + b * x * y_best,
        0.5 * (a * x_best * x_best + c * y * y) + b * x_best * y,
    )


class _Composite(torch.autograd.Function):
    """Front-to-back compositing with its gradient in closed form.

    The exponent is a polynomial in the pixel's place in its tile, so that one matrix product gives
    it for all pixels, and one more carries gradients back. Nothing of size Gaussian x pixel is
    kept between the passes: memory is bounded by ``_BUDGET`` whatever the image.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, tiles: Tiles, width: int, height: int) -> Tensor:
        padded = _pad(packed)
        flat = packed.new_zeros(tiles.across * tiles.down, _TILE * _TILE, 3)
        for numbers, ids in tiles.groups(len(packed)):
            rows, offset = _local(padded, ids, numbers, tiles.across)
            weight, _, _ = _weights(rows, offset)
            flat[numbers] = weight.transpose(1, 2) @ rows[..., 6:]
        ctx.save_for_backward(packed)
        ctx.tiles, ctx.size = tiles, (width, height)
        square = flat.view(tiles.down, tiles.across, _TILE, _TILE, 3).transpose(1, 2)
        return square.reshape(tiles.down * _TILE, tiles.across * _TILE, 3)[:height, :width]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (packed,) = ctx.saved_tensors
        tiles, (width, height) = ctx.tiles, ctx.size
        whole = packed.new_zeros(tiles.down * _TILE, tiles.across * _TILE, 3)
        whole[:height, :width] = grads[0]
        flat = (
            whole.view(tiles.down, _TILE, tiles.across, _TILE, 3)
            .transpose(1, 2)
            .reshape(tiles.across * tiles.down, _TILE * _TILE, 3)
        )
        padded = _pad(packed)
        out = torch.zeros_like(padded)
        basis = _basis(packed)
        for numbers, ids in tiles.groups(len(packed)):
            rows, offset = _local(padded, ids, numbers, tiles.across)
            weight, alpha, before = _weights(rows, offset)
            v_pixel = flat[numbers]
            gain = rows[..., 6:] @ v_pixel.transpose(1, 2)
            light = weight * gain
            # What lies behind k: the sum over all minus the sum up to k.
            behind = light.sum(1, keepdim=True) - light.cumsum(1)
            v_alpha = before.mul_(gain).sub_(behind.div_(1 - alpha))
            # Where alpha was cut off or clamped, it does not follow its exponent.
            v_power = v_alpha.mul_(alpha).mul_((alpha > 0) & (alpha < MAX_ALPHA))
            v_rows = torch.cat([_pull_back(rows, offset, v_power @ basis.T), weight @ v_pixel], -1)
            out.index_add_(0, ids.reshape(-1), v_rows.view(-1, 9))
        return out[:-1], None, None, None


def _pad(packed: Tensor) -> Tensor:
    """One more Gaussian that draws nothing, for the ragged ends of groups."""
    dummy = packed.new_tensor([[0, 0, 1, 0, 1, -1e4, 0, 0, 0]])
    return torch.cat([packed, dummy])


def _basis(like: Tensor) -> Tensor:
    """Monomials 1, x, y, xx, xy, yy of the pixels of a tile about its middle: (6, pixels)."""
    at = torch.arange(_TILE, device=like.device, dtype=like.dtype) + 0.5 - _TILE / 2
    y, x = (t.reshape(-1) for t in torch.meshgrid(at, at, indexing="ij"))
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])


def _local(padded: Tensor, ids: Tensor, numbers: Tensor, across: int) -> tuple[Tensor, Tensor]:
    """Records (G, K, 9) and their centres relative to the middle of their tile (G, K, 2)."""
    rows = padded[ids]
    middle = torch.stack([numbers % across, numbers // across], 1) * _TILE + _TILE / 2
    return rows, rows[..., :2] - middle[:, None, :]


def _weights(rows: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, alphas and the light left before each Gaussian, all (G, K, pixels)."""
    x, y = offset.unbind(-1)
    a, b, c, log_opacity = rows[..., 2:6].unbind(-1)
    factors = torch.stack(
        [
            log_opacity - 0.5 * (a * x * x + c * y * y) - b * x * y,
            a * x + b * y,
            c * y + b * x,
            -0.5 * a,
            -b,
            -0.5 * c,
        ],
        -1,
    )
    alpha = (factors @ _basis(rows)).exp_().clamp_(max=MAX_ALPHA)
    alpha = torch.threshold(alpha, MIN_ALPHA, 0.0)
    after = (1 - alpha).cumprod_(1)
    before = torch.ones_like(after)
    before[:, 1:] = after[:, :-1]
    # The Gaussian that would take the light below the threshold is left out, with all behind it.
    alpha.mul_(after > MIN_TRANSMITTANCE)
    return alpha * before, alpha, before


def _pull_back(rows: Tensor, offset: Tensor, v: Tensor) -> Tensor:
    """Gradients (G, K, 6) of centre, conic and log opacity from those of the polynomial."""
    x, y = offset.unbind(-1)
    a, b, c = rows[..., 2:5].unbind(-1)
    v0, v1, v2, v3, v4, v5 = v.unbind(-1)
    return torch.stack(
        [
            a * v1 + b * v2 - (a * x + b * y) * v0,
            b * v1 + c * v2 - (b * x + c * y) * v0,
            x * v1 - 0.5 * (v3 + x * x * v0),
            y * v1 + x * v2 - v4 - x * y * v0,
            y * v2 - 0.5 * (v5 + y * y * v0),
            v0,
        ],
        -1,
    )
