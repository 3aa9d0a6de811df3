"""Photographs: found, decoded once, undistorted, reduced, and kept as bytes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pycolmap
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer import host, log, masks
from trainer.errors import TrainerError
from trainer.scene import Scene, Shot

#: Up to this share of registered photographs may be missing or unreadable; above it the
#: hand-over, not the odd file, is broken.
MAX_MISSING = 0.05
#: SSIM looks through an 11-pixel window.
MIN_SIDE = 16
#: EXIF's tag of the orientation.
_ORIENTATION = 0x0112
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
    #: (height, width) uint8, bits as in ``trainer.masks``; None: every pixel counts.
    mask: npt.NDArray[np.uint8] | None = None

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])


def index_photos(scene: Scene) -> dict[str, Path]:
    """Photographs there are, by their path under ``images/`` (see ``masks.key``).

    Raises ``E_SCENE_IMAGES`` when too many registered ones are missing: no decoding is needed for
    that.
    """
    index = {
        masks.key(p.relative_to(scene.images)): p
        for p in sorted(scene.images.rglob("*"))
        if p.is_file()
    }
    names = [s.name for s in scene.shots if find_photo(scene.images, s.name, index) is None]
    refuse_lost([f"{name} (missing)" for name in names], len(scene.shots), _near(names, index))
    return index


def load_photos(
    scene: Scene,
    index: dict[str, Path],
    max_size: int,
    check: Callable[[], None],
    masked: bool = True,
) -> list[Photo]:
    """Decode every registered photograph, in the scene's order; ``check`` may stop the work.

    ``masked``: what its alpha or its mask below ``masks/`` leaves out does not count.

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
                mask = masks.kept(shot.name, image, there) if masked else None
                return prepare(shot, image, max_size, deepest, mask)
        except UnidentifiedImageError:
            return f"{shot.name} (cannot be read as any of {', '.join(FORMATS)})"
        except (OSError, SyntaxError, ValueError) as error:
            return f"{shot.name} ({error})"

    deepest = _deepest(scene, index)
    there = masks.index(scene.images.parent / "masks") if masked else {}
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
    refuse_lost(lost, len(scene.shots))
    for name in lost:
        log.line(f"warning: left out {name}")
    _tell(scene, index, photos)
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


def refuse_lost(lost: Sequence[str], total: int, detail: str = "") -> None:
    """Raise ``E_SCENE_IMAGES`` if more than ``MAX_MISSING`` of ``total`` photographs are lost."""
    if len(lost) > MAX_MISSING * total:
        raise TrainerError(
            "E_SCENE_IMAGES",
            f"{len(lost)} of {total} registered photographs are missing, unreadable or others "
            f"({MAX_MISSING:.0%} may be): {'; '.join(lost[:5])}",
            detail,
        )


def _near(names: Sequence[str], index: dict[str, Path]) -> str:
    """What ``images/`` holds instead of names that are missing: the nearest file, as written."""
    stems: dict[str, Path] = {}
    for path in index.values():
        stems.setdefault(path.stem.casefold(), path)
    for name in names:
        pure = PurePosixPath(name.replace("\\", "/"))
        if twice := index.get(masks.key(PurePosixPath(f"{pure}{pure.suffix}"))):
            return f"the files have their extension twice: {twice.name} for {pure.name}"
        if other := stems.get(pure.stem.casefold()):
            what = "another extension" if other.suffix != pure.suffix else "another folder"
            return f"the files have {what}: {other.name} for {name}"
    there = ", ".join(path.name for path in list(index.values())[:3]) or "no file"
    return f"images/ holds {there}{' ...' if len(index) > 3 else ''}"


def _tell(scene: Scene, index: dict[str, Path], photos: Sequence[Photo]) -> None:
    """Lines on what is legal and may not be meant: other sizes, pixels that are left out."""
    resized = []
    for shot in scene.shots:
        path = find_photo(scene.images, shot.name, index)
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            if path:
                with Image.open(path, formats=FORMATS) as image:
                    if {*image.size} != {shot.camera.width, shot.camera.height}:
                        resized.append(f"{image.width}x{image.height}")
    if resized:
        first = scene.shots[0].camera
        log.line(
            f"warning: {len(resized)} photographs are {resized[0]}, their camera "
            f"{first.width}x{first.height}: scaled"
        )
    found = [photo.mask for photo in photos if photo.mask is not None]
    if found:
        share = float(np.mean([np.mean(mask == 0) for mask in found]))
        log.line(f"masks: {share:.1%} of {len(found)} photographs is left out of loss and figures")
    elif (scene.images.parent / "masks").is_dir():
        log.line("warning: masks/ is not used: nothing there is a photograph's, or masks=ignore")


def find_photo(folder: Path, name: str, index: dict[str, Path]) -> Path | None:
    """The file of a registered name: as written, else without regard to case; None if absent."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts:
        raise TrainerError(
            "E_SCENE_IMAGES", f"the model names a photograph outside images/: {name[:80]!r}"
        )
    path = folder / pure
    return path if os.path.isfile(path) else index.get(masks.key(pure))


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


def prepare(
    shot: Shot,
    image: Image.Image,
    max_size: int,
    deepest: int = 2**16 - 1,
    mask: Image.Image | None = None,
) -> Photo:
    """Turn a decoded photograph into what is trained.

    ``deepest``: white of 16-bit ones; ``mask``: 255 where it counts, of its size as stored.

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
        if mask and mask.size == image.size != turned.size:
            mask.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
            mask = ImageOps.exif_transpose(mask)
        image = turned
    image = _rgb(image, deepest)
    if mask:
        mask = mask.resize(image.size, Image.Resampling.NEAREST)
        image = masks.filled(image, mask)
    if not shot.pinhole:
        image, camera = undistort(shot, image)
        if mask:
            mask = undistort(shot, mask.convert("RGB"))[0].convert("L")
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
        masks.bits(mask.resize(size, Image.Resampling.BOX)) if mask else None,
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


def _deepest(scene: Scene, index: dict[str, Path]) -> int:
    """White of the scene's 16-bit photographs: the full value of the bits that they use, as 4095.

    Cameras write 10, 12 or 14 bits into 16; one range for all keeps their brightness comparable.
    """
    most = 0
    for shot in scene.shots:
        path = find_photo(scene.images, shot.name, index)
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            if path:
                with Image.open(path, formats=FORMATS) as image:
                    if image.mode.startswith("I"):
                        most = max(most, int(np.asarray(image).max()))
    return int(2 ** max(8, int(most).bit_length()) - 1)


def _rgb(image: Image.Image, deepest: int) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels, which have no agreed range")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion saturates it
        grey = np.asarray(image, np.float64) * (255 / deepest)
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
