"""Rendering, in one place: gsplat on CUDA, plain PyTorch on a CPU, the same image formation."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import kernels
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import host, raster_torch
from trainer.config import Config
from trainer.errors import TrainerError, classify
from trainer.masks import COUNTS, WINDOW, WINDOW_COUNTS
from trainer.photos import Photo
from trainer.raster_torch import BLACK

#: For measurements, and where the own kernels are doubted: ``fused``, ``fused-gsplat`` (with
#: gsplat's rasterising kernels) or ``autograd``, all three the same model.
STEP = "TRAINER_STEP"
OWN = "fused"
#: Photographs are not reduced below this side, in pixels.
LEAST = 64


@dataclass(eq=False)
class View:
    """A camera on the training device with its photograph.

    ``viewmat`` (4, 4) float32 world to camera; ``intrinsics`` fx, fy, cx, cy in pixels;
    ``pixels`` (height, width, 3) uint8, on the device or in host memory.
    """

    name: str
    viewmat: Tensor
    intrinsics: tuple[float, float, float, float]
    pixels: Tensor
    #: (height, width) uint8 on the training device, bits as in ``Photo.mask``; None: all counts.
    mask: Tensor | None = None

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.pixels.shape[0]

    @functools.cached_property
    def counted(self) -> tuple[int, int]:
        """How many pixels, and how many windows of SSIM, count."""
        if self.mask is None:
            edge = WINDOW - 1
            return self.width * self.height, (self.width - edge) * (self.height - edge)
        half = WINDOW // 2
        whole = self.mask[half:-half, half:-half] & WINDOW_COUNTS
        return int((self.mask & COUNTS).sum()), int((whole > 0).sum())

    def on_cpu(self) -> View:
        """The same in host memory."""
        mask = None if self.mask is None else self.mask.cpu()
        return replace(self, viewmat=self.viewmat.cpu(), pixels=self.pixels.cpu(), mask=mask)

    def photo(self) -> Tensor:
        """The photograph as (height, width, 3) uint8 on the training device.

        From host memory it goes by a pinned copy, so that it travels while earlier steps compute.
        """
        device = self.viewmat.device
        if self.pixels.device == device:
            return self.pixels
        return self.pixels.pin_memory().to(device, non_blocking=True)


@dataclass
class Views:
    """The views of a run: trained on, kept aside to judge by on the way, kept for the verdict."""

    training: list[View]
    inner: list[View]
    held_out: list[View]

    @property
    def judged(self) -> list[View]:
        """What the final quality is measured on: held-out views, or those trained on."""
        return self.held_out or self.training

    def aside(self, every: int) -> Views:
        """With every so manieth of the training views kept aside, one at least."""
        inner = self.training[every // 2 :: every] or self.training[-1:]
        return Views([v for v in self.training if v not in inner], inner, self.held_out)


def reduced(view: View, by: int) -> View:
    """The view at a ``by``-th of its size; what is left over on the right and below is cut off.

    The view itself, if too little would be left of it.
    """
    height, width = view.height // by, view.width // by
    if by == 1 or min(height, width) < LEAST:
        return view
    blocks = view.pixels[: height * by, : width * by].view(height, by, width, by, 3)
    pixels = (blocks.float().mean((1, 3)) + 0.5).byte()
    fx, fy, cx, cy = (x / by for x in view.intrinsics)
    mask = None if view.mask is None else reduced_mask(view.mask, by)
    found = replace(view, pixels=pixels.contiguous(), intrinsics=(fx, fy, cx, cy), mask=mask)
    return found if found.counted[1] else view


def reduced_mask(mask: Tensor, by: int) -> Tensor:
    """A mask at a ``by``-th of its size: a pixel counts where all that it came from did."""
    height, width = mask.shape[0] // by, mask.shape[1] // by
    blocks = (mask[: height * by, : width * by] & COUNTS).view(height, by, width, by)
    counts = blocks.amin((1, 3))
    # The smallest of a window is the largest of what is left out, turned round.
    out = F.max_pool2d(1 - counts[None, None].float(), WINDOW, 1, WINDOW // 2)[0, 0]
    return counts * COUNTS + (out < 0.5).byte() * WINDOW_COUNTS


def painter(values: Mapping[str, Tensor]) -> Callable[[View], Tensor]:
    """What draws these Gaussians as they are: a view to its image (height, width, 3), not clamped.

    ``values`` as in ``Splats.params``. By the trainer's own kernels on a GPU.
    """
    degree = round((values["shN"].shape[1] + 1) ** 0.5) - 1
    if not values["means"].is_cuda or os.environ.get(STEP, OWN) != OWN:
        return lambda view: render(values, values["opacities"].sigmoid(), view, degree)
    from trainer.fused import FusedStep

    step = FusedStep(Config(opacity_reg=0.0), 1.0, values, planes=1)
    return lambda view: step.draw(view, degree)


def split(config: Config, views: list[View]) -> Views:
    """Keep every ``hold_out``-th view for the verdict; some of the rest for ``plateau``.

    Raises ``E_HYPERPARAMETER`` if none is left to train on.
    """
    every = config.hold_out
    held_out = views[::every] if every else []
    training = [v for i, v in enumerate(views) if not every or i % every]
    found = Views(training, [], held_out)
    left = found.aside(8) if config.plateau or config.recipe == "choose" else found
    if not left.training:
        raise TrainerError(
            "E_HYPERPARAMETER",
            f"hold_out={every}, plateau={config.plateau} and recipe={config.recipe} leave none of "
            f"{len(views)} photographs to train on; raise hold_out, or leave the others out",
        )
    return left if config.plateau else found


def make_view(photo: Photo, device: torch.device, resident: bool) -> View:
    """Move a photograph's camera to ``device``, and its pixels too if ``resident``."""
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.from_numpy(photo.rotation).float()
    viewmat[:3, 3] = torch.from_numpy(photo.translation).float()
    pixels = torch.from_numpy(photo.pixels)
    return View(
        photo.name,
        viewmat.to(device),
        (photo.fx, photo.fy, photo.cx, photo.cy),
        pixels.to(device) if resident else pixels,
        None if photo.mask is None else torch.from_numpy(photo.mask).to(device),
    )


def render(
    values: Mapping[str, Tensor],
    opacities: Tensor,
    view: View,
    sh_degree: int,
    background: tuple[float, float, float] = BLACK,
) -> Tensor:
    """The image (height, width, 3) of the Gaussians, differentiable, not clamped.

    ``values`` as in ``Splats.params``, ``opacities`` (N,) in [0, 1]. Classic mode: no opacity
    compensation, 0.3 square pixels added to the projected covariance.
    """
    if view.viewmat.device.type == "cpu":
        return raster_torch.render(
            values,
            opacities,
            view.viewmat,
            view.intrinsics,
            view.width,
            view.height,
            sh_degree,
            background,
        )
    from gsplat import rasterization

    fx, fy, cx, cy = view.intrinsics
    image, _, _ = rasterization(
        means=values["means"],
        quats=values["quats"],
        scales=values["scales"].exp(),
        opacities=opacities,
        colors=torch.cat([values["sh0"], values["shN"]], 1),
        viewmats=view.viewmat[None],
        Ks=values["means"].new_tensor([[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]]),
        width=view.width,
        height=view.height,
        near_plane=raster_torch.NEAR,
        eps2d=raster_torch.EPS2D,
        sh_degree=sh_degree,
        packed=False,
        backgrounds=values["means"].new_tensor([background]),
    )
    result: Tensor = image[0]
    return result


def require_backend(device: str) -> torch.device:
    """The device to train on; ``E_NO_GPU`` or ``E_CUDA`` if CUDA or gsplat's kernels are absent.

    ``import gsplat`` proves nothing: its compiled part is looked up at the first call, and may be
    None or belong to another architecture, so one tiny image is drawn here.
    """
    if device == "cpu":
        torch.set_num_threads(host.cpus())
        # Faint tails are denormal numbers, and a CPU is ten times slower with those.
        torch.set_flush_denormal(True)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise TrainerError(
            "E_NO_GPU",
            "device=cuda, but PyTorch finds no usable GPU "
            f"(torch {torch.__version__}, CUDA {torch.version.cuda}); check the "
            "driver, or ask for device=cpu",
        )
    if os.environ.get(STEP, OWN) != OWN:
        try:
            from gsplat.cuda._backend import _C
        except ImportError as error:
            raise TrainerError("E_CUDA", f"gsplat's extension cannot be loaded: {error}") from error
        if _C is None:
            raise TrainerError("E_CUDA", "gsplat has no compiled extension in this environment")
    try:
        kernels.loaded()
    except OSError as error:
        raise TrainerError("E_CUDA", f"the compiled step cannot be loaded: {error}") from error
    cuda = torch.device("cuda", 0)
    values = {
        "means": torch.tensor([[0.0, 0.0, 2.0]]),
        "quats": torch.tensor([[1.0, 0, 0, 0]]),
        "scales": torch.full((1, 3), -2.0),
        "opacities": torch.full((1,), 9.0),
        "sh0": torch.ones(1, 1, 3),
        "shN": torch.zeros(1, 0, 3),
    }
    view = View(
        "probe",
        torch.eye(4, device=cuda),
        (16.0, 16.0, 8.0, 8.0),
        torch.zeros(16, 16, 3, dtype=torch.uint8, device=cuda),
    )
    try:
        values = {n: v.to(cuda) for n, v in values.items()}
        drawn = float(painter(values)(view).max())
    except RuntimeError as error:
        fault = classify(error)
        if fault.code != "E_ARCH":
            raise
        major, minor = torch.cuda.get_device_capability(cuda)
        raise TrainerError(
            "E_ARCH",
            f"{torch.cuda.get_device_name(cuda)} has compute capability {major}.{minor}, and this "
            "image holds no machine code for it",
            str(fault),
        ) from error
    if not drawn > 0:
        raise TrainerError("E_CUDA", "nothing was drawn on this GPU: a broken driver?")
    return cuda
