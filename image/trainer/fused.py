"""The step on a GPU: compiled kernels from projection to Adam, no autograd, no waiting.

Same arithmetic as ``AutogradStep``, which stays the reference (``kernels/selftest.py`` compares).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping

import kernels
import torch
from torch import Tensor

from trainer.config import Config
from trainer.densify import NOISE
from trainer.loss import SSIM_WEIGHT
from trainer.model import Splats, learning_rates
from trainer.points import reached
from trainer.rasterise import View
from trainer.step import At

#: Room for intersections, over the largest number seen lately; what does not fit is not drawn, and
#: counted. Sorting time grows with it.
_ROOM, _EARLY_ROOM = 1.35, 3.0
#: While the Gaussians still grow from points to surfaces, steps.
_EARLY = 200
#: The largest number seen is forgotten after one to two times this many steps.
_MEMORY = 500
_LEAST_SLOTS = 1 << 16
#: Figures of this many steps share a tensor.
_FIGURES = 1024


class PlanarSplats(Splats):
    """``Splats`` in one buffer [rows, capacity], a parameter a row, so that threads read abreast.

    Rows: mean 3, quaternion 4, log scale 3, logit opacity, then colour by coefficient and channel.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        moments: Mapping[str, Mapping[str, Tensor]] | None = None,
        planes: int = 3,
    ) -> None:
        """``planes``: the values and both moments; 1 where nothing is to be optimised."""
        self._rest = values["shN"].shape[1]
        self._count = values["means"].shape[0]
        self.steps = 0
        self.state = tuple(
            values["means"].new_zeros(14 + 3 * self._rest, self._count) for _ in range(planes)
        )
        for name, mine in self._views(0).items():
            mine[...] = values[name]
        for name, of in (moments or {}).items():
            self.steps = int(of["step"])
            for place, key in ((1, "exp_avg"), (2, "exp_avg_sq")):
                self._views(place)[name].copy_(of[key])

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return self._count

    @property
    def capacity(self) -> int:
        """Number of Gaussians that the buffers hold."""
        return self.state[0].shape[1]

    def values(self) -> dict[str, Tensor]:
        """The parameters, shaped as in ``Splats``, sharing memory; not contiguous."""
        return self._views(0)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """Adam's state by parameter, sharing memory; empty before the first step."""
        if not self.steps:
            return {}
        first, second = self._views(1), self._views(2)
        step = torch.tensor(float(self.steps))
        return {
            n: {"step": step, "exp_avg": first[n], "exp_avg_sq": second[n]}
            for n in self.names
            if first[n].numel()
        }

    @torch.no_grad()
    def copy(self, source: Tensor, rows: Tensor) -> None:
        """Overwrite the Gaussians ``rows`` by copies of ``source`` and forget their moments."""
        self.state[0][:, rows] = self.state[0].index_select(1, source)
        self._forget(rows)

    @torch.no_grad()
    def assign(self, rows: Tensor, values: Mapping[str, Tensor]) -> None:
        """Overwrite parameters of ``rows`` and forget their moments."""
        mine = self._views(0)
        for name, value in values.items():
            mine[name][rows] = value
        self._forget(rows)

    def _forget(self, rows: Tensor) -> None:
        for moment in self.state[1:]:
            moment.index_fill_(1, rows, 0)

    @torch.no_grad()
    def append(self, source: Tensor) -> None:
        """Add copies of the Gaussians ``source``, with zero moments."""
        new = self.state[0].index_select(1, source)
        old, count = self._count, self._count + len(source)
        if count > self.capacity:
            grown = [buffer.new_zeros(buffer.shape[0], count * 5 // 4) for buffer in self.state]
            for buffer, larger in zip(self.state, grown, strict=True):
                larger[:, :old] = buffer[:, :old]
            self.state = tuple(grown)
        self.state[0][:, old:count] = new
        for moment in self.state[1:]:
            moment[:, old:count] = 0
        self._count = count

    @torch.no_grad()
    def keep(self, rows: Tensor) -> None:
        """Keep only the Gaussians of ``rows``, with their moments.

        A buffer at a time, since memory may be short; if it fails, they are lost.
        """
        for place in range(len(self.state)):
            buffers = list(self.state)
            buffers[place] = buffers[place].index_select(1, rows)
            self.state = tuple(buffers)
        self._count = len(rows)

    def _views(self, place: int) -> dict[str, Tensor]:
        buffer = self.state[place][:, : self._count]
        rest = (
            buffer[14:].unflatten(0, (self._rest, 3)) if self._rest else buffer.new_empty(0, 3, 0)
        )
        return {
            "means": buffer[0:3].T,
            "quats": buffer[3:7].T,
            "scales": buffer[7:10].T,
            "opacities": buffer[10],
            "sh0": buffer[11:14].T[:, None, :],
            "shN": rest.permute(2, 0, 1) if self._rest else buffer.new_empty(self._count, 0, 3),
        }


class FusedStep:
    """See ``trainer.step.Step``. Nothing but refinement and allocation waits for the GPU."""

    def __init__(
        self,
        config: Config,
        scene_size: float,
        values: Mapping[str, Tensor],
        moments: Mapping[str, Mapping[str, Tensor]] | None = None,
        rasteriser: str = "own",
        planes: int = 3,
    ) -> None:
        """``values`` on the GPU; ``rasteriser`` is ``own`` or ``gsplat``."""
        self._config, self._scene_size = config, scene_size
        self._own = rasteriser == "own"
        self.splats = PlanarSplats(values, moments, planes)
        self._device = values["means"].device
        self._kernels = kernels.loaded()
        rates = learning_rates(config, scene_size)
        self._first: int | None = None
        self._cameras: dict[tuple[str, int, int], kernels.Camera] = {}
        self._buffers: dict[str, Tensor] = {}
        self._state: object = None
        self._shape = (0, 0, 0, 0)
        self._pixels = self._tiles = 0
        self._seen_tensor = torch.zeros(4, dtype=torch.int64).pin_memory()
        self._seen = (ctypes.c_int64 * 4).from_address(self._seen_tensor.data_ptr())
        self._slots = self._before = 0
        self._figures: tuple[Tensor, ...] = ()
        self._figures_at = 0
        self.s = kernels.Step(
            seen=self._seen_tensor.data_ptr(),
            ssim_weight=SSIM_WEIGHT,
            opacity_reg=config.opacity_reg,
            rates=tuple(rates[n] for n in PlanarSplats.names),
            max_log_elongation=math.log(config.max_elongation) if config.max_elongation else 0.0,
        )

    @property
    def intersections(self) -> dict[str, int]:
        """Last total, largest lately, steps that dropped some, passes that disagreed."""
        return dict(zip(("last", "largest", "dropped", "mismatches"), self._seen, strict=True))

    def image(self, width: int, height: int) -> Tensor:
        """The image (height, width, 3) that the last step drew."""
        pixels = width * height
        drawn = self._buffers["render"].flatten()[: 3 * pixels].view(height, width, 3)
        left = 1 - self._buffers["alpha"].flatten()[:pixels].view(height, width, 1)
        return drawn + left * drawn.new_tensor([*self.s.background])

    def step(self, view: View, photo: Tensor, at: At) -> Tensor:
        """See ``trainer.step.Step.step``."""
        s, t = self.s, at.step
        place = (t - 1) % _FIGURES
        if place == 0 or not self._figures:
            figures = torch.zeros(_FIGURES, 2, device=self._device)
            self._figures = figures.unbind()
            self._figures_at = figures.data_ptr()
        self.prepare(view, photo, at)
        s.figures = self._figures_at + 8 * place
        s.rates[0] = at.means_rate
        s.bias1, s.bias2 = 1 - 0.9**t, math.sqrt(1 - 0.999**t)
        s.noise = NOISE * at.means_rate / self._scene_size**2
        self.launch()
        reached("step")
        self.splats.steps = t
        return self._figures[place]

    def draw(self, view: View, degree: int) -> Tensor:
        """The image (height, width, 3) of all Gaussians; waits for it. Only until the next one."""
        at = At(1, 0, 0.0, degree, 0.0, 0)
        while True:
            self._seen[1] = max(self._seen[1], self.splats.count)
            self.prepare(view, view.pixels, at)
            stream = torch.cuda.current_stream(self._device)
            self._kernels.project(self.s, stream.cuda_stream)
            self._kernels.raster(self.s, stream.cuda_stream)
            stream.synchronize()
            if self._seen[0] <= self.s.slots:
                return self.image(view.width, view.height)

    def release(self) -> None:
        """See ``trainer.step.Step.release``."""
        self._buffers.clear()
        self.s.capacity = self.s.scratch_bytes = 0
        self._pixels = self._tiles = 0
        self._shape = (0, 0, 0, 0)

    def launch(self) -> None:
        """Start the kernels of what was prepared."""
        run, s = self._kernels, self.s
        stream = torch.cuda.current_stream(self._device).cuda_stream
        run.project(s, stream)
        if self._own:
            run.raster(s, stream)
            run.loss(s, stream)
            run.raster_backward(s, stream)
            run.update(s, stream)
        else:
            self._with_gsplat(stream)

    def prepare(self, view: View, photo: Tensor, at: At) -> None:
        """Fit the buffers to the step and fill in what does not depend on the optimiser."""
        s = self.s
        height, width = photo.shape[:2]
        self._fit(width, height, at.step)
        key = view.name, width, height
        if key not in self._cameras:
            rows = view.viewmat.tolist()
            turn = [x for row in rows[:3] for x in row[:3]]
            self._cameras[key] = kernels.Camera(
                (ctypes.c_float * 9)(*turn),
                (ctypes.c_float * 3)(*(row[3] for row in rows[:3])),
                *view.intrinsics,
                width,
                height,
            )
        s.camera = self._cameras[key]
        s.photo = photo.data_ptr()
        s.mask = None if view.mask is None else view.mask.data_ptr()
        s.counted, s.windows = view.counted
        s.degree, s.dropout = at.sh_degree, at.dropout
        s.background = at.background
        s.seed, s.step = at.seed & 0xFFFFFFFF, at.step

    def _fit(self, width: int, height: int, step: int) -> None:
        """Make room: buffers follow the Gaussians, the largest image, and the intersections."""
        if self._first is None:
            self._first = step
        if 0 < 3 * self._pixels <= width * height:  # photographs are no longer as small as before
            self._seen[1] *= 3
        room = _EARLY_ROOM if step - self._first < _EARLY else _ROOM
        largest = max(self._before, self._seen[1])
        need = max(_LEAST_SLOTS, int(largest * room) if largest else 16 * self.splats.count)
        if step % _MEMORY == 0:
            self._before, self._seen[1] = self._seen[1], 0
        shape = self.splats.capacity, self.splats.count, width, height
        if shape == self._shape and self._slots // 2 <= need <= self._slots:
            return
        self._shape = (0, 0, 0, 0)  # until all is there: an allocation may fail
        if need > self._slots or need < self._slots // 2:
            self._slots = -(-int(need * 1.05) // _LEAST_SLOTS) * _LEAST_SLOTS
        s, splats = self.s, self.splats
        if splats.state is not self._state or not s.capacity:
            self._state = splats.state
            for name, buffer in zip("pmv", splats.state, strict=False):
                setattr(s, name, buffer.data_ptr())
            if s.capacity != splats.capacity:
                s.capacity = 0
                self._allocate_gaussians(splats.capacity)
                s.capacity = splats.capacity
        s.n = splats.count
        tiles = -(-width // kernels.TILE) * (-(-height // kernels.TILE) + 1)
        if width * height > self._pixels or tiles > self._tiles:
            pixels, tiles = max(self._pixels, width * height), max(self._tiles, tiles)
            self._allocate_image(pixels, tiles)
            self._pixels, self._tiles = pixels, tiles
        held = self._buffers["ids"].numel() if "ids" in self._buffers else 0
        if self._slots > held or self._slots < held // 4:
            self._allocate_slots(self._slots)
        s.slots = self._slots
        scratch = self._kernels.scratch_bytes(self._slots)
        if scratch > s.scratch_bytes:
            s.scratch_bytes = 0
            self._place("scratch", (scratch * 5 // 4,), torch.uint8)
            s.scratch_bytes = scratch * 5 // 4
        self._shape = shape

    def _place(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        self._buffers.pop(name, None)
        buffer = torch.zeros(shape, dtype=dtype, device=self._device)
        self._buffers[name] = buffer
        if hasattr(self.s, name):
            setattr(self.s, name, buffer.data_ptr())

    def _allocate_gaussians(self, capacity: int) -> None:
        self._place("records", (capacity, kernels.RECORD // 4))
        blocks = -(-capacity // kernels.THREADS)
        self._place("sums", (kernels.TOTALS + blocks,), torch.int64)
        if self._own:
            self._place("v_records", (capacity, kernels.G_ROW))
            return
        for name, shape in (
            ("centres", (2,)),
            ("conics", (3,)),
            ("colors", (3,)),
            ("opacities", ()),
        ):
            self._place(name, (capacity, *shape))

    def _allocate_slots(self, slots: int) -> None:
        for name in ("keys", "sorted_keys"):
            self._place(name, (slots,), torch.int64)
        for name in ("ids", "sorted_ids"):
            self._place(name, (slots,), torch.int32)

    def _allocate_image(self, pixels: int, tiles: int) -> None:
        for name, planes in (("maps", 9), ("v_render", 3), ("v_alpha", 1)):
            self._place(name, (planes * pixels,))
        self._place("offsets", (tiles,), torch.int32)
        if self._own:
            self._place("render", (3 * pixels,))
            self._place("alpha", (pixels,))
            self._place("last", (pixels,), torch.int32)

    def _with_gsplat(self, stream: int) -> None:
        """The middle of the step with gsplat's pair of rasterising kernels."""
        from gsplat.cuda._backend import _C

        s, n = self.s, self.splats.count
        width, height = s.camera.width, s.camera.height
        across, down = -(-width // kernels.TILE), -(-height // kernels.TILE)
        offsets = self._buffers["offsets"][: across * (down + 1)].view(1, down + 1, across)
        mask = self._mask(across, down)
        drawn = [self._buffers[k][None, :n] for k in ("centres", "conics", "colors", "opacities")]
        ids = self._buffers["sorted_ids"][: self._slots]
        rest = (None, mask, width, height, kernels.TILE, offsets, ids)
        render, alpha, last = _C.rasterize_to_pixels_3dgs_fwd(*drawn, *rest)
        s.render, s.alpha = render.data_ptr(), alpha.data_ptr()
        self._kernels.loss(s, stream)
        v_render = self._buffers["v_render"][: 3 * width * height].view(1, height, width, 3)
        v_alpha = self._buffers["v_alpha"][: width * height].view(1, height, width, 1)
        _, *found = _C.rasterize_to_pixels_3dgs_bwd(
            *drawn, *rest, alpha, last, v_render, v_alpha, False
        )
        s.v_centres, s.v_conics, s.v_colors, s.v_opacities = (v.data_ptr() for v in found)
        self._kernels.update(s, stream)
        self._buffers.update(render=render, alpha=alpha)

    def _mask(self, across: int, down: int) -> Tensor:
        """True for the tiles of the image, False for the row below it, which ends the last."""
        name = f"mask {across} {down}"
        if name not in self._buffers:
            mask = torch.ones(1, down + 1, across, dtype=torch.bool, device=self._device)
            mask[:, -1] = False
            self._buffers[name] = mask
        return self._buffers[name]
