"""Photographs, and how like one an image is.

Metrics as the field reports them: PSNR over all pixels and channels in [0, 1]; SSIM with an 11x11
Gaussian window of sigma 1.5 over its valid area (Wang et al., 2004; what torchmetrics gives).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter, ImageOps, ImageStat

from splatgate.evidence import BadInput
from splatgate.scene.colmap import UNREADABLE, View, whole

Array = npt.NDArray[Any]

#: EXIF's tag of the orientation.
_ORIENTATION = 0x0112
#: SSIM's window and its constants for values in [0, 1].
WINDOW = 11
_SIGMA = 1.5
NEAREST = Image.Resampling.NEAREST
_C1, _C2 = 0.01**2, 0.03**2


def load_photo(
    view: View, width: int | None = None, height: int | None = None
) -> npt.NDArray[np.float32]:
    """A view's photograph [height,width,3] in [0, 1], LANCZOS; by default of its camera's size.

    Raises:
        BadInput: no such file, or it cannot be decoded.
    """
    image, left_out = _decode(view), kept(view)
    size = (width or view.width, height or view.height)
    if left_out:
        # What does not count must not be mixed into its neighbours.
        pixels, whole = np.array(image), np.asarray(left_out.resize(image.size, NEAREST)) > 0
        pixels[~whole] = pixels[whole].mean(0) if whole.any() else 0
        image = Image.fromarray(pixels)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32) / np.float32(255)


def mean_colour(view: View) -> npt.NDArray[np.float64]:
    """Mean colour [3] of a view's photograph in [0, 1]; raises as `load_photo` does."""
    image, mask = _decode(view), kept(view)
    return np.array(ImageStat.Stat(image, mask and mask.resize(image.size, NEAREST)).mean) / 255


def kept(view: View) -> Image.Image | None:
    """What counts of a photograph, 255, by its file below ``masks/`` and its alpha; None: all.

    ``NAME.jpg.png`` as COLMAP has it, or ``NAME.png``; 0 where nothing counts. Raises as
    `load_photo` does.
    """
    found: Image.Image | None = None
    if view.photo is None:
        return None
    name = PurePosixPath(view.name.replace("\\", "/"))
    folder = view.photo.parents[len(name.parts)] / "masks"
    try:
        for path in (folder / f"{name}.png", folder / name.with_suffix(".png")):
            if found is None and path.is_file():
                with Image.open(path) as stored:
                    found = stored.convert("L").point(lambda value: 255 if value else 0)
        with Image.open(view.photo) as image:
            turn = image.getexif().get(_ORIENTATION, 1)
            if image.has_transparency_data:
                alpha = whole(image, view).convert("RGBA").getchannel("A")
                alpha = alpha.point(lambda value: 255 if value > 127 else 0)
                found = ImageChops.darker(alpha, found.resize(alpha.size)) if found else alpha
    except UNREADABLE as error:
        raise BadInput(f"{view.photo}: its mask cannot be read ({error}); copy it again") from None
    if found is None or found.getextrema() == (255, 255):
        return None
    # A mask is stored as its photograph is, and is turned as that is.
    found.getexif()[_ORIENTATION] = turn
    return upright(found, view)


def counted(view: View, width: int, height: int) -> tuple[Array, Array] | None:
    """Which pixels [height,width] count, and which windows of SSIM [h-10,w-10] do; None: all."""
    mask = kept(view)
    if mask is None:
        return None
    full = mask.resize((width, height), Image.Resampling.BOX).point(lambda v: 255 * (v == 255))
    windows = np.asarray(full.filter(ImageFilter.MinFilter(WINDOW))) > 0
    half = WINDOW // 2
    return np.asarray(full) > 0, windows[half:-half, half:-half]


def _decode(view: View) -> Image.Image:
    if view.photo is None:
        raise BadInput(f"images/{view.name}: missing; hand over every registered photograph")
    try:
        with Image.open(view.photo) as stored:
            return eight_bit(upright(whole(stored, view), view), view.white).convert("RGB")
    except UNREADABLE as error:
        reason = f"cannot be decoded ({error}); copy the photograph again"
        raise BadInput(f"{view.photo}: {reason}") from None


def eight_bit(image: Image.Image, white: int) -> Image.Image:
    """A 16-bit grey photograph in 8 bits, by what is white in its scene; others as they are."""
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image, np.float64) * (255 / white)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


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


def psnr(image: Array, photo: Array, pixels: Array | None = None) -> float:
    """PSNR in dB of ``image``, clamped to [0, 1], against ``photo``, both [h,w,3]; at most 100.

    ``pixels`` [h,w]: those that count.
    """
    error = np.clip(image, 0, 1).astype(np.float64) - photo
    error = error if pixels is None else error[pixels]
    return float(-10 * np.log10(max(float((error * error).mean()), 1e-10)))


def ssim(image: Array, photo: Array, windows: Array | None = None) -> float:
    """SSIM of ``image``, clamped to [0, 1], against ``photo``, both [h,w,3], mean over channels.

    ``windows`` [h-10,w-10]: those that count.

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
    return float((score if windows is None else score[windows]).mean())


def _blur(image: Array) -> Array:
    at = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-(at**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    height, width = image.shape[0] - WINDOW + 1, image.shape[1] - WINDOW + 1
    rows: Array = sum(k * image[i : i + height] for i, k in enumerate(kernel))
    out: Array = sum(k * rows[:, i : i + width] for i, k in enumerate(kernel))
    return out
