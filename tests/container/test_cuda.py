"""Runtime: GPU code, its libraries and its environment fit each other, the target and the host."""

import re

import pytest

from splatgate.container.cuda import (
    BUILD_ONLY,
    DISABLE_REQUIRE,
    MINIMUM_DRIVER,
    REQUIRE,
    branch,
    major_of,
    runs_on,
    satisfied,
)
from splatgate.container.image import LABEL_FLOOR
from splatgate.evidence.missing import NotVerified


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_imports_resolve")
def test_torch_is_built_for_cuda(installed):
    """The installed torch is a CUDA build.

    A CPU wheel imports, trains nothing on the GPU, and says only `cuda.is_available() == False`
    (guide, cause 2).
    """
    assert installed.torch_version, "torch is not installed in the entry point's interpreter"
    assert installed.torch_cuda, (
        f"torch {installed.torch_version} is a CPU build; install the CUDA wheel"
    )


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_imports_resolve", "test_torch_is_built_for_cuda")
def test_gsplat_backend_loads_without_a_compiler(installed, said):
    """gsplat's compiled backend is loaded, with no CUDA toolkit in reach.

    `import gsplat` succeeds without it: PyPI's wheel is Python alone, and compiles at the first
    call where nvcc is, or fails where it is not (contract 6.3, K14, trap 13).
    """
    error = (said and said.gsplat_error) or "no file of it in the image"
    seen = installed.gsplat_extension and (said is None or said.gsplat_extension)
    assert seen, (
        f"gsplat has no compiled backend ({error}); "
        "build it with --no-binary gsplat --no-build-isolation in a stage with nvcc"
    )
    if said is None:
        raise NotVerified("its file is there; whether it loads needs a running container")


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_gsplat_backend_loads_without_a_compiler", "test_torch_is_built_for_cuda")
def test_gpu_code_is_for_every_declared_instance(installed, instances):
    """Each library with GPU code holds machine code for the GPU of every instance type that the
    image is meant for (--instance-type).

    A missing architecture shows only at the first launch ("no kernel image is available"), after
    the instance has been paid for; PTX compiled for a newer toolkit than the driver's does not help
    (contract 5.2, trap 14).
    """
    seen = {lib.path for lib in installed.libraries}
    assert installed.gsplat_extension in seen, (
        f"no GPU code in {installed.gsplat_extension}, only in {sorted(seen)}; compile it with nvcc"
    )
    missing = [
        f"{lib.path} has {list(lib.cubins)}, {instance.name} needs {instance.sm}"
        for lib in installed.libraries
        for instance in instances
        if not runs_on(lib.cubins, instance.sm)
    ]
    assert not missing, f"{'; '.join(missing)}; set TORCH_CUDA_ARCH_LIST when compiling"


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_torch_is_built_for_cuda")
def test_declared_driver_floor_is_enough_for_cuda(installed, image):
    """The driver floor that the image declares is at least what its CUDA runtime needs.

    torch 2.11's default wheel moved from driver 525 to 580, SageMaker does not publish its hosts':
    an image that does not say what it needs cannot be compared with one (contract 5.2, 6.1, trap
    15).
    """
    need = MINIMUM_DRIVER.get(int(installed.torch_cuda.split(".")[0]))
    floor = image.labels.get(LABEL_FLOOR)
    if need is None:
        raise NotVerified(f"no driver floor is known here for CUDA {installed.torch_cuda}")
    assert floor, (
        f"no label {LABEL_FLOOR}; CUDA {installed.torch_cuda} needs driver {need} or newer"
    )
    assert branch(floor) is not None, f"label {LABEL_FLOOR}={floor!r} is no driver, such as 525"
    assert branch(floor) >= need, (
        f"driver floor {floor}, but CUDA {installed.torch_cuda} needs {need}; mend label or torch"
    )


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_torch_is_built_for_cuda")
def test_one_major_version_of_cuda(installed, files):
    """torch, every extension and every CUDA runtime in the image are of one major version.

    An extension linked for CUDA 11 beside a torch for CUDA 12 loads two runtimes, or none; a base
    of one version under wheels of another is the guide's own fix, followed to the letter.
    """
    want = int(installed.torch_cuda.split(".")[0])
    if any(lib.needed is None for lib in installed.libraries):
        raise NotVerified("recorded before the probe looked at links; record it anew")
    linked = {lib.path: major_of(lib.needed) for lib in installed.libraries}
    shipped = {
        x.path: int(re.search(r"libcudart\.so\.(\d+)", x.path).group(1))
        for x in files.leftovers
        if x.kind == "cudart"
    }
    wrong = [f"{p} (CUDA {m})" for p, m in (linked | shipped).items() if m not in (None, want)]
    assert not wrong, f"torch is for CUDA {installed.torch_cuda}, but {', '.join(wrong)}; use one"


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_gsplat_backend_loads_without_a_compiler")
def test_every_library_finds_what_it_is_linked_against(installed):
    """The loader finds each library that an extension names, the host's driver left out.

    A runtime stage without `libgomp` or with another CUDA loads the extension only where it is
    first used (K11; contract 6.3, "present but broken").
    """
    if installed.unresolved is None:
        raise NotVerified("recorded before the probe looked at links; record it anew")
    found = installed.unresolved
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    assert not found, f"{'; '.join(found[:5])}{more}; install it in the last stage"


@pytest.mark.runtime_cuda
def test_no_driver_is_shipped(files, environment):
    """The image holds no library of the driver, and none of cuda-compat on the loader's path.

    The host mounts its own: beside another they end in "driver/library version mismatch"; a compat
    library older than the host's driver in error 803 (contract section 4, 5.2, trap 17).
    """
    found = [x.path for x in files.leftovers if x.kind == "driver"]
    assert not found, f"the driver's own: {', '.join(found)}; install no driver packages"
    path = environment.get("LD_LIBRARY_PATH", "")
    assert "/compat" not in path, f"LD_LIBRARY_PATH={path}; use cuda-compat where it is needed"


@pytest.mark.runtime_cuda
@pytest.mark.should
def test_at_most_one_toolkit(files):
    """At most one CUDA toolkit is in the image; a trainer that was compiled ahead needs none.

    Two of them are gigabytes, and whichever is first on PATH compiles (K15).
    """
    found = [x.path for x in files.leftovers if x.kind == "toolkit"]
    assert len(found) <= 1, f"several toolkits: {', '.join(found)}; keep one, in a build stage"


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_declared_driver_floor_is_enough_for_cuda")
def test_runtime_starts_the_image_on_its_driver_floor(environment, image):
    """Where the image sets NVIDIA_REQUIRE_CUDA, a host with the declared driver meets it.

    Unmet, the container is never created, and no line of ours is logged; it comes with CUDA bases
    (contract 5.3, trap 16).
    """
    constraint = environment.get(REQUIRE, "")
    disabled = environment.get(DISABLE_REQUIRE, "").lower() in ("1", "true")
    floor = branch(image.labels.get(LABEL_FLOOR, "")) or 0
    assert disabled or satisfied(constraint, floor), (
        f"{REQUIRE}={constraint!r} is unmet by driver {floor}; set {DISABLE_REQUIRE}=1, or lower it"
    )


@pytest.mark.runtime_cuda
def test_no_variable_of_the_build_is_left(environment):
    """No variable that acts on a compiler stays in the image's environment.

    A base presets TORCH_CUDA_ARCH_LIST with 3.7 and 5.0, for which nothing compiles any more (K15);
    what one stage sets leaks into the next, and into every job (K18).
    """
    found = {n: environment[n] for n in BUILD_ONLY if n in environment}
    assert not found, f"left from the build: {found}; set it in the RUN that needs it"
