"""Photographs, and how like one an image is.

Metrics as the field reports them: PSNR over all pixels and channels in [0, 1]; SSIM with an 11x11
Gaussian window of sigma 1.5 over its valid area (Wang et al., 2004; what torchmetrics gives).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, ImageStat

from splatgate.evidence import BadInput
from splatgate.scene.colmap import View

Array = npt.NDArray[Any]

#: What Pillow raises for a file that is no sound photograph.
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
#: SSIM's window and its constants for values in [0, 1].
WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def load_photo(
    view: View, width: int | None = None, height: int | None = None
) -> npt.NDArray[np.float32]:
    """A view's photograph [height,width,3] in [0, 1], LANCZOS; by default of its camera's size.

    Raises:
        BadInput: no such file, or it cannot be decoded.
    """
    image = _decode(view)
    size = (width or view.width, height or view.height)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32) / np.float32(255)


def mean_colour(view: View) -> npt.NDArray[np.float64]:
    """Mean colour [3] of a view's photograph in [0, 1]; raises as `load_photo` does."""
    return np.array(ImageStat.Stat(_decode(view)).mean) / 255


def _decode(view: View) -> Image.Image:
    if view.photo is None:
        raise BadInput(f"images/{view.name}: missing; hand over every registered photograph")
    try:
        with Image.open(view.photo) as stored:
            return upright(stored, view).convert("RGB")
    except UNREADABLE as error:
        reason = f"cannot be decoded ({error}); copy the photograph again"
        raise BadInput(f"{view.photo}: {reason}") from None


def upright(image: Image.Image, view: View) -> Image.Image:
    """``image`` as stored, or turned by its EXIF tag where only that has the camera's shape.

    COLMAP solves on pixels as stored, so the tag of a photograph that has the right shape already
    means nothing.
    """
    return image if same_shape(image.size, view) else ImageOps.exif_transpose(image)


def same_shape(size: tuple[int, int], view: View) -> bool:
    """Whether a size in pixels has the camera's proportion, to the rounding of a reduced one."""
    wide = size[1] * view.width / max(view.height, 1)
    return abs(size[0] - wide) <= max(1.5, 0.005 * size[0])


def psnr(image: Array, photo: Array) -> float:
    """PSNR in dB of ``image``, clamped to [0, 1], against ``photo``, both [h,w,3]; at most 100."""
    error = np.clip(image, 0, 1).astype(np.float64) - photo
    return float(-10 * np.log10(max(float((error * error).mean()), 1e-10)))


def ssim(image: Array, photo: Array) -> float:
    """SSIM of ``image``, clamped to [0, 1], against ``photo``, both [h,w,3], mean over channels.

    Raises:
        BadInput: a side is shorter than the window's 11 pixels.
    """
    if min(image.shape[:2]) < WINDOW:
        size = f"{image.shape[1]}x{image.shape[0]} pixels"
        raise BadInput(f"{size}: SSIM needs {WINDOW} a side; measure larger views")
    x, y = np.clip(image, 0, 1).astype(np.float64), photo.astype(np.float64)
    mx, my, xx, yy, xy = (_blur(part) for part in (x, y, x * x, y * y, x * y))
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    score = (2 * mx * my + _C1) * (2 * cov + _C2) / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    return float(score.mean())


def _blur(image: Array) -> Array:
    at = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-(at**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    height, width = image.shape[0] - WINDOW + 1, image.shape[1] - WINDOW + 1
    rows: Array = sum(k * image[i : i + height] for i, k in enumerate(kernel))
    out: Array = sum(k * rows[:, i : i + width] for i, k in enumerate(kernel))
    return out
