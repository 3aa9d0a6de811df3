"""The renderer against the same formation written as one loop over pixels, in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from splatgate.scene.colmap import View, rotations
from splatgate.scene.render import render
from splatgate.scene.splats import Splats

#: float32 compositing, and 1/255 where a contribution at the threshold falls on the other side.
CLOSE = 2e-5
BACKGROUND = (0.2, 0.4, 0.6)


def make_view(width=41, height=27, focal=40.0):
    turn = rotations(np.array([[1.0, 0.1, -0.05, 0.08]]))[0]
    matrix = np.array([[focal, 0, width * 0.45], [0, focal * 1.1, height * 0.55], [0, 0, 1]])
    return View("v", width, height, matrix, turn, np.array([0.1, -0.2, 4.0]))


def make_splats(count=60, degree=3, seed=0, size=-1.5, **changes):
    draw = np.random.default_rng(seed)
    rest = (degree + 1) ** 2 - 1
    values = {
        "means": draw.normal(0, 1.2, (count, 3)),
        "quats": draw.normal(size=(count, 4)),
        "scales": draw.normal(size, 0.6, (count, 3)),
        "opacities": draw.normal(0, 2, count),
        "sh0": draw.normal(0, 1, (count, 1, 3)),
        "shN": draw.normal(0, 0.2, (count, rest, 3)),
    }
    return Splats(**{k: np.asarray(changes.get(k, v), np.float32) for k, v in values.items()})


def sh_basis(x, y, z):
    """Degree 3, written out as polynomials (the reference code uses recurrences)."""
    a, b = 1.0925484305920792, 0.31539156525252005
    return [
        0.28209479177387814,
        *(0.4886025119029199 * np.array([-y, z, -x])),
        *(a * x * y, -a * y * z, b * (2 * z * z - x * x - y * y)),
        *(-a * x * z, a / 2 * (x * x - y * y)),
        -0.5900435899266435 * y * (3 * x * x - y * y),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
        0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
        -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
        1.445305721320277 * z * (x * x - y * y),
        -0.5900435899266435 * x * (x * x - 3 * y * y),
    ]


def brute_force(splats, view, background):
    """Every splat at every pixel, straight from the formulas."""
    fx, fy, cx, cy = view.K[0, 0], view.K[1, 1], view.K[0, 2], view.K[1, 2]
    drawn = []
    for i in range(len(splats)):
        x, y, z = view.R @ splats.means[i].astype(float) + view.t
        if z < 0.01:
            continue
        tan_x, tan_y = 0.5 * view.width / fx, 0.5 * view.height / fy
        tx = z * min((view.width - cx) / fx + 0.3 * tan_x, max(-cx / fx - 0.3 * tan_x, x / z))
        ty = z * min((view.height - cy) / fy + 0.3 * tan_y, max(-cy / fy - 0.3 * tan_y, y / z))
        jacobian = np.array([[fx / z, 0, -fx * tx / z**2], [0, fy / z, -fy * ty / z**2]])
        axes = rotations(splats.quats[i : i + 1])[0] @ np.diag(
            np.exp(splats.scales[i].astype(float))
        )
        flat = jacobian @ view.R @ axes
        inverse = np.linalg.inv(flat @ flat.T + 0.3 * np.eye(2))
        direction = splats.means[i] - view.centre
        basis = sh_basis(*(direction / np.linalg.norm(direction)))
        coefficients = np.concatenate([splats.sh0[i], splats.shN[i]]).astype(float)
        colour = np.maximum(basis[: len(coefficients)] @ coefficients + 0.5, 0)
        opacity = 1 / (1 + np.exp(-float(splats.opacities[i])))
        drawn.append((np.float32(z), fx * x / z + cx, fy * y / z + cy, inverse, opacity, colour))
    drawn.sort(key=lambda one: one[0])
    image = np.zeros((view.height, view.width, 3))
    for row in range(view.height):
        for column in range(view.width):
            left = 1.0
            for _, x, y, inverse, opacity, colour in drawn:
                d = np.array([x - column - 0.5, y - row - 0.5])
                alpha = min(0.999, opacity * np.exp(-0.5 * d @ inverse @ d))
                if alpha < 1 / 255:
                    continue
                if left * (1 - alpha) <= 1e-4:
                    break
                image[row, column] += left * alpha * colour
                left *= 1 - alpha
            image[row, column] += left * np.array(background)
    return image


def assert_alike(splats, view):
    error = np.abs(render(splats, view, BACKGROUND) - brute_force(splats, view, BACKGROUND))
    # A contribution at exactly 1/255, or a pixel finished at exactly 1e-4, may fall either way.
    assert (error > CLOSE).mean() < 2e-3, error.max()
    assert error.max() < 0.01


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_agrees_with_the_formulas_at_every_degree(degree):
    assert_alike(make_splats(degree=degree, seed=degree), make_view())


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (8, 8), (9, 7), (37, 16)], ids=lambda side: str(side)
)
def test_agrees_at_any_size(width, height):
    assert_alike(make_splats(seed=9), make_view(width, height))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 2.0},
        {"size": -9.0},
        {"opacities": np.full(60, 9.0), "size": -0.5},
        {"scales": np.tile([1.5, -2.0, -12.0], (60, 1))},
        {"means": np.random.default_rng(1).normal(0, 6, (60, 3))},
    ],
    ids=["huge", "tiny", "opaque", "needles-and-sheets", "around-and-behind-the-camera"],
)
def test_agrees_on_extreme_splats(changes):
    assert_alike(make_splats(**changes), make_view())


def test_many_splats_a_pixel_cross_chunks_and_bins(monkeypatch):
    """Compositing in chunks and binning in portions change nothing."""
    monkeypatch.setattr("splatgate.scene.render._CHUNK", 7)
    monkeypatch.setattr("splatgate.scene.render._PAIRS", 100)
    assert_alike(make_splats(count=150, opacities=np.full(150, -3.0)), make_view(24, 17))


@pytest.mark.parametrize(
    "changes",
    [
        {"opacities": np.full(3, -20.0)},
        {"means": np.tile([0.0, 0.0, -30.0], (3, 1))},
        {"means": np.tile([500.0, 0.0, 0.0], (3, 1)), "scales": np.full((3, 3), -3.0)},
        {"scales": np.full((3, 3), 800.0)},
        {"means": np.full((3, 3), np.nan)},
    ],
    ids=["transparent", "behind", "outside", "overflowing", "not-a-number"],
)
def test_what_cannot_be_seen_leaves_the_background(changes):
    image = render(make_splats(count=3, **changes), make_view(), BACKGROUND)
    np.testing.assert_allclose(image, np.broadcast_to(BACKGROUND, image.shape), atol=1e-6)


def test_no_splats_give_the_background():
    image = render(make_splats(count=0), make_view(5, 3), BACKGROUND)
    np.testing.assert_allclose(image, np.broadcast_to(BACKGROUND, (3, 5, 3)), atol=1e-6)


def test_one_splat_lies_where_colmap_projects_it():
    """A point at pixel coordinates (12.5, 9.5) is the centre of column 12, row 9."""
    view = dataclasses.replace(
        make_view(31, 21), K=np.array([[30.0, 0, 12.5], [0, 30.0, 9.5], [0, 0, 1.0]]),
        R=np.eye(3), t=np.zeros(3),
    )  # fmt: skip
    one = make_splats(count=1, degree=0, means=[[0, 0, 5]], scales=[[-3, -3, -3]], opacities=[5])
    image = render(dataclasses.replace(one, sh0=np.full((1, 1, 3), 2, np.float32)), view)
    brightest = np.unravel_index(image.sum(axis=2).argmax(), image.shape[:2])
    assert brightest == (9, 12)
