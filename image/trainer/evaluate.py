"""Quality, measured on what was written and not on what was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from trainer import host, log, loss
from trainer.errors import TrainerError
from trainer.files import write_atomically
from trainer.rasterise import View, painter
from trainer.stop import Stop

#: After SIGTERM the evaluation may take this long; SageMaker kills at 120 s.
_SECONDS_AFTER_STOP = 45.0
#: Pictures that wait to be written, at most.
_AHEAD = 16

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Quality:
    """Quality on one view, and the camera it was measured with (pixels)."""

    name: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    psnr: float
    ssim: float

    def as_json(self) -> dict[str, object]:
        """The fields as a JSON object."""
        return asdict(self)


@torch.no_grad()
def evaluate(
    values: dict[str, Tensor], views: Sequence[View], stop: Stop, renders: Path | None = None
) -> list[Quality]:
    """PSNR and SSIM of each view, images clamped to [0, 1] and not quantised.

    ``values`` as in ``Splats.params``, on the views' device. After a request to stop, views that
    no time is left for are not evaluated; the first always is. With a folder ``renders``, each
    photograph is written there with its render on the right, as ``NAME.png``. Where the device's
    memory runs out, the rest is drawn on the CPU, with a line: what is trained is not lost for it.
    """
    with ThreadPoolExecutor(host.cpus()) as pool:
        return _evaluated(values, views, stop, renders, pool)


def _evaluated(
    values: dict[str, Tensor],
    views: Sequence[View],
    stop: Stop,
    renders: Path | None,
    pool: ThreadPoolExecutor,
) -> list[Quality]:
    found: list[Quality] = []
    shown: list[Future[None]] = []
    short = False
    paint: Callable[[View], Tensor] | None = None
    for view in views:
        if found and stop.seconds_ago() > _SECONDS_AFTER_STOP:
            break
        if not short:
            try:
                paint = paint or painter(values)
                picture, psnr, ssim = _measured(paint, view)
            except torch.OutOfMemoryError as shortage:
                said = " ".join(str(shortage).split())[:200]
                log.line(f"warning: memory ran out while evaluating: the CPU goes on ({said})")
                paint, short = painter({n: v.cpu() for n, v in values.items()}), True
        if short and paint:
            picture, psnr, ssim = _measured(paint, view.on_cpu())
        if not ssim == ssim:
            raise TrainerError("E_NOT_FINITE", f"the image of {view.name} is not finite")
        found.append(Quality(view.name, view.width, view.height, *view.intrinsics, psnr, ssim))
        if renders:
            shown.append(pool.submit(_show, renders / f"{view.name}.png", picture))
            if len(shown) > _AHEAD:
                shown.pop(0).result()
    for one in shown:
        one.result()
    return found


def _measured(paint: Callable[[View], Tensor], view: View) -> tuple[Pixels, float, float]:
    """Photograph and render side by side (H, 2 W, 3) uint8, PSNR, SSIM."""
    photo = view.photo().float() / 255
    image = paint(view).clamp(0, 1)
    psnr = loss.psnr(float(loss.mse(image, photo, view.mask)))
    ssim = float(loss.ssim(image, photo, view.mask))
    pair = torch.cat([photo, image], 1) * 255
    return pair.round().byte().cpu().numpy(), psnr, ssim


def _show(path: Path, pixels: Pixels) -> None:
    """Write a picture; a job that can deliver its model does not fail for a picture."""
    try:
        write_atomically(path, lambda s: Image.fromarray(pixels).save(s, "png", compress_level=1))
    except OSError as error:
        log.line(f"warning: no render {path.name}: {error}")


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; ValueError for none."""
    if not values:
        raise ValueError("mean of no values")
    return sum(values) / len(values)
