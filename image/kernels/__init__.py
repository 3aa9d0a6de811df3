"""The compiled step: the one door to the kernels in this folder.

Plain CUDA behind a C interface, called with ctypes: no PyTorch headers, hence no tie to one PyTorch
version, and a build of half a minute. ``build.py`` compiles it, ahead of time; nothing is compiled
in a job.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).with_name("step.so")
#: Bytes of a projected Gaussian, floats of its gradients, and words before a block's (step.cuh).
RECORD, G_ROW, TOTALS = 48, 12, 2
TILE, THREADS = 16, 256

_F, _I, _L, _P = ctypes.c_float, ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p


class Camera(ctypes.Structure):
    """A pinhole camera: world to camera, row-major, and pixels."""

    _fields_ = [
        ("rotation", _F * 9),
        ("translation", _F * 3),
        *((name, _F) for name in ("fx", "fy", "cx", "cy")),
        *((name, _I) for name in ("width", "height")),
    ]


class Step(ctypes.Structure):
    """What a step works on. Field by field ``struct Step`` of step.cuh, which says what each is."""

    _fields_ = [
        *((name, _P) for name in ("p", "m", "v")),
        *((name, _L) for name in ("capacity", "n")),
        ("camera", Camera),
        ("degree", _I),
        *((name, _P) for name in ("photo", "mask")),
        *((name, _L) for name in ("counted", "windows")),
        *((name, _P) for name in ("records", "centres", "conics", "colors", "opacities")),
        ("sums", _P),
        *((name, _P) for name in ("keys", "sorted_keys", "ids", "sorted_ids")),
        ("slots", _L),
        ("offsets", _P),
        ("scratch", _P),
        ("scratch_bytes", _L),
        ("seen", _P),
        *((name, _P) for name in ("render", "alpha", "last", "maps", "v_render", "v_alpha")),
        *((name, _P) for name in ("v_records", "v_centres", "v_conics", "v_colors", "v_opacities")),
        *((name, _P) for name in ("gradients", "figures")),
        *((name, ctypes.c_uint32) for name in ("seed", "step")),
        ("dropout", _F),
        ("background", _F * 3),
        *((name, _F) for name in ("ssim_weight", "opacity_reg", "scale_reg")),
        ("rates", _F * 6),
        *((name, _F) for name in ("bias1", "bias2", "noise", "max_log_elongation")),
    ]


class Library:
    """The loaded kernels. Each call only starts work on a stream, and raises if that failed."""

    def __init__(self, path: Path = LIBRARY) -> None:
        """Raises OSError when there is no library, or one of another version of this folder."""
        self._c: Any = ctypes.CDLL(str(path))
        self._c.step_error.restype = ctypes.c_char_p
        for name in ("step_struct_bytes", "step_scratch_bytes"):
            getattr(self._c, name).restype = _L
        self._c.step_scratch_bytes.argtypes = [_L]
        if self._c.step_struct_bytes() != ctypes.sizeof(Step):
            raise OSError(f"{path} was compiled from other sources than lie beside it")
        for name in ("project", "raster", "loss", "raster_backward", "update"):
            call = getattr(self._c, f"step_{name}")
            call.argtypes = [ctypes.POINTER(Step), _P]
            setattr(self, name, functools.partial(self._run, name, call))

    def _run(self, name: str, call: Any, step: Step, stream: int) -> None:
        if code := call(step, stream):
            raise RuntimeError(f"CUDA error in kernel {name}: {self._c.step_error(code).decode()}")

    def scratch_bytes(self, slots: int) -> int:
        """Bytes that the sort of ``slots`` keys needs."""
        return int(self._c.step_scratch_bytes(slots))


@functools.cache
def loaded() -> Library:
    """The kernels, loaded once."""
    return Library()
