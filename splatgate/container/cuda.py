"""CUDA as typed data: GPUs of SageMaker's instances, driver floors, and which code runs where.

A compute capability is written as the number in ``sm_XY``: 75 for 7.5. A driver is its branch: 525.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from splatgate.evidence import BadInput

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


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU. ``sm`` is its compute capability.

    Source: developer.nvidia.com/cuda-gpus.
    """

    name: str
    sm: int


#: The GPU of each family of training instances.
#: Source: EC2 DescribeInstanceTypes (contract 5.4); aws.amazon.com/ec2/instance-types.
FAMILIES = {
    "p3": Gpu("V100", 70),
    "p3dn": Gpu("V100", 70),
    "g4dn": Gpu("T4", 75),
    "p4d": Gpu("A100", 80),
    "p4de": Gpu("A100", 80),
    "g5": Gpu("A10G", 86),
    "g6": Gpu("L4", 89),
    "g6e": Gpu("L40S", 89),
    "p5": Gpu("H100", 90),
    "p5e": Gpu("H200", 90),
    "p5en": Gpu("H200", 90),
    "p6-b200": Gpu("B200", 100),
}
#: Instance types of the reference job definition, for which the image must hold machine code.
INSTANCE_TYPES = ("ml.g4dn.xlarge",)

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


@dataclass(frozen=True)
class Target:
    """An instance type for which the image must hold machine code."""

    name: str
    gpu: Gpu

    @property
    def sm(self) -> int:
        """Its GPU's compute capability."""
        return self.gpu.sm


def target(name: str) -> Target:
    """The instance type of a name such as ``ml.g5.12xlarge``.

    Raises:
        BadInput: no such name, or a family without a GPU that is known here.
    """
    found = re.fullmatch(r"ml\.([\w-]+)\.[\w-]+", name)
    if not found or found.group(1) not in FAMILIES:
        raise BadInput(
            f"instance type {name!r}: give ml.FAMILY.SIZE, FAMILY one of {', '.join(FAMILIES)}"
        )
    return Target(name, FAMILIES[found.group(1)])


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
