"""CUDA's rules, against the examples of the contract and of NVIDIA's documentation."""

import pytest

from splatgate.container import cuda


@pytest.mark.parametrize(
    ("cubins", "sm", "runs"),
    [
        ((75,), 75, True),
        ((80, 86), 89, True),
        ((86,), 80, False),
        ((70,), 75, True),
        ((75,), 86, False),
        ((), 75, False),
    ],
)
def test_code_runs_within_its_major_version_and_upwards(cubins, sm, runs):
    assert cuda.runs_on(cubins, sm) is runs


@pytest.mark.parametrize(
    ("constraint", "driver", "met"),
    [
        ("cuda>=12.0", 525, True),
        ("cuda>=12.5 brand=unknown,driver>=470,driver<471", 525, False),
        ("cuda>=12.5 brand=tesla,driver>=525,driver<526", 525, True),
        ("cuda>=13.0", 580, True),
        ("", 450, True),
        ("cuda>=11.8", 470, False),
        ("cuda>=12.4", 0, False),
        ("driver!=525", 525, False),
    ],
)
def test_a_constraint_of_the_container_runtime(constraint, driver, met):
    assert cuda.satisfied(constraint, driver) is met


def test_every_floor_brings_its_own_cuda():
    for major, floor in cuda.MINIMUM_DRIVER.items():
        assert cuda.satisfied(f"cuda>={major}.0", floor)


@pytest.mark.parametrize(
    ("text", "branch"), [("525", 525), ("570.86.15", 570), ("", None), ("any", None)]
)
def test_the_branch_of_a_driver(text, branch):
    assert cuda.branch(text) == branch


def test_the_major_version_that_a_library_was_linked_for():
    assert cuda.major_of(("libc.so.6", "libcudart.so.12")) == 12
    assert cuda.major_of(("libc.so.6",)) is None
