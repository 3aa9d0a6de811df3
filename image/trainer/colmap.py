"""COLMAP's three files, binary and text, as plain rows; a broken one is named with where it breaks.

Read here and not by pycolmap: version 4.2 ends a name at its first space, loses the last image of
an images.txt without a blank last line, reads a damaged frames.bin for ever, and says
``vector::_M_range_check`` of tracks that name keypoints which are not there. Format: COLMAP
documentation, "Output Format".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pycolmap

from trainer.errors import TrainerError

Array = npt.NDArray[Any]
#: Not-a-number as Windows prints it.
_NAN = re.compile(r"[+-]?(?:nan|1\.#(?:ind|qnan|snan|inf)).*", re.IGNORECASE)


@dataclass(frozen=True)
class ImageRow:
    """One image: pose (qw qx qy qz tx ty tz), and its keypoints that belong to a point.

    ``xy`` (n, 2) pixels, ``ids`` (n,) of the points.
    """

    name: str
    camera: int
    pose: Array
    xy: Array
    ids: Array


@dataclass(frozen=True)
class Model:
    """A COLMAP model: cameras by id, images in the file's order, points and their tracks' lengths.

    ``ids`` (n,), ``xyz`` (n, 3), ``rgb`` (n, 3) uint8, ``tracks`` (n,).
    """

    cameras: dict[int, pycolmap.Camera]
    images: list[ImageRow]
    ids: Array
    xyz: Array
    rgb: Array
    tracks: Array


def read(files: dict[str, Path]) -> Model:
    """Read ``cameras``, ``images`` and ``points3D``; ``E_SCENE_FORMAT`` says what is broken."""
    kind = _Binary if files["cameras"].suffix == ".bin" else _Text
    cameras: dict[int, pycolmap.Camera] = {}
    with kind(files["cameras"]) as file:
        for number, model, width, height, params in file.cameras():
            cameras[number] = _camera(file, number, model, width, height, params)
    with kind(files["images"]) as file:
        images = list(file.images())
        for image in images:
            if image.camera not in cameras:
                file.broken(f"{image.name!r} names camera {image.camera}, which cameras lacks")
    with kind(files["points3D"]) as file:
        table = np.array(list(file.points()), np.float64).reshape(-1, 8)
    rgb = np.nan_to_num(table[:, 4:7]).clip(0, 255).astype(np.uint8)
    ids = table[:, 0].clip(max=2.0**62).astype(np.int64)
    return Model(cameras, images, ids, table[:, 1:4], rgb, table[:, 7].astype(np.int64))


def count_images(path: Path) -> int:
    """How many images an ``images`` file lists, without reading their keypoints' numbers."""
    if path.suffix == ".bin":
        head = path.open("rb").read(8)
        return int(struct.unpack("<Q", head)[0]) if len(head) == 8 else 0
    with _Text(path) as file:
        return sum(1 for _ in file.headers())


def _camera(
    file: _File, number: int, model: int | str, width: int, height: int, params: list[float]
) -> pycolmap.Camera:
    make = pycolmap.Camera
    try:
        if isinstance(model, str):
            camera = make.create_from_model_name(number, model, 1.0, width, height)
        else:
            kind = pycolmap.CameraModelId(model)
            camera = make.create_from_model_id(number, kind, 1.0, width, height)
        expected = len(camera.params)
        if len(params) != expected:
            file.broken(f"camera {number} ({model}) has {len(params)} parameters, not {expected}")
        camera.params = params
    except (RuntimeError, ValueError, OverflowError, TypeError, KeyError) as error:
        file.broken(f"camera {number} ({model}, {width}x{height}) is unusable: {error}"[:200])
    return camera


class _File:
    """One file of a model, read as far as is needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def broken(self, what: str) -> NoReturn:
        raise TrainerError("E_SCENE_FORMAT", f"{self.path.name}: {what}")


class _Binary(_File):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.data, self.at = path.read_bytes(), 0

    def take(self, form: str) -> tuple[Any, ...]:
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))

    def skip(self, size: int) -> int:
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            self.broken(f"is damaged or incomplete ({len(self.data)} bytes)")
        return start

    def count(self) -> int:
        count = int(self.take("<Q")[0])
        # The smallest record is 26 bytes: a larger count is damage, not a scene.
        if count * 26 > len(self.data):
            self.broken(f"is damaged: {count} records in {len(self.data)} bytes")
        return count

    def end(self) -> None:
        if self.at != len(self.data):
            self.broken(f"is damaged: {len(self.data) - self.at} bytes more than announced")

    def cameras(self) -> Iterator[tuple[int, int, int, int, list[float]]]:
        for _ in range(self.count()):
            number, model, width, height = self.take("<IiQQ")
            try:
                camera = pycolmap.Camera.create_from_model_id(
                    1, pycolmap.CameraModelId(model), 1.0, 2, 2
                )
            except (RuntimeError, ValueError):
                self.broken(f"camera {number} has the unknown model {model}")
            yield number, model, width, height, list(self.take(f"<{len(camera.params)}d"))
        self.end()

    def images(self) -> Iterator[ImageRow]:
        kind = np.dtype([("xy", "<f8", 2), ("id", "<i8")])
        for _ in range(self.count()):
            _, *pose, camera = self.take("<I7dI")
            end = self.data.find(b"\0", self.at)
            raw = self.data[self.skip(end + 1 - self.at if end >= 0 else len(self.data)) : end]
            name = _name(self, raw)
            points = int(self.take("<Q")[0])
            start = self.skip(min(points, len(self.data)) * kind.itemsize)
            table = np.frombuffer(self.data, kind, points, start)
            own = (table["id"] >= 0) & (table["id"] < 2**62)
            yield ImageRow(name, camera, np.array(pose), table["xy"][own], table["id"][own])
        self.end()

    def points(self) -> Iterator[tuple[float, ...]]:
        for _ in range(self.count()):
            *head, _, length = self.take("<Q3d3BdQ")
            self.skip(8 * length)
            yield (*head, length)
        self.end()


class _Text(_File):
    """Comments are optional, blank lines too; ends of lines and a byte order mark do not matter."""

    def lines(self) -> Iterator[tuple[int, str]]:
        with self.path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                text = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                yield number, _name(self, text.strip()).strip()

    def records(self) -> Iterator[tuple[int, str]]:
        return ((n, line) for n, line in self.lines() if line and not line.startswith("#"))

    def numbers(self, number: int, words: list[str], whole: int = 0) -> Array:
        """``words`` as numbers, the first ``whole`` of them integers."""
        try:
            found = np.array(words, np.float64)
        except ValueError:
            found = np.array([self.number(number, word) for word in words])
        if not (np.abs(found[:whole]) < 2**62).all():
            self.broken(f"line {number} holds an id or size that is no integer")
        return found

    def number(self, number: int, word: str) -> float:
        if _NAN.fullmatch(word):
            return float("nan")
        try:
            return float(word)
        except ValueError:
            if re.fullmatch(r"[+-]?\d+,\d*(e[+-]?\d+)?", word, re.IGNORECASE):
                why = f"{word} with a decimal comma; export with decimal points (LC_NUMERIC=C)"
            else:
                why = f"{word[:40]!r} where a number belongs"
            self.broken(f"line {number} holds {why}")

    def cameras(self) -> Iterator[tuple[int, str, int, int, list[float]]]:
        for number, line in self.records():
            words = line.split()
            if len(words) < 5:
                self.broken(f"line {number} is no camera: {line[:60]!r}")
            row = self.numbers(number, [words[0], *words[2:]], whole=3).tolist()
            yield int(row[0]), words[1], int(row[1]), int(row[2]), row[3:]

    def headers(self) -> Iterator[tuple[int, list[str], str]]:
        """Each image's own line, split, and the keypoints of the line after it, if it has one."""
        held: tuple[int, str] | None = None
        lines = self.lines()
        while (got := held or next(lines, None)) is not None:
            held = None
            number, line = got
            if not line or line.startswith("#"):
                continue
            words = line.split(maxsplit=9)
            if len(words) != 10:
                self.broken(f"line {number} is no image: {line[:60]!r}")
            after = next(lines, (number, ""))
            if _is_image(after[1]):  # a tool that writes no line for an image without keypoints
                held, after = after, (number, "")
            yield number, words, after[1]

    def images(self) -> Iterator[ImageRow]:
        for number, words, keypoints in self.headers():
            head = self.numbers(number, [words[0], words[8], *words[1:8]], whole=2)
            found = keypoints.split()
            if len(found) % 3:
                self.broken(f"line {number + 1} is no list of keypoints (X Y POINT3D_ID ...)")
            table = self.numbers(number + 1, found).reshape(-1, 3)
            table = table[(table[:, 2] >= 0) & (table[:, 2] < 2.0**62)]
            ids = table[:, 2].astype(np.int64)
            yield ImageRow(words[9], int(head[1]), head[2:], table[:, :2], ids)

    def points(self) -> Iterator[tuple[float, ...]]:
        for number, line in self.records():
            words = line.split()
            if len(words) < 8:
                self.broken(f"line {number} is no point: {line[:60]!r}")
            head = self.numbers(number, words[:7], whole=1)
            yield (*head.tolist(), float(len(words) // 2 - 4))


def _is_image(line: str) -> bool:
    """Whether a line of images.txt is an image's own: its tenth word is a name, not a number."""
    words = line.split(maxsplit=9)
    if len(words) != 10 or not (words[0].isdigit() and words[8].isdigit()):
        return False
    try:
        float(words[9].split()[0])
    except ValueError:
        return True
    return False


def _name(file: _File, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        around = raw[max(0, error.start - 40) : error.start + 40]
        file.broken(f"a photograph's name is not UTF-8: {around!r}; rename it in SfM")
