"""The artefact: a .ply in the layout of the INRIA reference, and its reader."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.errors import TrainerError
from trainer.files import write_atomically
from trainer.scene import Scene


def columns(sh_rest: int) -> list[str]:
    """Property names in their order; ``sh_rest`` = (degree + 1)^2 - 1 coefficients a channel."""
    return [
        "x",
        "y",
        "z",
        "nx",
        "ny",
        "nz",
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(3 * sh_rest)),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]


def write_ply(
    path: Path,
    values: dict[str, Tensor],
    origin: npt.ArrayLike = (0, 0, 0),
    written: npt.ArrayLike = (0, 0, 0),
) -> None:
    """Write the Gaussians (``Splats.values``) to ``path``, atomically.

    Means are relative to ``origin`` (3,), and written relative to ``written`` (3,), which a comment
    tells where it is not 0, the scene's own. Opacity stays
    a logit and scale a logarithm; f_rest is channel-major; rotations are normalised, w first.
    Raises ``E_NOT_FINITE`` rather than write a value that is not finite, or no Gaussian.
    """
    v = {name: value.detach().cpu() for name, value in values.items()}
    count = len(v["means"])
    quats = v["quats"].double()
    parts = [
        (v["means"].double() + torch.as_tensor(np.subtract(origin, written))).float(),
        torch.zeros(count, 3),
        v["sh0"].reshape(count, 3),
        v["shN"].transpose(1, 2).reshape(count, -1),
        v["opacities"][:, None],
        v["scales"],
        (quats / quats.norm(dim=1, keepdim=True)).float(),
    ]
    table = torch.cat(parts, 1).numpy().astype("<f4", copy=False)
    names = columns(v["shN"].shape[1])
    if not count:
        raise TrainerError("E_NOT_FINITE", "no Gaussian is left to write")
    bad = ~np.isfinite(table).all(0)
    if bad.any():
        which = ", ".join(n for n, b in zip(names, bad, strict=True) if b)
        raise TrainerError("E_NOT_FINITE", f"values that are not finite in {which[:200]}")
    told = np.asarray(written, float).tolist()
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *([f"comment origin {' '.join(map(repr, told))}"] if any(told) else []),
        f"element vertex {count}",
        *(f"property float {name}" for name in names),
        "end_header",
        "",
    ]

    def write(stream: BinaryIO) -> None:
        stream.write("\n".join(header).encode())
        stream.write(table.data)

    write_atomically(path, write)


def read_ply(path: Path, origin: npt.ArrayLike = (0, 0, 0)) -> dict[str, Tensor]:
    """Read what ``write_ply`` wrote, as the tensors of ``Splats.params`` on the CPU."""
    with path.open("rb") as stream:
        names, count, written = [], 0, np.zeros(3)
        while (line := stream.readline().split()) != [b"end_header"]:
            if not line:
                raise ValueError(f"{path} has no header")
            if line[:2] == [b"element", b"vertex"]:
                count = int(line[2])
            if line[:2] == [b"comment", b"origin"]:
                written = np.array(line[2:5], float)
            if line[0] == b"property":
                names.append(line[2].decode())
        data = np.frombuffer(bytearray(stream.read()), "<f4").reshape(count, len(names))
    table = torch.from_numpy(data)
    rest = (len(names) - 17) // 3
    if names != columns(rest):
        raise ValueError(f"{path} does not have the layout of this trainer")
    tail = 9 + 3 * rest
    return {
        "means": (table[:, :3].double() - torch.as_tensor(np.subtract(origin, written))).float(),
        "sh0": table[:, 6:9].reshape(count, 1, 3),
        "shN": table[:, 9:tail].reshape(count, 3, rest).transpose(1, 2),
        "opacities": table[:, tail],
        "scales": table[:, tail + 1 : tail + 4],
        "quats": table[:, tail + 4 : tail + 8],
    }


def georeference(scene: Scene) -> dict[str, object]:
    """What ``georeference.json`` says: add ``origin`` to the .ply's positions for the scene's own.

    ``crs``: the text of the one .prj file beside ``images/``, if there is one.
    """
    projections = sorted(scene.images.parent.glob("*.prj"))
    crs = projections[0].read_text("utf-8", "replace")[:4000] if len(projections) == 1 else None
    return {
        "schema": "splatgate-trainer/georeference/1",
        "origin": scene.written.tolist(),
        "axes": "those of the COLMAP model, moved and not turned",
        "crs": crs,
    }
