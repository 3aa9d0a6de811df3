"""Every code of the table is reached, by the fault it stands for, with a first line that helps."""

from __future__ import annotations

import errno
import math
import os
import signal
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from small import configure, make_job, metrics, run, run_to
from test_inputs import PHOTO, changed, in_one_place, similar
from trainer import channel, errors, host, loss, photos, points, progress, rasterise, step
from trainer.errors import KINDS

#: Brings a fault about; returns what the environment needs for it.
Fault = Callable[[Path, pytest.MonkeyPatch], dict[str, str] | None]
CHANNEL = "input/data/training"


def parameter(**values: object) -> Fault:
    """A request with these hyperparameters."""
    return lambda base, _: configure(base, **values) and None


def at(point: str) -> Fault:
    """A fault of the machine at a named point."""
    return lambda *_: {points.VARIABLE: point}


def raises(owner: object, name: str, error: BaseException) -> Fault:
    """A call that fails as the machine would make it fail."""

    def apply(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
        def fail(*_: object, **__: object) -> None:
            raise error

        patch.setattr(owner, name, fail)
        return None

    return apply


def edit(path: str, change: Callable[[Path], object]) -> Fault:
    """A file of the channel that was changed."""
    return lambda base, _: change(base / CHANNEL / path) and None


def no_gpu(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
    configure(base, device="cuda")
    patch.setattr(host, "driver_version", lambda root=None: None)
    return None


def old_driver(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
    configure(base, device="cuda")
    patch.setattr(host, "driver_version", lambda root=None: "470.57.02")
    return {"TRAINER_DRIVER_FLOOR": "525"}


def no_code(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
    """As PyTorch reports a GPU for which there is no machine code."""
    text = "CUDA error: no kernel image is available for execution on the device"
    patch.setattr(torch.cuda, "is_available", lambda: True)
    return raises(rasterise, "require_backend", RuntimeError(text))(base, patch)


def small_machine(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
    patch.setattr(host, "memory_limit", lambda: (host.resident() + 200_000, "the test's limit"))
    return None


def nan(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
    patch.setattr(loss, "photometric", lambda image, *_: image.sum() * math.nan)
    return None


def closed_file(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
    access = os.access
    patch.setattr(os, "access", lambda p, mode: "v1" not in str(p) and access(p, mode))
    return None


def broken_storage(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
    error = OSError(errno.EIO, os.strerror(errno.EIO), str(base / CHANNEL / "images"))
    return raises(channel, "find_layout", error)(base, patch)


def asked_early(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
    read = photos.index_photos
    patch.setattr(photos, "index_photos", lambda s: signal.raise_signal(signal.SIGTERM) or read(s))
    return None


def no_time(base: Path, patch: pytest.MonkeyPatch) -> dict[str, str] | None:
    """Loading took longer than all of the time."""
    configure(base, max_minutes=1)
    late = SimpleNamespace(monotonic=lambda: time.monotonic() + 100)
    patch.setattr(progress, "time", late)
    return None


def nothing(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def zero_focal_length(cameras: Path) -> None:
    cameras.write_bytes(cameras.read_bytes()[:-32] + struct.pack("<4d", 0, 50, 32, 24))


def no_points(points3d: Path) -> None:
    points3d.write_bytes(bytes(8))


def unsafe_archive(folder: Path) -> None:
    nothing(folder)
    with zipfile.ZipFile(folder / "a.zip", "w") as pack:
        pack.writestr("../evil", "x")


#: Code, what makes it come about, and what its first line must say: faults of the request and the
#: scene, and at named points, which come about in a container as they do here.
SENT: list[tuple[str, Fault, str]] = [
    ("E_HYPERPARAMETER", parameter(max_iterations="many"), "max_iterations='many'"),
    ("E_CHANNEL_EMPTY", edit("", nothing), "holds no file"),
    ("E_CHANNEL_ARCHIVE", edit("", unsafe_archive), "a.zip"),
    ("E_SCENE_LAYOUT", edit("sparse/0/cameras.bin", Path.unlink), "no COLMAP model"),
    ("E_SCENE_FORMAT", edit("sparse/0/points3D.bin", lambda p: os.truncate(p, 99)), "points3D.bin"),
    ("E_SCENE_CAMERA", edit("sparse/0/cameras.bin", zero_focal_length), "unusable: 64x48"),
    ("E_SCENE_CAMERA", edit("", changed(in_one_place)), "one place"),
    ("E_SCENE_IMAGES", edit(PHOTO, Path.unlink), "v2.png (missing)"),
    (
        "E_SCENE_IMAGES",
        edit(PHOTO, lambda p: Image.new("RGB", (64, 64)).save(p)),
        "64x64, but its camera 1 is 64x48",
    ),
    ("E_SCENE_POINTS", edit("sparse/0/points3D.bin", no_points), "0 finite points"),
    ("E_SCENE_POINTS", edit("", similar(0.001, 0, 0, 0)), "scale the model up"),
    ("E_OOM", at("step:2-=oom"), "out of memory"),
    ("E_DISK", at("point_cloud.ply.write=full"), "point_cloud.ply"),
]
#: The same of the machine, played by replacing what would tell of it.
MACHINES: list[tuple[str, Fault, str]] = [
    ("E_NO_GPU", no_gpu, "device=cpu"),
    ("E_INPUT", closed_file, "v1.png may not be read"),
    ("E_INPUT", broken_storage, "Input/output error"),
    ("E_MEMORY", small_machine, "of host memory and has"),
    ("E_DRIVER", old_driver, "470.57.02 is below 525"),
    ("E_ARCH", no_code, "no kernel image"),
    ("E_CUDA", raises(rasterise, "require_backend", RuntimeError("CUDA error: x")), "CUDA error"),
    ("E_NOT_FINITE", nan, "the loss became nan at step 1 on sub dir/v"),
    ("E_OUTPUT", edit("../../../model", lambda p: p.write_text("a file")), "model"),
    ("E_STOPPED", asked_early, "SIGTERM came while"),
    ("E_STOPPED", no_time, "max_minutes=1 was over before the first step"),
    ("E_INTERNAL", raises(step.AutogradStep, "step", ValueError("odd")), "ValueError: odd"),
]
CASES = SENT + MACHINES


def test_every_code_has_a_case() -> None:
    assert {code for code, _, _ in CASES} == set(KINDS)


@pytest.mark.parametrize(
    ("code", "fault", "says"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_fault_ends_with_its_code_and_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, fault: Fault, says: str
) -> None:
    base = make_job(tmp_path)
    environment = fault(base, monkeypatch) or {}
    assert run(base, **environment) == KINDS[code].exit
    text = (base / "output/failure").read_text()
    first = text.splitlines()[0]
    assert first.startswith(f"{code}: ")
    assert says in first
    assert len(text.encode()) <= errors.FAILURE_BYTES
    assert KINDS[code].remedy in text
    model = base / "model"
    assert not model.is_dir() or not list(model.iterdir())


def test_memory_that_runs_out_once_costs_gaussians_not_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_job(tmp_path)
    assert run_to(base, "step:3=oom") == 0
    out = capsys.readouterr().out
    assert "warning: memory ran out at step 3 with 285 Gaussians: reduced once, to the 213" in out
    assert metrics(base)["cap"] == metrics(base)["gaussians"] == 213
