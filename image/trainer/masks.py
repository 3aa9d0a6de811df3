"""Masks: what takes no part in loss, SSIM windows and figures.

A file below ``masks/`` named after its photograph, with ``.png`` after the whole name as COLMAP has
it or after the stem, 0 where nothing counts; and the photograph's own alpha.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter

#: SSIM looks through a window of so many pixels.
WINDOW = 11
#: Bits of a mask: the pixel counts; so does the window of SSIM around it.
COUNTS, WINDOW_COUNTS = 1, 2


def key(path: PurePath) -> str:
    """A name without regard to case, and to how its accents are written: macOS parts them."""
    return unicodedata.normalize("NFC", path.as_posix()).casefold()


def index(folder: Path) -> dict[str, Path]:
    """Masks below a folder, by the key of a photograph's whole name, or of its stem."""
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    return {key(path.relative_to(folder).with_suffix("")): path for path in files}


def kept(name: str, image: Image.Image, there: dict[str, Path]) -> Image.Image | None:
    """What counts of a photograph, 255, by its mask and its alpha; None: everything."""
    pure = PurePosixPath(name.replace("\\", "/"))
    path = there.get(key(pure)) or there.get(key(pure.with_suffix("")))
    found: Image.Image | None = None
    if path:
        with Image.open(path, formats=("PNG", "TIFF", "BMP", "JPEG", "WEBP")) as stored:
            found = stored.convert("L").point(lambda value: 255 if value else 0)
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A").point(lambda value: 255 if value > 127 else 0)
        if alpha.getextrema() != (255, 255):
            found = alpha if found is None else ImageChops.darker(alpha, found.resize(alpha.size))
    return found


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """With the mean of what counts where nothing does: reducing mixes neighbours."""
    pixels, kept = np.array(image), np.asarray(mask) > 0
    if not kept.any():
        raise ValueError("its mask leaves nothing")
    pixels[~kept] = pixels[kept].mean(0)
    return Image.fromarray(pixels)


def bits(mask: Image.Image) -> npt.NDArray[np.uint8]:
    """Bits of a reduced mask: a pixel counts where all of it does, a window where all pixels do."""
    whole = mask.point(lambda value: 255 if value == 255 else 0)
    windows = whole.filter(ImageFilter.MinFilter(WINDOW))
    found = (np.asarray(whole) > 0) * COUNTS + (np.asarray(windows) > 0) * WINDOW_COUNTS
    half = WINDOW // 2
    if not (found[half:-half, half:-half] & WINDOW_COUNTS).any():
        raise ValueError("its mask leaves no place as large as a window of SSIM")
    return found.astype(np.uint8)
