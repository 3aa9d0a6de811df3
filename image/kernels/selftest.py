#!/usr/bin/env python3
"""Runs the step's kernels on this GPU against the PyTorch reference: one JSON object on stdout.

    python image/kernels/selftest.py [--small] [NAME...]

NAME is a case, or a part: adam, memory, shortage; without one, everything. ``--small``: the own
kernels alone on the small cases, for a tool that makes each launch a hundred times slower::

    compute-sanitizer --tool memcheck --error-exitcode 9 python image/kernels/selftest.py --small

Judges nothing: it writes down errors, and the reader has the bounds. Reference: autograd through
``trainer.raster_torch`` and ``trainer.loss`` in float64 on the CPU; for scenes too large for that,
autograd through gsplat on the GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
BEGAN = time.monotonic()

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402
from trainer import loss, masks, raster_torch, rasterise  # noqa: E402
from trainer.config import Config, load  # noqa: E402
from trainer.fused import FusedStep  # noqa: E402
from trainer.rasterise import View, Views  # noqa: E402
from trainer.step import At  # noqa: E402

RASTERISERS = ("own", "gsplat")
#: What is run beside the cases: a report's key, and the function of this file.
PARTS = ("adam", "memory", "shortage")
#: Cases of a few thousand threads that together reach every branch of the kernels.
SMALL = ("image of 37 x 23", "masked", "one", "behind the camera", "opaque", "huge over all tiles")
#: Share of pixels that may lie beyond the reported image error: float32 and float64 disagree on
#: whether a Gaussian's alpha still reaches 1/255 in a few pixels of a hundred thousand.
_SHARE = 1e-3


@dataclass(frozen=True)
class Case:
    """A scene, a camera and what the step is asked for."""

    name: str
    values: dict[str, Tensor]
    width: int = 200
    height: int = 110
    degree: int = 3
    dropout: float = 0.0
    background: tuple[float, float, float] = raster_torch.BLACK
    distance: float = 4.0
    large: bool = False
    masked: bool = False


def scene(n: int, seed: int, scale: float = -2.5) -> dict[str, Tensor]:
    """Random Gaussians around the origin."""
    g = torch.Generator().manual_seed(seed)
    return {
        "means": torch.randn(n, 3, generator=g),
        "quats": torch.randn(n, 4, generator=g),
        "scales": torch.randn(n, 3, generator=g) * 0.6 + scale,
        "opacities": torch.randn(n, generator=g) * 2,
        "sh0": torch.randn(n, 1, 3, generator=g),
        "shN": torch.randn(n, 15, 3, generator=g) * 0.2,
    }


def changed(values: dict[str, Tensor], **new: Any) -> dict[str, Tensor]:
    """``values`` with some tensors filled or replaced."""
    out = {n: v.clone() for n, v in values.items()}
    for name, value in new.items():
        out[name][...] = torch.as_tensor(value, dtype=torch.float32)
    return out


def cases() -> Iterator[Case]:
    """Random scenes, then the edges."""
    for degree in range(4):
        yield Case(f"random, degree {degree}", scene(1500, degree), degree=degree)
    yield Case("dropout", scene(1500, 5), dropout=0.3)
    yield Case("background", scene(400, 12), background=(0.9, 0.2, 0.5))
    yield Case("masked", scene(400, 13), 67, 43, masked=True)
    for width, height in ((37, 23), (131, 67), (16, 16), (257, 31)):
        yield Case(f"image of {width} x {height}", scene(400, width), width, height)
    some = scene(300, 11)
    yield Case("behind the camera", some, distance=-6.0)
    yield Case("around the camera", some, distance=0.0)
    yield Case("zero opacity", changed(some, opacities=-30.0))
    yield Case("opaque", changed(some, opacities=12.0))
    yield Case("vanishing scales", changed(some, scales=-20.0))
    needles = changed(some)
    needles["scales"][:, 0], needles["scales"][:, 1:] = 0.5, -7.0
    yield Case("needles", needles)
    one = scene(1, 3)
    yield Case("one", changed(one, means=[[0.1, 0.2, 0.0]], opacities=1.0))
    huge = changed(scene(200, 4))
    huge["scales"][:3], huge["means"][:3] = 2.5, 0.0
    yield Case("huge over all tiles", huge, 320, 200)
    yield Case("far off axis", changed(some, means=some["means"] * torch.tensor([30.0, 30.0, 1.0])))
    yield Case(
        "many at one place", changed(scene(3000, 7, -3.5), means=scene(3000, 7)["means"] * 0.05)
    )
    yield Case("2 million", scene(2_000_000, 6, -5.5), 800, 600, large=True)


def view_of(case: Case, device: torch.device) -> View:
    """The case's camera, with a random photograph."""
    g = torch.Generator().manual_seed(case.width)
    pixels = torch.randint(0, 256, (case.height, case.width, 3), generator=g, dtype=torch.uint8)
    viewmat = torch.eye(4)
    viewmat[2, 3] = case.distance
    intrinsics = (0.9 * case.width, 0.95 * case.width, case.width / 2 + 1.5, case.height / 2 - 0.5)
    mask = None
    if case.masked:
        kept = torch.full((case.height, case.width), 255, dtype=torch.uint8)
        kept[:, case.width * 2 // 3 :] = kept[7:9, 7:9] = 0
        mask = torch.from_numpy(masks.bits(Image.fromarray(kept.numpy()))).to(device)
    return View(case.name, viewmat.to(device), intrinsics, pixels.to(device), mask)


def mix(x: Tensor) -> Tensor:
    """step.cuh's ``mix`` of 32-bit numbers held in int64."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = x ^ (x >> shift)
        x = (x * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)


def kept(n: int, at: At) -> Tensor:
    """Which Gaussians the step's dropout keeps."""
    inner = mix(torch.tensor([at.seed & 0xFFFFFFFF]))
    outer = mix((at.step * 8 + inner) & 0xFFFFFFFF)
    bits = mix(torch.arange(n) ^ outer)
    return ((bits >> 8).float() + 0.5) * 2.0**-24 >= at.dropout


def reference(
    case: Case, view: View, at: At, config: Config, large: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Image and gradients by autograd, as float64 on the CPU: exactly, or ``large``, by gsplat."""
    leaves = {
        n: (v.to(view.viewmat.device) if large else v.double()).requires_grad_()
        for n, v in case.values.items()
    }
    opacities = leaves["opacities"].sigmoid()
    drawn = opacities
    if case.dropout:
        drawn = opacities * kept(len(opacities), at).to(opacities) / (1 - case.dropout)
    if large:
        image = rasterise.render(leaves, drawn, view, case.degree, case.background)
    else:
        image = raster_torch.render(
            leaves,
            drawn,
            view.viewmat.cpu().double(),
            view.intrinsics,
            view.width,
            view.height,
            case.degree,
            case.background,
        )
    photo = view.pixels.to(image) / 255
    mask = None if view.mask is None else view.mask.to(image.device)
    total = loss.photometric(image, photo, mask)
    total = total + config.opacity_reg * opacities.mean()
    total.backward()  # type: ignore[no-untyped-call]
    grads = {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in leaves.items()}
    return image.detach().cpu().double(), {n: g.cpu().double() for n, g in grads.items()}


def kernels_gradients(step: FusedStep, view: View, at: At) -> tuple[Tensor, dict[str, Tensor]]:
    """Image and gradients of the kernels, read back."""
    s, splats = step.s, step.splats
    out = torch.full((splats.state[0].shape[0], splats.count), torch.nan, device="cuda")
    figures = torch.zeros(2, device="cuda")
    for _ in range(2):  # the first sizes the list of intersections
        figures.zero_()
        step.prepare(view, view.photo(), at)
        s.gradients, s.figures = out.data_ptr(), figures.data_ptr()
        step.launch()
        torch.cuda.synchronize()
    s.gradients = None
    image = step.image(view.width, view.height).cpu().double()
    rows = {"means": (0, 3), "quats": (3, 7), "scales": (7, 10), "sh0": (11, 14), "shN": (14, 59)}
    out = out.cpu().double()
    count = 3 * (at.sh_degree + 1) ** 2
    out[11 + count :] = 0  # rows of higher degrees are not touched
    found = {n: out[a:b].T for n, (a, b) in rows.items()}
    return image, {
        **{n: g for n, g in found.items() if n not in ("sh0", "shN")},
        "opacities": out[10],
        "sh0": found["sh0"][:, None],
        "shN": found["shN"].reshape(-1, 15, 3),
    }


def errors(
    got: tuple[Tensor, dict[str, Tensor]], want: tuple[Tensor, dict[str, Tensor]]
) -> dict[str, Any]:
    """How far image and gradients are off: absolute, and relative by tensor."""
    off = (got[0] - want[0]).abs().amax(-1).flatten()
    relative = {}
    for name, value in want[1].items():
        norm, error = float(value.norm()), float((got[1][name] - value).norm())
        relative[name] = error / norm if norm > 1e-12 else error
    allowed = max(1, int(len(off) * _SHARE))
    return {
        "image": float(off.kthvalue(max(1, len(off) - allowed)).values),
        "image_max": float(off.max()),
        "gradients": relative,
        "finite": bool(got[0].isfinite().all())
        and all(bool(g.isfinite().all()) for g in got[1].values()),
    }


def compare(
    case: Case, config: Config, device: torch.device, pairs: Sequence[str] = RASTERISERS
) -> Iterator[dict[str, Any]]:
    """One case with each of some pairs of rasterising kernels; with gsplat's, also what its
    autograd is off by.
    """
    view, at = (
        view_of(case, device),
        At(3, 0, 0.0, case.degree, case.dropout, 12345, case.background),
    )
    want = reference(case, view, at, config, case.large)
    by_gsplat = errors(reference(case, view, at, config, True), want) if "gsplat" in pairs else None
    for pair in pairs:
        step = FusedStep(config, 1.0, {n: v.cuda() for n, v in case.values.items()}, None, pair)
        found = errors(kernels_gradients(step, view, at), want)
        row = {
            "case": case.name,
            "rasteriser": pair,
            "reference": "gsplat" if case.large else "f64",
        }
        yield {**row, **found, "autograd_gsplat": by_gsplat, **step.intersections}


def copy(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """``values`` in memory of their own: autograd's step works in place."""
    return {n: v.clone() for n, v in values.items()}


def memory(config: Config, device: torch.device) -> dict[str, int]:
    """Bytes held after a life of a step, its second one, that the first did not leave too."""
    left = []
    case = Case("memory", scene(20_000, 8), 320, 200)
    for _ in range(2):
        view = view_of(case, device)
        step = FusedStep(config, 1.0, {n: v.to(device) for n, v in case.values.items()})
        for t in range(1, 41):
            step.step(view, view.photo(), At(t, 0, 1e-4, 3, 0.1, t))
            if t % 10 == 0:
                step.splats.append(torch.arange(5000, device=device))
        step.splats.keep(torch.arange(1000, device=device))
        step.step(view, view.photo(), At(41, 0, 1e-4, 3, 0.1, 41))
        del step, view
        torch.cuda.synchronize()
        left.append(torch.cuda.memory_allocated(device))
    return {"after_first": left[0], "after_second": left[1]}


def shortage(config: Config, device: torch.device) -> dict[str, Any]:
    """Grow under a limit until an allocation fails, give way as training does, and go on."""
    from trainer.train import give_way

    case = Case("shortage", scene(20_000, 9), 320, 200)
    view = view_of(case, device)
    step = FusedStep(config, 1.0, {n: v.to(device) for n, v in case.values.items()})
    step.step(view, view.photo(), At(1, 0, 1e-4, 3, 0.0, 1))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved(device) + 200 * 2**20
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info(device)[1])
    found: dict[str, Any] = {"raised": False, "limit_bytes": limit}
    t, before, cap = 2, 0, 0
    try:
        while step.splats.count < 10_000_000:
            step.splats.append(torch.arange(step.splats.count, device=device))
            step.step(view, view.photo(), At(t, 0, 1e-4, 3, 0.0, t))
            t += 1
    except torch.OutOfMemoryError as failure:
        found["raised"] = True
        before = step.splats.count
        cap = give_way(step, Views([view], [], []), {}, t, failure)
    total, _ = step.step(view, view.photo(), At(t, 0, 1e-4, 3, 0.0, t))
    torch.cuda.set_per_process_memory_fraction(1.0)
    values = step.splats.values().values()
    finite = bool(total.isfinite()) and all(bool(v.isfinite().all()) for v in values)
    return {
        **found,
        "count": before,
        "count_kept": 0 < cap == step.splats.count < before,
        "finite_after": finite,
    }


def adam(config: Config) -> dict[str, Any]:
    """Twenty steps of each kind of step from one start, without noise: how far they end apart."""
    from trainer import densify, fused
    from trainer.step import AutogradStep

    values = {n: v.cuda() for n, v in scene(800, 21).items()}
    case = Case("adam", {}, 120, 80)
    view = view_of(case, torch.device("cuda"))
    saved = densify.NOISE, fused.NOISE
    densify.NOISE = fused.NOISE = 0.0
    try:
        ends = {}
        for name, make in (
            ("autograd", lambda: AutogradStep(config, 1.0, copy(values))),
            *((r, lambda r=r: FusedStep(config, 1.0, copy(values), None, r)) for r in RASTERISERS),
        ):
            step = make()
            for t in range(1, 21):
                total, _ = step.step(view, view.photo(), At(t, 0, 1e-4, 3, 0.0, t))
            ends[name] = {n: v.clone() for n, v in step.splats.values().items()}, float(total)
    finally:
        densify.NOISE, fused.NOISE = saved
    start = values
    return {
        r: {
            "loss": abs(ends[r][1] - ends["autograd"][1]),
            **{
                n: float((ends[r][0][n] - ends["autograd"][0][n]).norm())
                / max(1e-12, float((ends["autograd"][0][n] - start[n]).norm()))
                for n in start
            },
        }
        for r in RASTERISERS
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; progress on standard error."""
    every = list(cases())
    known = [*(case.name for case in every), *PARTS]
    parser = argparse.ArgumentParser(description="Compare the step's kernels with their reference.")
    parser.add_argument("--small", action="store_true", help="own kernels, small cases, no parts")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {'; '.join(known)}")
    asked = parser.parse_args(argv)
    if unknown := [name for name in asked.names if name not in known]:
        parser.error(f"no case {unknown[0]!r}; one of: {'; '.join(known)}")
    names = asked.names or (SMALL if asked.small else known)
    pairs = RASTERISERS[:1] if asked.small else RASTERISERS

    device = rasterise.require_backend("cuda")
    first = time.monotonic() - BEGAN
    config = replace(load(Path("/nonexistent"), {}), opacity_reg=0.01, max_elongation=0.0)
    found: list[dict[str, Any]] = []
    for case in every:
        if case.name in names:
            rows = list(compare(case, config, device, pairs))
            torch.cuda.empty_cache()
            worst = max(rows[0]["gradients"].values())
            sys.stderr.write(f"{case.name}: image {rows[0]['image']:.1e}, gradients {worst:.1e}\n")
            found += rows
    parts = {"adam": lambda: adam(config)}
    parts |= {f.__name__: (lambda f=f: f(config, device)) for f in (memory, shortage)}
    with contextlib.redirect_stdout(sys.stderr):  # where training says that it gives way
        rest = {name: part() for name, part in parts.items() if name in names}
    result = {
        "schema": "splatgate-trainer/kernels/1",
        "device": torch.cuda.get_device_name(device),
        "capability": list(torch.cuda.get_device_capability(device)),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "first_raster_seconds": first,
        "cases": found,
        **rest,
        "seconds": time.monotonic() - BEGAN,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
