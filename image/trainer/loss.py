"""How far an image is from its photograph: the loss, and the figures that are reported."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.masks import COUNTS, WINDOW, WINDOW_COUNTS

_SIGMA = 1.5
#: Share of SSIM in the loss; the rest is L1.
SSIM_WEIGHT = 0.2
_K1, _K2 = 0.01**2, 0.03**2


def ssim(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean structural similarity of images (H, W, 3) in [0, 1]; H and W at least 11.

    Gaussian window of 11 pixels and sigma 1.5, only where it lies wholly inside the image
    (Wang et al. 2004) and holds no pixel that ``mask`` leaves out.
    """
    x, y = a.permute(2, 0, 1), b.permute(2, 0, 1)
    rows = _band(x.shape[1], x.device, x.dtype)
    columns = _band(x.shape[2], x.device, x.dtype)
    stack = torch.cat([x, y, x * x, y * y, x * y])
    mx, my, xx, yy, xy = torch.split(rows @ stack @ columns.T, 3)
    mxx, myy, mxy = mx * mx, my * my, mx * my
    top = (2 * mxy + _K1) * (2 * (xy - mxy) + _K2)
    bottom = (mxx + myy + _K1) * (xx - mxx + yy - myy + _K2)
    if mask is None:
        return torch.mean(top / bottom)
    half = WINDOW // 2
    whole = (mask[half:-half, half:-half] & WINDOW_COUNTS) > 0
    return torch.mean((top / bottom)[:, whole])


@functools.lru_cache(maxsize=64)
def _band(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The window as a matrix (size - 10, size): two products blur faster than a convolution."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    kernel = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    band = torch.zeros(size - WINDOW + 1, size, dtype=torch.float64)
    for k in range(WINDOW):
        band.diagonal(k).fill_(kernel[k])
    return band.to(device, dtype)


def photometric(image: Tensor, photo: Tensor, mask: Tensor | None = None) -> Tensor:
    """0.8 L1 + 0.2 (1 - SSIM) of images (H, W, 3), as in 3DGS (Kerbl et al. 2023)."""
    near = F.l1_loss(*_counted(image, photo, mask))
    return (1 - SSIM_WEIGHT) * near + SSIM_WEIGHT * (1 - ssim(image, photo, mask))


def mse(image: Tensor, photo: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of an image clamped to [0, 1], as a scalar tensor."""
    return F.mse_loss(*_counted(image.clamp(0, 1), photo, mask))


def _counted(image: Tensor, photo: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if mask is None:
        return image, photo
    counts = (mask & COUNTS) > 0
    return image[counts], photo[counts]


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error; at most 100."""
    return -10 * math.log10(max(error, 1e-10))
