"""Splats: the Gaussians of a ``.ply`` in the INRIA layout, read strictly, and their encoding."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from splatgate.evidence import BadInput, write_bytes

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

#: Degree-0 spherical harmonic: colour = 0.5 + SH_C0 * f_dc.
SH_C0 = 0.28209479177387814
#: Numbers of ``f_rest_*``: 3 * (degree + 1)^2 - 3.
_REST = (0, 9, 24, 45)
#: A header longer than this is none: the longest legal one has 62 properties, about 1.5 KB, beside
#: its comments.
_MAX_HEADER = 1 << 16
#: Below this many splats, values that happen to lie in [0, 1] prove nothing. If one trained logit
#: in four lies there (generous: 1 means an opacity of 0.73), 32 do by chance once in 10^19 models.
_ENOUGH = 32


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians as stored, nothing activated; float32, n of them, in the scene's coordinates.

    ``means`` [n,3]; ``quats`` [n,4] w first, of any length; ``scales`` [n,3] natural log of world
    units; ``opacities`` [n] logit; ``sh0`` [n,1,3]; ``shN`` [n,k,3], k = 0, 3, 8 or 15 (in the file
    channel-major: all of red first).
    """

    means: Floats
    quats: Floats
    scales: Floats
    opacities: Floats
    sh0: Floats
    shN: Floats
    #: Origin of the means in the scene's coordinates, as a comment of the file tells.
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __len__(self) -> int:
        """Number of Gaussians."""
        return len(self.means)

    @property
    def degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return int(np.sqrt(self.shN.shape[1] + 1)) - 1


class _Broken(Exception):
    """What keeps a file from being read at all."""


def check_layout(path: Path) -> list[str]:
    """What is wrong with a ``.ply`` as splats of the INRIA layout; empty when sound.

    Looked at: the whole header, the body's exact length, every value for being finite.
    ``nx ny nz`` may be there or not.
    Source: ``save_ply`` of graphdeco-inria/gaussian-splatting, ``scene/gaussian_model.py``.

    Raises:
        BadInput: no such file.
    """
    try:
        table, names = _open(path)
    except _Broken as error:
        return [str(error)]
    problems = []
    bad = [0] * len(names)
    for start in range(0, len(table), 1 << 16):
        block = np.isfinite(table[start : start + (1 << 16)])
        if not block.all():
            bad = [had + int(n) for had, n in zip(bad, (~block).sum(axis=0), strict=True)]
    for name, count in zip(names, bad, strict=True):
        if count:
            problems.append(f"{name} is not finite in {count} of {len(table)} vertices")
    return problems


def read_splats(path: Path, any_order: bool = False) -> Splats:
    """Read an INRIA ``.ply``; values that are not finite stay, and `check_layout` names them.

    ``any_order`` also reads one whose properties stand in another order, as other tools write it.

    Raises:
        BadInput: no such file, or its layout is broken.
    """
    try:
        table, names = _open(path, any_order)
    except _Broken as error:
        raise BadInput(f"{path}: {error}; export it again in the INRIA layout") from None

    def columns(*wanted: str) -> Floats:
        at = [names.index(name) for name in wanted]
        return np.ascontiguousarray(table[:, at], np.float32)

    def numbered(stem: str, count: int) -> Floats:
        return columns(*(f"{stem}_{i}" for i in range(count)))

    with path.open("rb") as file:
        told = re.search(rb"\ncomment origin (\S+) (\S+) (\S+)\s*\n", file.read(_MAX_HEADER))
    try:
        x, y, z = (float(word) for word in told.groups()) if told else (0.0, 0.0, 0.0)
    except ValueError:
        raise BadInput(f"{path}: its comment 'origin' holds no three numbers") from None
    rest = sum(name.startswith("f_rest_") for name in names)
    bands = numbered("f_rest", rest)
    return Splats(
        means=columns("x", "y", "z"),
        quats=numbered("rot", 4),
        scales=numbered("scale", 3),
        opacities=columns("opacity")[:, 0],
        sh0=numbered("f_dc", 3)[:, None, :],
        shN=np.ascontiguousarray(bands.reshape(len(table), 3, rest // 3).transpose(0, 2, 1)),
        origin=(x, y, z),
    )


def write_splats(path: Path, splats: Splats) -> None:
    """Write an INRIA ``.ply``, whole or not at all; `read_splats` reads it back unchanged."""
    count = len(splats)
    rest = splats.shN.transpose(0, 2, 1).reshape(count, -1)
    normals = np.zeros((count, 3), np.float32)
    parts = [
        splats.means,
        normals,
        splats.sh0[:, 0],
        rest,
        splats.opacities[:, None],
        splats.scales,
        splats.quats,
    ]
    names = _names(rest.shape[1], normals=True)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    body = io.BytesIO("\n".join(header).encode())
    body.seek(0, io.SEEK_END)
    body.write(np.concatenate(parts, axis=1).astype("<f4").tobytes())
    write_bytes(path, body.getvalue())


def _names(rest: int, normals: bool) -> list[str]:
    return [
        *("x", "y", "z"),
        *(("nx", "ny", "nz") if normals else ()),
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(rest)),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]


def _open(path: Path, any_order: bool = False) -> tuple[Array, list[str]]:
    """The body as a read-only float32 map [vertices,properties], and the properties' names."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_MAX_HEADER)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; give the .ply of a finished training") from None
    start, count, names = _header(head, any_order)
    expected = start + 4 * len(names) * count
    if size < expected:
        raise _Broken(f"cut short: {size} bytes, {expected} announced ({count} vertices)")
    if size > expected:
        raise _Broken(f"{size - expected} bytes beyond the {count} vertices announced")
    return np.memmap(path, "<f4", "r", start, (count, len(names))), names


def _header(head: bytes, any_order: bool) -> tuple[int, int, list[str]]:
    """Start of the body, number of vertices, names of the properties."""
    if re.match(rb"ply\r?\n", head) is None:
        raise _Broken(f"not a PLY file: begins with {head[:12]!r}")
    end = re.search(rb"\nend_header\r?\n", head)
    if end is None:
        raise _Broken(
            "the header has no end_header line"
            + (" (file cut short)" if len(head) < _MAX_HEADER else "")
        )
    try:
        lines = [
            line.split() for line in head[: end.start()].decode("ascii", "strict").splitlines()[1:]
        ]
    except UnicodeDecodeError:
        raise _Broken("the header is not ASCII") from None
    lines = [words for words in lines if words and words[0] not in ("comment", "obj_info")]
    if not lines or lines[0] != ["format", "binary_little_endian", "1.0"]:
        was = " ".join(lines[0]) if lines else "nothing"
        raise _Broken(f"{was!r} where 'format binary_little_endian 1.0' belongs")
    elements = [words for words in lines if words[0] == "element"]
    if (
        len(elements) != 1
        or len(lines) < 2
        or lines[1] is not elements[0]
        or elements[0][1:2] != ["vertex"]
    ):
        found = ", ".join(" ".join(words[1:]) for words in elements) or "none"
        raise _Broken(f"expected one element, vertex; found {found}")
    if len(elements[0]) != 3 or not re.fullmatch(r"\d{1,15}", elements[0][2]):
        raise _Broken(f"{' '.join(elements[0])!r} does not say how many vertices")
    names = _properties(lines[2:], any_order)
    count = int(elements[0][2])
    if count == 0:
        raise _Broken("no vertices: an empty model")
    return end.end(), count, names


def _properties(lines: list[list[str]], any_order: bool) -> list[str]:
    for words in lines:
        if len(words) != 3 or words[0] != "property":
            _wrong(f"{' '.join(words)!r} is no scalar property")
        if words[1] not in ("float", "float32"):
            _wrong(f"property {words[2]} is {words[1]}, must be float")
    names = [words[2] for words in lines]
    rest = sum(name.startswith("f_rest_") for name in names)
    expected = _names(rest, normals="nx" in names)
    if missing := [name for name in expected if name not in names]:
        _wrong(f"missing properties: {' '.join(missing)}")
    if surplus := [name for name in names if name not in expected]:
        _wrong(f"unknown properties: {' '.join(surplus)}")
    if rest not in _REST:
        _wrong(f"{rest} f_rest properties; degrees 0 to 3 have {', '.join(map(str, _REST))}")
    if names != expected and not (any_order and len(names) == len(expected)):
        at = [name for name, place in zip(names, expected, strict=False) if name != place]
        _wrong(f"properties out of order or twice, from {(at or names[len(expected) :])[0]} on")
    return names


def _wrong(what: str) -> NoReturn:
    raise _Broken(what)


def check_logits(splats: Splats, points_rgb: Array | None = None) -> list[str]:
    """Values that must have been stored in another encoding than the layout's; empty when none.

    Each test asks whether the values make sense only as activated ones; where both readings do, it
    says nothing. ``points_rgb`` [n,3] 0–255, the scene's own colours, lets it judge ``f_dc`` too.
    """
    finite = (
        np.isfinite(splats.means).all(1)
        & np.isfinite(splats.scales).all(1)
        & np.isfinite(splats.opacities)
    )
    problems = []
    if finite.sum() >= _ENOUGH:
        problems += _activated_opacities(splats.opacities[finite])
        problems += _activated_scales(
            splats.scales[finite].astype(np.float64), splats.means[finite]
        )
    zero = int((np.linalg.norm(splats.quats, axis=1) < 1e-8).sum())
    if zero:
        problems.append(f"{zero} rotations have length zero; write w x y z with w = 1 for none")
    if len(splats) >= _ENOUGH:
        problems += _wrong_dc(splats.sh0, points_rgb)
    return problems


def _activated_opacities(values: Array) -> list[str]:
    # All logits in [0, 1] would be a model whose opacities all lie in [0.50, 0.73]. One value for
    # all is an initialisation (0.5 is the logit 0), judged by how far the splats have moved, not
    # here.
    if values.min() < 0 or values.max() > 1 or values.min() == values.max():
        return []
    return ["every opacity lies in [0, 1]: exported after the sigmoid; write log(o / (1 - o))"]


def _activated_scales(values: Array, means: Array) -> list[str]:
    # exp(log scale) is never negative; logarithms all above zero mean that no splat is thinner than
    # one world unit along any axis. That is possible in a scene of large units, so the splats' own
    # spacing decides: which reading, value or exp(value), comes nearer to it. Where spacing is
    # about one unit both do, and what is left is that activated scales crowd just above zero (thin
    # splats), where logarithms would run on below it.
    if values.min() <= 0:
        return []
    gap = spacing(means)
    if gap <= 0:
        return []
    middle = float(np.median(values))
    as_scale, as_log = abs(np.log(middle / gap)), abs(middle - np.log(gap))
    crowded = float(np.percentile(values, 1)) < 0.1 * middle
    if as_scale < as_log or crowded:
        return ["every scale is above zero: exported after exp; write logarithms of world units"]
    return []


def _wrong_dc(sh0: Array, points_rgb: Array | None) -> list[str]:
    colours = 0.5 + SH_C0 * sh0
    # Photographs end at 1; median channels this far out are 0–255 values or worse, whatever the
    # scene.
    if float(np.median(np.abs(colours))) > 5:
        return [
            "f_dc gives colours far outside [0, 1]; write (rgb - 0.5) / 0.28209 of rgb in [0, 1]"
        ]
    # rgb itself, stored as f_dc, can only give colours in [0.5, 0.78]; points say whether the scene
    # is that pale.
    if points_rgb is not None and len(points_rgb) and sh0.min() >= 0 and sh0.max() <= 1:
        dark = float((points_rgb < 110).mean())
        if dark > 0.05:
            what = f"no colour is darker than mid grey, {dark:.0%} of the scene's are"
            return [f"{what}: f_dc holds rgb; write (rgb - 0.5) / 0.28209"]
    return []


def spacing(points: Array, sample: int = 256) -> float:
    """Median distance to the nearest other point, over an even sample, coincident ones aside."""
    chosen = points[:: max(len(points) // sample, 1)][:sample].astype(np.float64)
    nearest = []
    for point in chosen:
        squares = ((points - point) ** 2).sum(axis=1)
        apart = squares[squares > 0]
        if apart.size:
            nearest.append(float(np.sqrt(apart.min())))
    return float(np.median(nearest)) if nearest else 0.0
