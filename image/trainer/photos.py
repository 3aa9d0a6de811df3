"""Photographs: found, decoded once, undistorted, reduced, and kept as bytes."""

from __future__ import annotations

import contextlib
import os
import time
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pycolmap
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer import host, log
from trainer.errors import TrainerError
from trainer.scene import Scene, Shot

#: Up to this share of registered photographs may be missing or unreadable; above it the
#: hand-over, not the odd file, is broken.
MAX_MISSING = 0.05
#: SSIM looks through an 11-pixel window.
MIN_SIDE = 16
#: What is read as a photograph. Pillow knows more, and starts other programs for some of it.
FORMATS = ("JPEG", "JPEG2000", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
#: Pixels that a photograph may have although its camera has not a quarter as many.
_ANY_SIZE = 2**26
# Pillow's own limit refuses large aerial cameras; a photograph is held against its camera instead.
Image.MAX_IMAGE_PIXELS = None
#: Seconds between lines that say how far decoding has come.
_SAY_EVERY = 5.0


@dataclass(frozen=True)
class Photo:
    """A photograph and the pinhole camera that took it, at the size that is trained.

    ``pixels`` is (height, width, 3) uint8; focal lengths and principal point are in its pixels,
    with the centre of the first pixel at (0.5, 0.5).
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    fx: float
    fy: float
    cx: float
    cy: float
    rotation: npt.NDArray[Any]
    translation: npt.NDArray[Any]
    undistorted: bool

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])


def index_photos(scene: Scene) -> dict[str, Path]:
    """Photographs there are, by their path under ``images/`` (see ``_key``).

    Raises ``E_SCENE_IMAGES`` when too many registered ones are missing: no decoding is needed for
    that.
    """
    index = {
        _key(p.relative_to(scene.images)): p for p in sorted(scene.images.rglob("*")) if p.is_file()
    }
    names = [s.name for s in scene.shots if find_photo(scene.images, s.name, index) is None]
    refuse_lost([f"{name} (missing)" for name in names], len(scene.shots), index)
    return index


def load_photos(
    scene: Scene, index: dict[str, Path], max_size: int, check: Callable[[], None]
) -> list[Photo]:
    """Decode every registered photograph, in the scene's order; ``check`` may stop the work.

    Each is reduced before the next is decoded by the same thread: what is kept is
    ``max_size``-sized and one byte a channel. Raises ``E_SCENE_IMAGES`` when more than
    ``MAX_MISSING`` are missing or unreadable, or when one has another shape than its camera.
    """

    def load(shot: Shot) -> Photo | str:
        check()
        path = find_photo(scene.images, shot.name, index)
        if path is None:
            return f"{shot.name} (missing)"
        try:
            with opened(shot, path) as image:
                image.load()
                return prepare(shot, image, max_size)
        except UnidentifiedImageError:
            return f"{shot.name} (cannot be read as any of {', '.join(FORMATS)})"
        except (OSError, SyntaxError, ValueError) as error:
            return f"{shot.name} ({error})"

    photos: list[Photo] = []
    lost: list[str] = []
    said = time.monotonic()
    # Pillow decodes outside the interpreter's lock; more threads would hold more full-size images.
    with ThreadPoolExecutor(decoders()) as pool:
        for done, loaded in enumerate(pool.map(load, scene.shots), 1):
            photos.append(loaded) if isinstance(loaded, Photo) else lost.append(loaded)
            if time.monotonic() - said > _SAY_EVERY:
                said = time.monotonic()
                log.event(phase="photos", decoded=done, of=len(scene.shots))
    refuse_lost(lost, len(scene.shots), index)
    for name in lost:
        log.line(f"warning: left out {name}")
    log.event(
        phase="photos",
        used=len(photos),
        left_out=len(lost),
        not_registered=max(0, len(index) - len(scene.shots)),
        megabytes=sum(p.pixels.nbytes for p in photos) / 1e6,
    )
    return photos


def decoders() -> int:
    """How many photographs are decoded at once."""
    return min(8, host.cpus())


def refuse_lost(lost: Sequence[str], total: int, index: dict[str, Path]) -> None:
    """Raise ``E_SCENE_IMAGES`` if more than ``MAX_MISSING`` of ``total`` photographs are lost."""
    if len(lost) > MAX_MISSING * total:
        there = ", ".join(list(index)[:3]) or "no file"
        raise TrainerError(
            "E_SCENE_IMAGES",
            f"{len(lost)} of {total} registered photographs are missing or "
            f"unreadable ({MAX_MISSING:.0%} may be): {'; '.join(lost[:5])}",
            f"images/ holds {there}{' ...' if len(index) > 3 else ''}",
        )


def find_photo(folder: Path, name: str, index: dict[str, Path]) -> Path | None:
    """The file of a registered name: as written, else without regard to case; None if absent."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts:
        raise TrainerError(
            "E_SCENE_IMAGES", f"the model names a photograph outside images/: {name[:80]!r}"
        )
    path = folder / pure
    return path if os.path.isfile(path) else index.get(_key(pure))


def _key(path: PurePath) -> str:
    """A name without regard to case, and to how its accents are written: macOS parts them."""
    return unicodedata.normalize("NFC", path.as_posix()).casefold()


def sizes(scene: Scene) -> list[tuple[int, int]]:
    """Width and height of each photograph as it is decoded, by its header.

    Of one that is missing or unreadable its camera's.
    """
    index, found = index_photos(scene), []
    for shot in scene.shots:
        size = (shot.camera.width, shot.camera.height)
        path = find_photo(scene.images, shot.name, index)
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            if path:
                with opened(shot, path) as image:
                    size = image.size
        found.append(size)
    return found


def opened(shot: Shot, path: Path) -> Image.Image:
    """A photograph whose header is read; of a JPEG larger than its camera, the part that is needed.

    Raises ValueError for other giants: a header may be damaged, or lie.
    """
    camera, image = shot.camera, Image.open(path, formats=FORMATS)
    whole = image.size
    image.draft(None, (camera.width, camera.height))
    if image.width * image.height > max(_ANY_SIZE, 4 * camera.width * camera.height):
        image.close()
        raise ValueError(
            f"{whole[0]}x{whole[1]}, far larger than its camera's {camera.width}x{camera.height}"
        )
    return image


def prepare(shot: Shot, image: Image.Image, max_size: int) -> Photo:
    """Turn a decoded photograph into what is trained.

    Orientation: COLMAP reads pixels as stored, so EXIF is followed only where the camera has the
    turned shape and not the stored one. Size: intrinsics follow the photograph if both have the
    same aspect; otherwise ``E_SCENE_IMAGES`` with the numbers. Reduction: Pillow's LANCZOS on the
    8-bit photograph to ``round(size * scale)``, intrinsics by the true ratio per axis. (JPEG's own
    reduced decoding would save a fifth of the time, and differs from that by 33 to 42 dB.)
    """
    camera = shot.camera
    if not _same_shape(image.size, camera):
        turned = ImageOps.exif_transpose(image)
        if not _same_shape(turned.size, camera):
            raise TrainerError(
                "E_SCENE_IMAGES",
                f"{shot.name} is {image.width}x{image.height}, but its camera "
                f"{camera.camera_id} is {camera.width}x{camera.height}: another aspect; hand over "
                "the photographs that SfM saw",
            )
        image = turned
    image = _rgb(image)
    if not shot.pinhole:
        image, camera = undistort(shot, image)
    scale = min(1.0, max_size / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    if min(size) < MIN_SIDE:
        raise TrainerError(
            "E_SCENE_IMAGES",
            f"{shot.name} would be {size[0]}x{size[1]} pixels, "
            f"the shorter side must be at least {MIN_SIDE}; raise max_image_size",
        )
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    rx, ry = size[0] / camera.width, size[1] / camera.height
    return Photo(
        shot.name,
        np.array(image, np.uint8),
        camera.focal_length_x * rx,
        camera.focal_length_y * ry,
        camera.principal_point_x * rx,
        camera.principal_point_y * ry,
        shot.rotation,
        shot.translation,
        not shot.pinhole,
    )


def undistort(shot: Shot, image: Image.Image) -> tuple[Image.Image, pycolmap.Camera]:
    """The photograph as a pinhole camera would have taken it, by COLMAP's own undistorter."""
    camera = pycolmap.Camera(shot.camera.todict())
    camera.rescale(image.width, image.height)
    try:
        bitmap, pinhole = pycolmap.undistort_image(
            pycolmap.UndistortCameraOptions(), pycolmap.Bitmap.from_array(np.array(image)), camera
        )
    except (RuntimeError, ValueError) as error:
        raise TrainerError(
            "E_SCENE_CAMERA",
            f"camera {camera.camera_id} ({camera.model_name}) of "
            f"{shot.name} cannot be undistorted: {error}"[:400],
        ) from error
    return Image.fromarray(bitmap.to_array()), pinhole


def _same_shape(size: tuple[int, int], camera: pycolmap.Camera) -> bool:
    """Whether the aspects agree, to half a percent or the rounding of a reduced size."""
    width, height = size
    return abs(width - height * camera.width / camera.height) <= max(1.5, 0.005 * width)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels, which have no agreed range")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion saturates it
        image = Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
