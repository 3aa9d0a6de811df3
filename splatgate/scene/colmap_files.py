"""COLMAP's files, binary and text, as plain rows; a broken one is named with where it breaks.

Our own reader, not pycolmap: the suite must not see a scene with the trainer's eyes, and pycolmap
4.2 says ``unordered_map::at`` of a file cut short, and takes half a ``cameras.bin`` for a whole.
Formats: https://colmap.github.io/format.html, and COLMAP 4.2's
``src/colmap/scene/reconstruction_io_{text,binary}.cc``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PARTS = ("cameras", "images", "points3D")
#: Files that COLMAP writes beside them from 3.12 on.
EXTRA = ("rigs", "frames")
#: Number of parameters of each camera model, in the order of COLMAP's ids.
MODELS = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
    "RAD_TAN_THIN_PRISM_FISHEYE": 16,
    "SIMPLE_DIVISION": 4,
    "DIVISION": 5,
    "SIMPLE_FISHEYE": 3,
    "FISHEYE": 4,
    "EUCM": 6,
    "EQUIRECTANGULAR": 2,
}

#: Not-a-number as Windows prints it, and a number with a decimal comma.
_NAN = re.compile(r"[+-]?(?:nan|1\.#(?:ind|qnan|snan|inf)).*", re.IGNORECASE)
_COMMA = re.compile(r"[+-]?\d+,\d*(e[+-]?\d+)?", re.IGNORECASE)

#: id, model, width, height, parameters.
CameraRow = tuple[int, str, int, int, tuple[float, ...]]
#: id; name; qw qx qy qz tx ty tz; camera id; keypoints [n,3]: x, y, id of the point or -1.
ImageRow = tuple[int, str, Array, int, Array]
#: id; qw qx qy qz tx ty tz of the rig; ids of its images. COLMAP from 3.12 on takes poses from
#: here, where the file is there.
FrameRow = tuple[int, Array, tuple[int, ...]]
#: ids [n], xyz [n,3], rgb [n,3] uint8, track lengths [n].
PointColumns = tuple[Array, Array, Array, Array]


class Unsound(Exception):
    """A folder is no readable scene. ``code`` is stable; the message is one line, with a remedy."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Files(Protocol):
    """The files of a model; each method reads one of them to its end, and may raise `Unsound`."""

    def cameras(self) -> Iterator[CameraRow]:
        """Cameras in the order of the file."""

    def images(self) -> Iterator[ImageRow]:
        """Images in the order of the file."""

    def points(self) -> PointColumns:
        """All points."""

    def rigs(self) -> dict[int, int]:
        """Each rig's reference camera, by their ids (-1: it has none); {} without the file."""

    def frames(self) -> Iterator[FrameRow]:
        """Frames in the order of the file; none without the file."""


def open_files(folder: Path, suffix: str) -> Files:
    """A reader of the model in ``folder`` whose files end in ``suffix``, ``.bin`` or ``.txt``."""
    there = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True)}
    names = {part: f"{part}{suffix}" for part in (*PARTS, *EXTRA)}
    files = {part: there.get(name.lower(), folder / name) for part, name in names.items()}
    return _Binary(files) if suffix == ".bin" else _Text(files)


def count_images(path: Path) -> int:
    """How many images an ``images`` file lists; 0 where it cannot be read."""
    files = {"images": path}
    try:
        if path.suffix == ".bin":
            return int(_Binary(files)._open("images")[1])
        return sum(1 for _ in _Text(files).headers())
    except Unsound:
        return 0


def _columns(rows: list[tuple[float, ...]]) -> PointColumns:
    """Columns of rows (id, x, y, z, r, g, b, track length)."""
    table = np.array(rows, np.float64).reshape(-1, 8)
    rgb = np.clip(np.nan_to_num(table[:, 4:7]), 0, 255).astype(np.uint8)
    ids = table[:, 0].clip(max=2.0**62).astype(np.int64)
    return ids, table[:, 1:4], rgb, table[:, 7].astype(np.int64)


class _Binary:
    """Reads little-endian binary files."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def _open(self, part: str) -> tuple[_Cursor, int]:
        cursor = _Cursor(self._files[part])
        return cursor, int(cursor.take("<Q")[0])

    def cameras(self) -> Iterator[CameraRow]:
        cursor, count = self._open("cameras")
        for _ in range(count):
            camera, model, width, height = cursor.take("<iiQQ")
            if not 0 <= model < len(MODELS):
                cursor.broken(f"camera {camera} has the unknown model {model}")
            name = list(MODELS)[model]
            yield camera, name, width, height, cursor.take(f"<{MODELS[name]}d")
        cursor.end()

    def images(self) -> Iterator[ImageRow]:
        cursor, count = self._open("images")
        keypoint = np.dtype([("x", "<f8"), ("y", "<f8"), ("id", "<i8")])
        for _ in range(count):
            image, *pose, camera = cursor.take("<I7di")
            name = cursor.string()
            points = cursor.array(keypoint, int(cursor.take("<Q")[0]))
            table = [points["x"], points["y"], points["id"].astype(np.float64)]
            yield image, name, np.array(pose), camera, np.stack(table, axis=1)
        cursor.end()

    def points(self) -> PointColumns:
        cursor, count = self._open("points3D")
        rows = []
        for _ in range(count):
            *head, _, length = cursor.take("<Q3d3BdQ")
            cursor.skip(8 * length)
            rows.append((*head, length))
        cursor.end()
        return _columns(rows)

    def rigs(self) -> dict[int, int]:
        found = {}
        if self._files["rigs"].is_file():
            cursor, count = self._open("rigs")
            for _ in range(count):
                rig, sensors = cursor.take("<II")
                found[rig] = cursor.take("<iI")[1] if sensors else -1
                for _ in range(1, sensors):
                    if cursor.take("<iIB")[2]:
                        cursor.take("<7d")
            cursor.end()
        return found

    def frames(self) -> Iterator[FrameRow]:
        if self._files["frames"].is_file():
            cursor, count = self._open("frames")
            for _ in range(count):
                _, rig, *pose, size = cursor.take("<II7dI")
                data = [cursor.take("<iIQ") for _ in range(size)]
                yield rig, np.array(pose), tuple(image for _, _, image in data)
            cursor.end()


class _Cursor:
    """A place in a binary file; a step that would leave the file says where it broke."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = path.read_bytes()
        self._at = 0

    def broken(self, what: str) -> NoReturn:
        where = f"{self._path}: {what} at byte {self._at} of {len(self._data)}"
        raise Unsound("broken-model", f"{where}; export the model again and copy it whole")

    def skip(self, size: int) -> int:
        start = self._at
        if size > len(self._data) - start:
            self.broken("cut short")
        self._at = start + size
        return start

    def take(self, form: str) -> tuple[Any, ...]:
        return struct.unpack_from(form, self._data, self.skip(struct.calcsize(form)))

    def string(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            self.broken("an image's name has no end")
        start = self.skip(end - self._at + 1)
        try:
            return self._data[start:end].decode()
        except UnicodeDecodeError:
            self.broken("an image's name is not UTF-8")

    def array(self, kind: np.dtype[Any], count: int) -> Array:
        start = self.skip(kind.itemsize * count)
        return np.frombuffer(self._data, kind, count, start)

    def end(self) -> None:
        if self._at != len(self._data):
            self.broken("more data than announced")


class _Text:
    """Reads text files; comments are optional."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def _lines(self, part: str) -> Iterator[tuple[int, str]]:
        with self._files[part].open(encoding="utf-8-sig") as file:
            try:
                for number, line in enumerate(file, 1):
                    yield number, line.strip()
            except UnicodeDecodeError:
                self._broken(part, 0, "(somewhere) is not UTF-8")

    def _records(self, part: str) -> Iterator[tuple[int, str]]:
        return ((n, line) for n, line in self._lines(part) if line and not line.startswith("#"))

    def _broken(self, part: str, number: int, what: str) -> NoReturn:
        where = f"{self._files[part]}: line {number} {what}"
        raise Unsound("broken-model", f"{where}; export the model again")

    def _numbers(self, part: str, number: int, words: list[str], whole: int = 0) -> Array:
        """``words`` as numbers, the first ``whole`` of them finite."""
        try:
            numbers = np.array(words, np.float64)
        except ValueError:
            numbers = np.array([self._number(part, number, word) for word in words])
        if not (np.abs(numbers[:whole]) < 2**62).all():
            self._broken(part, number, "holds an id or size that is no integer")
        return numbers

    def _number(self, part: str, number: int, word: str) -> float:
        if _NAN.fullmatch(word):
            return float("nan")
        try:
            return float(word)
        except ValueError:
            if _COMMA.fullmatch(word):
                what = f"holds {word} with a decimal comma; write decimal points (LC_NUMERIC=C)"
            else:
                what = f"holds the word {word[:40]!r} where a number belongs"
            self._broken(part, number, what)

    def cameras(self) -> Iterator[CameraRow]:
        for number, line in self._records("cameras"):
            words = line.split()
            name = words[1] if len(words) > 1 else ""
            if len(words) != 4 + MODELS.get(name, -9):
                expected = "ID MODEL WIDTH HEIGHT and the model's parameters"
                self._broken("cameras", number, f"is no camera ({expected}): {line[:60]!r}")
            row = self._numbers("cameras", number, [words[0], *words[2:]], whole=3).tolist()
            yield int(row[0]), name, int(row[1]), int(row[2]), tuple(row[3:])

    def images(self) -> Iterator[ImageRow]:
        for number, words, line in self.headers():
            head = self._numbers("images", number, [words[0], words[8], *words[1:8]], whole=2)
            keypoints = line.split()
            if len(keypoints) % 3:
                expected = f"keypoints of {words[9]} (X Y POINT3D_ID …)"
                self._broken("images", number + 1, f"is no list of {expected}")
            table = self._numbers("images", number + 1, keypoints).reshape(-1, 3)
            yield int(head[0]), words[9], head[2:], int(head[1]), table

    def headers(self) -> Iterator[tuple[int, list[str], str]]:
        """Each image's own line, split, and the keypoints in the line after it.

        That line may be empty, and tools leave it out: at the end, or for all images.
        """
        lines = self._lines("images")
        held: tuple[int, str] | None = None
        while (row := held or next(lines, None)) is not None:
            (number, line), held = row, None
            if not line or line.startswith("#"):
                continue
            words = line.split(maxsplit=9)
            if len(words) != 10:
                expected = "ID QW QX QY QZ TX TY TZ CAMERA NAME"
                self._broken("images", number, f"is no image ({expected}): {line[:60]!r}")
            after = next(lines, (number + 1, ""))
            if _is_image(after[1]):
                held, after = after, (number + 1, "")
            yield number, words, after[1]

    def points(self) -> PointColumns:
        rows = []
        for number, line in self._records("points3D"):
            words = line.split()
            if len(words) < 8 or len(words) % 2:
                expected = "ID X Y Z R G B ERROR and its track"
                self._broken("points3D", number, f"is no point ({expected}): {line[:60]!r}")
            head = self._numbers("points3D", number, words[:7], whole=1)
            rows.append((*head.tolist(), float(len(words) // 2 - 4)))
        return _columns(rows)

    def rigs(self) -> dict[int, int]:
        found = {}
        for number, words in self._optional("rigs", 2):
            numbers = self._numbers("rigs", number, [*words[:2], *words[3:4]], whole=3).tolist()
            found[int(numbers[0])] = int(numbers[2]) if len(numbers) > 2 else -1
        return found

    def frames(self) -> Iterator[FrameRow]:
        for number, words in self._optional("frames", 10):
            head = self._numbers("frames", number, words[:10], whole=2)
            data = self._numbers("frames", number, words[12::3], whole=len(words))
            if len(words) != 10 + 3 * head[9]:
                self._broken("frames", number, "names another number of images than it says")
            yield int(head[1]), head[2:9], tuple(data.astype(int).tolist())

    def _optional(self, part: str, least: int) -> Iterator[tuple[int, list[str]]]:
        """The records, of ``least`` words or more, of a file that need not be there."""
        if self._files[part].is_file():
            for number, line in self._records(part):
                words = line.split()
                if len(words) < least:
                    self._broken(part, number, f"is cut short: {line[:60]!r}")
                yield number, words


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
