"""The kernels' arithmetic of one Gaussian, compiled for the CPU, against autograd.

What needs a GPU (the kernels around it) is judged in the gpu lane.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import kernels
import numpy as np
import pytest
import torch
from trainer import raster_torch

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
_SHIM = """
#include "splat.cuh"
extern "C" int forward(const float *p, int degree, const Camera *c, float *out) {
    float scale[3] = {expf(p[7]), expf(p[8]), expf(p[9])}, d[3], basis[16];
    Projected o;
    if (!project(p, p + QUAT, scale, *c, o)) return 0;
    out[0] = c->fx * o.x * o.rz + c->cx, out[1] = c->fy * o.y * o.rz + c->cy;
    out[2] = o.cov_c / o.det, out[3] = -o.cov_b / o.det, out[4] = o.cov_a / o.det;
    direction(p, *c, d);
    sh_basis(degree, d, basis);
    for (int ch = 0; ch < 3; ++ch) {
        out[5 + ch] = 0.5f;
        for (int k = 0; k < (degree + 1) * (degree + 1); ++k)
            out[5 + ch] += basis[k] * p[SH + 3 * k + ch];
    }
    return 1;
}
extern "C" void backward(const float *p, int degree, const Camera *c, const float *v, float *g) {
    float scale[3] = {expf(p[7]), expf(p[8]), expf(p[9])}, d[3], basis[16], s[16], v_d[3];
    Projected o;
    project(p, p + QUAT, scale, *c, o);
    project_backward(scale, *c, o, v, v + 2, g, g + QUAT, g + SCALE);
    float inverse = direction(p, *c, d);
    sh_basis(degree, d, basis);
    for (int k = 0; k < (degree + 1) * (degree + 1); ++k) {
        s[k] = 0;
        for (int ch = 0; ch < 3; ++ch) {
            g[SH + 3 * k + ch] = basis[k] * v[5 + ch];
            s[k] += p[SH + 3 * k + ch] * v[5 + ch];
        }
    }
    sh_direction(degree, d, s, v_d);
    float along = v_d[0] * d[0] + v_d[1] * d[1] + v_d[2] * d[2];
    for (int i = 0; i < 3; ++i) g[i] += (v_d[i] - along * d[i]) * inverse;
}
extern "C" float least(const float *c, const float *r) {
    return least_power(c[0], c[1], c[2], -c[1] / c[0], -c[1] / c[2], r[0], r[1], r[2], r[3]);
}
"""


class Camera(ctypes.Structure):
    _fields_ = [
        ("r", ctypes.c_float * 9),
        ("t", ctypes.c_float * 3),
        ("intrinsics", ctypes.c_float * 4),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "shim.cpp").write_text(_SHIM)
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", f"-I{KERNELS}", "shim.cpp", "-o", "shim.so"],
        cwd=folder,
        check=True,
    )
    found = ctypes.CDLL(str(folder / "shim.so"))
    found.least.restype = ctypes.c_float
    return found


def floats(array):
    return np.ascontiguousarray(array, np.float32).ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def random_camera(rng):
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    translation = rng.normal(size=3) * 0.3 + [0, 0, 3]
    intrinsics = (90.0, 110.0, 61.0, 38.0)
    camera = Camera(
        tuple(rotation.astype(np.float32).ravel()),
        tuple(translation.astype(np.float32)),
        intrinsics,
        120,
        80,
    )
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = torch.from_numpy(rotation.astype(np.float32)).double()
    viewmat[:3, 3] = torch.from_numpy(translation.astype(np.float32)).double()
    return camera, viewmat, intrinsics


def as_values(row):
    """The planar row of one Gaussian as the reference takes it."""
    return {
        "means": row[None, 0:3],
        "quats": row[None, 3:7],
        "scales": row[None, 7:10],
        "opacities": row[None, 10],
        "sh0": row[None, 11:14].view(1, 1, 3),
        "shN": row[None, 14:].view(1, -1, 3),
    }


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_projection_colour_and_gradients_are_those_of_autograd(library, degree):
    """Also far outside the view, where the Jacobian is held, and with unnormalised quaternions."""
    rng = np.random.default_rng(degree)
    met = 0
    for case in range(60):
        camera, viewmat, intrinsics = random_camera(rng)
        p = rng.normal(size=11 + 48)
        p[:3] *= 4 if case % 3 == 0 else 1
        p[7:10] = rng.normal(size=3) * 0.7 - 1
        if case % 5 == 0:  # a needle: some pixels long, far thinner than a pixel
            p[7:10] = [0.5, -7, -7]
        p = p.astype(np.float32)
        row = torch.from_numpy(p).double().requires_grad_()
        values = as_values(row)
        centre, conic, depth, _ = raster_torch.project(
            values, row[None, 10].sigmoid(), viewmat, intrinsics, 120, 80
        )
        eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
        directions = values["means"] - eye
        basis = raster_torch.sh_basis(directions, degree)
        count = (degree + 1) ** 2
        coefficients = torch.cat([values["sh0"], values["shN"]], 1)[:, :count]
        color = (basis[:, :, None] * coefficients).sum(1) + 0.5
        expected = torch.cat([centre, conic, color], 1)[0]
        out = np.zeros(8, np.float32)
        pointer = floats(out)
        seen = library.forward(floats(p), degree, ctypes.byref(camera), pointer)
        assert bool(seen) == bool(depth[0] > raster_torch.NEAR)
        if not seen or float(depth[0].detach()) < 0.2:
            continue
        met += 1
        got = np.ctypeslib.as_array(pointer, (8,))
        np.testing.assert_allclose(got, expected.detach(), rtol=2e-3, atol=1e-4)
        weights = rng.normal(size=8).astype(np.float32)
        weights[2:5] *= 1e-1
        (expected * torch.from_numpy(weights).double()).sum().backward()
        gradient = np.zeros(11 + 48, np.float32)
        pointer = floats(gradient)
        library.backward(floats(p), degree, ctypes.byref(camera), floats(weights), pointer)
        got = np.ctypeslib.as_array(pointer, (11 + 48,))
        want = row.grad.numpy()
        used = 11 + 3 * count
        for part in (slice(0, 3), slice(3, 7), slice(7, 10), slice(11, used)):
            scale = np.linalg.norm(want[part]) + 1e-3
            assert np.linalg.norm(got[part] - want[part]) < 2e-3 * scale, (case, part)
    assert met > 20


def test_least_power_over_a_rectangle_is_the_least_of_its_points(library):
    """The exact tile test may keep a tile too many by rounding, never one too few."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        m = rng.normal(size=(2, 2))
        q = m @ m.T + 0.05 * np.eye(2)
        x0, y0 = rng.normal(size=2) * 3
        w, h = rng.uniform(0.1, 4, 2)
        x, y = np.meshgrid(np.linspace(x0, x0 + w, 60), np.linspace(y0, y0 + h, 60))
        power = 0.5 * (q[0, 0] * x * x + q[1, 1] * y * y) + q[0, 1] * x * y
        got = library.least(floats([q[0, 0], q[0, 1], q[1, 1]]), floats([x0, x0 + w, y0, y0 + h]))
        assert got <= power.min() * (1 + 1e-4) + 1e-5
        assert got >= power.min() - 0.2 * (1 + power.min())


def test_both_sides_of_the_door_have_the_same_constants() -> None:
    """Buffers are made by one and written by the other; the size of a struct tells nothing here."""
    text = (KERNELS / "step.cuh").read_text()
    lines = re.findall(r"^constexpr int (.+?);", text, re.MULTILINE)
    theirs = {n: int(v) for n, v in re.findall(r"(\w+) = (\d+)", ", ".join(lines))}
    assert theirs == {name: getattr(kernels, name) for name in theirs}
    assert {"TILE", "THREADS", "TOTALS", "G_ROW"} <= set(theirs)
