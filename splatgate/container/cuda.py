"""CUDA as typed data: driver floors, and which code runs on which GPU.

A compute capability is written as the number in ``sm_XY``: 75 for 7.5. A driver is its branch: 525.
"""

from __future__ import annotations

import re

from splatgate.evidence import BadInput
from splatgate.evidence.missing import NotVerified
from splatgate.instances import DECLARED, INSTANCES, Instance

#: CUDA runtime's major version → lowest host driver branch (minor-version compatibility).
#: Source: docs.nvidia.com/deploy/cuda-compatibility, "Minor Version Compatibility".
MINIMUM_DRIVER = {11: 450, 12: 525, 13: 580}
#: Driver branch → newest CUDA that it brings, as (major, minor).
#: Source: CUDA Toolkit release notes, table "CUDA Toolkit and Corresponding Driver Versions".
DRIVER_CUDA = {
    450: (11, 0),
    470: (11, 4),
    510: (11, 6),
    525: (12, 0),
    535: (12, 2),
    550: (12, 4),
    560: (12, 6),
    570: (12, 8),
    580: (13, 0),
}


#: Variables that act on a compiler, and mean nothing, or something else, where the image runs.
#: Sources: torch/utils/cpp_extension.py; gsplat's setup.py; nvcc's and debconf's documentation.
BUILD_ONLY = (
    "MAX_JOBS",
    "TORCH_CUDA_ARCH_LIST",
    "CUDAARCHS",
    "CMAKE_CUDA_ARCHITECTURES",
    "FORCE_CUDA",
    "NVCC_FLAGS",
    "NVCC_APPEND_FLAGS",
    "DEBIAN_FRONTEND",
)
REQUIRE = "NVIDIA_REQUIRE_CUDA"
DISABLE_REQUIRE = "NVIDIA_DISABLE_REQUIRE"


def target(name: str) -> Instance:
    """The instance type of a name such as ``ml.g5.12xlarge``, for which an image holds code.

    Raises:
        BadInput: no name of an instance type, or a type without a GPU.
        NotVerified: one that the table does not describe.
    """
    if not re.fullmatch(r"ml\.[\w-]+\.[\w-]+", name):
        raise BadInput(f"instance type {name!r}: give ml.FAMILY.SIZE, such as {DECLARED[0]}")
    if name not in INSTANCES:
        raise NotVerified(f"instance type {name} is not described in splatgate/instances.py")
    if INSTANCES[name].sm is None:
        raise BadInput(f"instance type {name}: it has no GPU; give one such as {DECLARED[0]}")
    return INSTANCES[name]


def runs_on(cubins: tuple[int, ...], sm: int) -> bool:
    """Whether a cubin for one of ``cubins`` runs on compute capability ``sm``.

    Binary compatibility holds within a major version, from lower to higher minor.
    Source: CUDA C++ Programming Guide, "Binary Compatibility".
    """
    return any(c // 10 == sm // 10 and c <= sm for c in cubins)


def branch(driver: str) -> int | None:
    """The branch of a driver's version, or None for what is none."""
    found = re.match(r"\s*(\d{3})\b", driver)
    return int(found.group(1)) if found else None


def satisfied(constraint: str, driver: int) -> bool:
    """Whether the NVIDIA container runtime starts a container of this ``NVIDIA_REQUIRE_CUDA`` on a
    driver of this branch: words are alternatives, commas join what must hold together.

    A brand is any, since the data-center GPUs of the instances are listed first by every base.
    Source: NVIDIA Container Toolkit, "Constraints".
    """
    brings = max((cuda for floor, cuda in DRIVER_CUDA.items() if floor <= driver), default=(0, 0))
    return any(
        all(_holds(term, driver, brings) for term in alternative.split(","))
        for alternative in constraint.split() or [""]
    )


def _holds(term: str, driver: int, cuda: tuple[int, int]) -> bool:
    found = re.fullmatch(r"(cuda|driver)\s*(>=|<=|=|<|>|!=)\s*(\d+)(?:\.(\d+))?[\d.]*", term)
    if not found:
        return True
    name, operator, major, minor = found.groups()
    have = cuda if name == "cuda" else (driver, 0)
    want = (int(major), int(minor or 0) if name == "cuda" else 0)
    return {
        ">=": have >= want,
        "<=": have <= want,
        "=": have == want,
        "<": have < want,
        ">": have > want,
        "!=": have != want,
    }[operator]


def major_of(needed: tuple[str, ...]) -> int | None:
    """The CUDA major that a shared object was linked for, by its runtime's name; None without
    one.
    """
    found = [re.match(r"libcudart\.so\.(\d+)", name) for name in needed]
    return next((int(match.group(1)) for match in found if match), None)
