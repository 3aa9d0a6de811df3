"""The CPU rasteriser draws what the formulas say, and its gradient is the image's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from trainer import raster_torch

INTRINSICS = (60.0, 55.0, 21.0, 15.5)
WIDTH, HEIGHT = 43, 30


def random_splats(
    count: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], Tensor]:
    """Gaussians before, around and behind a camera at the origin."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(dtype)

    means = normal(count, 3) * torch.tensor([1.2, 0.9, 1.5], dtype=dtype)
    means[:, 2] += 3
    values = {
        "means": means,
        "quats": normal(count, 4),
        "scales": normal(count, 3) * 0.6 - 2.2,
        "sh0": normal(count, 1, 3) * 0.6,
        "shN": normal(count, 15, 3) * 0.15,
    }
    return values, (normal(count) * 2).sigmoid()


def viewmat(dtype: torch.dtype = torch.float32) -> Tensor:
    """A camera turned by 0.3 rad about y and moved."""
    c, s = math.cos(0.3), math.sin(0.3)
    return torch.tensor(
        [[c, 0, s, 0.1], [0, 1, 0, -0.2], [-s, 0, c, 0.3], [0, 0, 0, 1]], dtype=dtype
    )


def dense(values: dict[str, Tensor], opacities: Tensor, view: Tensor, degree: int) -> Tensor:
    """Every Gaussian at every pixel, one after another in depth, in float64 and with no tiles."""
    fx, fy, cx, cy = INTRINSICS
    v = {n: t.double() for n, t in values.items()}
    opacities, view = opacities.double(), view.double()
    eye = -view[:3, :3].T @ view[:3, 3]
    color = raster_torch.shade(v["means"] - eye, v["sh0"], v["shN"], degree)
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    light, image = torch.ones(HEIGHT, WIDTH).double(), torch.zeros(HEIGHT, WIDTH, 3).double()
    alive = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    at = v["means"] @ view[:3, :3].T + view[:3, 3]
    for k in at[:, 2].argsort().tolist():
        px, py, pz = at[k]
        if pz <= 0.01:
            continue
        q = v["quats"][k] / v["quats"][k].norm()
        r = torch.linalg.matrix_exp(_log_rotation(q))
        spread = view[:3, :3] @ r @ torch.diag(v["scales"][k].exp())
        sx = torch.clamp(px / pz, -cx / fx - 0.15 * WIDTH / fx, (WIDTH - cx + 0.15 * WIDTH) / fx)
        sy = torch.clamp(py / pz, -cy / fy - 0.15 * HEIGHT / fy, (HEIGHT - cy + 0.15 * HEIGHT) / fy)
        jacobian = torch.stack(
            [
                torch.stack([fx / pz, 0 * pz, -fx * sx / pz]),
                torch.stack([0 * pz, fy / pz, -fy * sy / pz]),
            ]
        )
        cov = jacobian @ spread @ spread.T @ jacobian.T + 0.3 * torch.eye(2)
        inverse = torch.linalg.inv(cov)
        dx, dy = x - (fx * px / pz + cx), y - (fy * py / pz + cy)
        power = 0.5 * (inverse[0, 0] * dx**2 + inverse[1, 1] * dy**2) + inverse[0, 1] * dx * dy
        alpha = (opacities[k] * torch.exp(-power)).clamp_max(0.999)
        alpha = torch.where(alpha > 1 / 255, alpha, 0)
        alive = alive & (light * (1 - alpha) > 1e-4)
        alpha = alpha * alive
        image = image + (light * alpha)[..., None] * color[k]
        light = light * (1 - alpha)
    return image


def _log_rotation(q: Tensor) -> Tensor:
    angle = 2 * torch.atan2(q[1:].norm(), q[0])
    x, y, z = q[1:] / q[1:].norm() * angle
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o]).view(3, 3)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_image_equals_dense_reference(degree: int) -> None:
    values, opacities = random_splats(120, degree)
    got = raster_torch.render(values, opacities, viewmat(), INTRINSICS, WIDTH, HEIGHT, degree)
    want = dense(values, opacities, viewmat(), degree)
    error = (got - want).abs()
    # One pixel may fall on the other side of a cut-off in float32, hence a loose largest error.
    assert error.mean() < 1e-6
    assert error.max() < 5e-3


def test_gradients_equal_those_of_dense_reference() -> None:
    values, opacities = random_splats(40, 7)
    target = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))
    grads = []
    for draw in (
        lambda v, o: raster_torch.render(v, o, viewmat(), INTRINSICS, WIDTH, HEIGHT, 3),
        lambda v, o: dense(v, o, viewmat(), 3),
    ):
        leaves = {n: t.clone().requires_grad_() for n, t in values.items()}
        opacity = opacities.clone().requires_grad_()
        ((draw(leaves, opacity) - target) ** 2).sum().backward()
        grads.append({**{n: t.grad for n, t in leaves.items()}, "opacity": opacity.grad})
    for name, want in grads[1].items():
        scale = want.abs().max()
        assert (grads[0][name] - want).abs().max() < 2e-3 * scale, name


def layer(depth: float, opacity: float, color: float, **values: Tensor) -> dict[str, Tensor]:
    """One round Gaussian of size 0.1 on the optical axis, the same in every channel."""
    return {
        "means": torch.tensor([[0.0, 0.0, depth]]),
        "quats": torch.tensor([[1.0, 0, 0, 0]]),
        "scales": torch.full((1, 3), math.log(0.1)),
        "opacities": torch.tensor([opacity]),
        "sh0": torch.full((1, 1, 3), (color - 0.5) / 0.28209479177387814),
        "shN": torch.zeros(1, 15, 3),
        **values,
    }


def drawn(*layers: dict[str, Tensor], degree: int = 0) -> Tensor:
    """The layers seen by a camera at the origin with a focal length of 40 pixels."""
    values = {name: torch.cat([one[name] for one in layers]) for name in layers[0]}
    return raster_torch.render(
        values, values["opacities"], torch.eye(4), (40.0, 40.0, 8.5, 8.5), 17, 17, degree
    )


def falloff(depth: float, pixels: float) -> float:
    """What is left of the opacity of a ``layer`` at a distance in pixels from its centre."""
    return math.exp(-0.5 * pixels**2 / ((40 * 0.1 / depth) ** 2 + 0.3))


def test_one_gaussian_has_closed_form() -> None:
    image = drawn(layer(2, 0.8, 0.5))
    assert float(image[8, 8, 0]) == pytest.approx(0.4, abs=1e-6)
    assert float(image[8, 11, 1]) == pytest.approx(0.4 * falloff(2, 3), abs=1e-6)
    assert float(image[5, 4, 2]) == pytest.approx(0.4 * falloff(2, 5), abs=1e-6)


@pytest.mark.parametrize("pixels", [0, 2, 3])
def test_two_that_overlap_have_closed_form(pixels: int) -> None:
    """The nearer takes its share of the light, the other of what is left, in whatever order."""
    near, far = layer(2, 0.7, 0.9), layer(3, 0.6, 0.3)
    a, b = 0.7 * falloff(2, pixels), 0.6 * falloff(3, pixels)
    for image in (drawn(near, far), drawn(far, near)):
        assert float(image[8, 8 + pixels, 0]) == pytest.approx(
            a * 0.9 + (1 - a) * b * 0.3, abs=1e-6
        )


def test_colour_off_the_axis_has_closed_form() -> None:
    """Degree 1 sees the direction from the camera: coefficients of y, z, x, with signs - + -."""
    place = torch.tensor([[0.3, -0.2, 2.0]])
    rest = torch.zeros(1, 15, 3)
    rest[0, 0, 0], rest[0, 1, 1], rest[0, 2, 2] = 0.5, 0.25, -0.5
    x, y, z = (place[0] / place[0].norm()).tolist()
    c1 = math.sqrt(3 / (4 * math.pi))
    want = [0.5 - c1 * 0.5 * y, 0.5 + c1 * 0.25 * z, 0.5 + c1 * 0.5 * x]
    # 40 * 0.3 / 2 = 6 and -4 pixels from the middle: a pixel's centre.
    image = drawn(layer(2, 0.8, 0.5, means=place, shN=rest), degree=1)
    assert image[4, 14].tolist() == pytest.approx([0.8 * w for w in want], abs=1e-6)
    assert drawn(layer(2, 0.8, 0.5, means=place, shN=rest))[4, 14].tolist() == pytest.approx(
        [0.4] * 3, abs=1e-6
    )


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "sh0", "shN"])
def test_gradients_are_those_of_differences(name: str) -> None:
    """In float64, against central differences, away from the cut-offs."""
    values, opacities = random_splats(6, 3, torch.float64)
    values["means"][:, 2] = values["means"][:, 2].abs() + 1.5
    values["opacities"] = opacities.clamp(0.2, 0.9)
    weight = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(2)).double()

    def total(changed: Tensor) -> Tensor:
        v = {**values, name: changed}
        view = viewmat(torch.float64)
        image = raster_torch.render(v, v["opacities"], view, INTRINSICS, WIDTH, HEIGHT, 3)
        return (image * weight).sum()

    leaf = values[name].clone().requires_grad_()
    total(leaf).backward()
    assert leaf.grad is not None
    for place in range(0, leaf.numel(), max(1, leaf.numel() // 12)):
        step = torch.zeros(leaf.numel(), dtype=torch.float64)
        step[place] = 1e-5
        move = step.view_as(leaf)
        want = float(total(values[name] + move) - total(values[name] - move)) / 2e-5
        # Where alpha falls below 1 / 255 the image has a step that no gradient knows of.
        assert float(leaf.grad.flatten()[place]) == pytest.approx(want, rel=0.02, abs=0.02)


def test_equal_depths_are_drawn_in_their_order() -> None:
    count = 200  # enough for an unstable sort to show
    values = {
        "means": torch.tensor([[0.0, 0.0, 2.0]]).repeat(count, 1),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        "scales": torch.zeros(count, 3),
        "sh0": torch.linspace(0, 1.5, count)[:, None, None].repeat(1, 1, 3),
        "shN": torch.zeros(count, 0, 3),
    }
    image = raster_torch.render(
        values, torch.full((count,), 0.5), torch.eye(4), (40.0, 40.0, 8.5, 8.5), 17, 17, 0
    )
    want = dense_pixel(values["sh0"][:, 0, 0] * 0.28209479177387814 + 0.5, 0.5)
    assert float(image[8, 8, 0]) == pytest.approx(want, abs=1e-5)


def dense_pixel(colors: Tensor, alpha: float) -> float:
    """One channel of one pixel under layers of the same ``alpha``, first layer nearest."""
    light, total = 1.0, 0.0
    for color in colors.tolist():
        if light * (1 - alpha) <= 1e-4:
            break
        total += light * alpha * color
        light *= 1 - alpha
    return total


def test_nothing_in_sight_is_black() -> None:
    values, opacities = random_splats(5, 0)
    values["means"][:, 2] = -4
    image = raster_torch.render(values, opacities, torch.eye(4), INTRINSICS, WIDTH, HEIGHT, 3)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert not image.any()
