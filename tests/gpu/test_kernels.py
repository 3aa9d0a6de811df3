"""The trainer's kernels on this GPU against the PyTorch reference, on random scenes and edges.

The trainer's self-test writes down errors; here stand the bounds. Float32 itself is off where a
Gaussian is a needle: there the bound is twice what autograd through gsplat is off by.
"""

import pytest

from splatgate.expectations import GRADIENT_TOLERANCE, IMAGE_TOLERANCE, UPDATE_TOLERANCE


def beyond(kernels, errors, tolerance):
    """Cases whose errors are out of bounds, a line each."""
    found = []
    for case in kernels["cases"]:
        by_float32 = errors(case["autograd_gsplat"])
        for what, error in errors(case).items():
            # "not <=" also where the error is not a number.
            if not error <= max(tolerance, 2 * by_float32[what]):
                found.append(f"{case['case']} ({case['rasteriser']}): {what} {error:.1e}")
    return found


@pytest.mark.runtime_cuda
def test_images_are_the_references(kernels):
    """Every image is that of the reference, pixel by pixel."""
    off = beyond(kernels, lambda case: {"image": case["image"]}, IMAGE_TOLERANCE)
    assert not off, f"{len(off)} off by more than {IMAGE_TOLERANCE}: {'; '.join(off[:5])}"


@pytest.mark.runtime_cuda
def test_gradients_are_the_references(kernels):
    """Every gradient is that of autograd through the reference.

    A wrong gradient still converges, to less (K20).
    """
    off = beyond(kernels, lambda case: case["gradients"], GRADIENT_TOLERANCE)
    assert not off, f"{len(off)} off by more than {GRADIENT_TOLERANCE}: {'; '.join(off[:5])}"


@pytest.mark.runtime_cuda
def test_nothing_is_infinite_at_the_edges(kernels):
    """Images and gradients are finite: behind the camera, without size, opaque, by the million."""
    bad = [case["case"] for case in kernels["cases"] if not case["finite"]]
    assert not bad, f"not finite: {'; '.join(bad)}"


@pytest.mark.runtime_cuda
def test_passes_over_the_tiles_agree(kernels):
    """What the counting pass makes room for, the writing pass fills, and nothing is left out.

    Contracted differently by the compiler, the two disagree on a tile that is only just touched,
    and a slot that nobody wrote is read as a Gaussian.
    """
    bad = [
        f"{case['case']}: {case['mismatches']} Gaussians, {case['dropped']} steps short of room"
        for case in kernels["cases"]
        if case["mismatches"] or case["dropped"]
    ]
    assert not bad, f"{len(bad)} of {len(kernels['cases'])} cases: {'; '.join(bad[:3])}"


@pytest.mark.runtime_cuda
def test_update_is_the_references_adam(kernels):
    """Twenty steps end where twenty steps of PyTorch's Adam end.

    A doubled rate converges too, and costs quality that only a baseline shows.
    """
    off = [
        f"{name} ({pair}) {error:.1e}"
        for pair, errors in kernels["adam"].items()
        for name, error in errors.items()
        if not error <= UPDATE_TOLERANCE
    ]
    assert not off, f"apart by more than {UPDATE_TOLERANCE} of the way: {'; '.join(off)}"


@pytest.mark.runtime_cuda
def test_memory_is_given_back(kernels):
    """A second life of the same step leaves no more memory behind than the first."""
    held = kernels["memory"]
    assert held["after_second"] <= held["after_first"], f"{held}: something keeps its tensors"


@pytest.mark.production_errors
def test_running_out_of_memory_leaves_a_step_that_goes_on(kernels):
    """When an allocation fails the Gaussians are whole; with fewer of them training goes on."""
    found = kernels["shortage"]
    assert found["raised"], "memory was limited and no allocation failed"
    assert found["count_kept"], f"after the failure: {found}"
    assert found["finite_after"], f"after the failure: {found}"
