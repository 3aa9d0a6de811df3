"""Runtime: packages, GPU code, environment and permissions, as the container sees them under
SageMaker.
"""

from functools import cache

import pytest
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from splatgate.facts import MINIMUM_DRIVER, WRITABLE, runs_on
from splatgate.outcomes import NotVerified


@pytest.mark.runtime_dependencies
@pytest.mark.needs("test_entrypoint_is_exec_form_and_absolute")
def test_imports_resolve(facts):
    """Every module that the trainer's sources import is there and imports.

    A package pruned by hand, or one more file than the Dockerfile copies, shows as an ImportError
    on each of five deploys in turn (K02, K03, K09): here all at once.
    """
    failed = [f"{i.module} ({i.error})" for i in facts.imports if i.error]
    assert facts.sources, "no Python source beside the entry point was seen; nothing was imported"
    assert facts.imports, "no import of the trainer's sources was tried"
    assert not failed, f"cannot import {'; '.join(failed)}; install it from the locked requirements"


@pytest.mark.runtime_dependencies
def test_installed_packages_agree(facts):
    """Every installed distribution finds the versions that it requires.

    A second requirements file or an unbounded extra leaves a pair that was never tested together
    (K10, K11).
    """
    assert facts.distributions, "no installed distribution was seen in the image's interpreter"
    versions = {canonicalize_name(d.name): d.version for d in facts.distributions}
    unmet = []
    for dist in facts.distributions:
        for text in dist.requires:
            try:
                need = needed(text, facts.version, facts.machine)
            except InvalidRequirement:
                unmet.append(f"{dist.name}: {text} is no requirement")
                continue
            if need is None:
                continue
            have = versions.get(canonicalize_name(need.name))
            if have is None or not need.specifier.contains(have, prereleases=True):
                unmet.append(f"{dist.name} {dist.version} requires {need}, installed: {have}")
    assert not unmet, f"{'; '.join(unmet)}; lock one set of versions together"


@cache
def needed(text: str, version: str, machine: str) -> Requirement | None:
    """What a requirement asks of this interpreter; None where its marker leaves it out."""
    environment = {
        "python_version": ".".join(version.split(".")[:2]),
        "python_full_version": version,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "extra": "",
    }
    need = Requirement(text)
    return None if need.marker and not need.marker.evaluate(environment) else need


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_imports_resolve")
def test_torch_is_built_for_cuda(facts):
    """The installed torch is a CUDA build.

    A CPU wheel imports, trains nothing on the GPU, and says only `cuda.is_available() == False`
    (guide, cause 2).
    """
    assert facts.torch_version, "torch is not installed in the entry point's interpreter"
    assert facts.torch_cuda, f"torch {facts.torch_version} is a CPU build; install the CUDA wheel"


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_imports_resolve")
def test_gsplat_backend_loads_without_a_compiler(facts):
    """gsplat's compiled backend is loaded, with no CUDA toolkit in reach.

    `import gsplat` succeeds without it: PyPI's wheel is Python alone, and compiles at the first
    call where nvcc is, or fails where it is not (contract 6.3, K14, trap 13).
    """
    assert facts.gsplat_extension, (
        f"gsplat has no compiled backend ({facts.gsplat_error}); "
        "build it with --no-binary gsplat --no-build-isolation in a stage with nvcc"
    )


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_gsplat_backend_loads_without_a_compiler", "test_torch_is_built_for_cuda")
def test_gpu_code_is_for_every_declared_instance(facts, instances):
    """Each library with GPU code holds machine code for the GPU of every declared instance type.

    A missing architecture shows only at the first launch ("no kernel image is available"), after
    the instance has been paid for; PTX compiled for a newer toolkit than the driver's does not help
    (contract 5.2, trap 14).
    """
    seen = {lib.path for lib in facts.libraries}
    assert facts.gsplat_extension in seen, (
        f"no GPU code in {facts.gsplat_extension}, only in {sorted(seen)}; compile it with nvcc"
    )
    missing = [
        f"{lib.path} has {list(lib.cubins)}, {instance.name} needs {instance.compute_capability}"
        for lib in facts.libraries
        for instance in instances
        if not runs_on(lib.cubins, instance.sm)
    ]
    assert not missing, f"{'; '.join(missing)}; set TORCH_CUDA_ARCH_LIST when compiling"


@pytest.mark.runtime_cuda
@pytest.mark.needs("test_torch_is_built_for_cuda")
def test_declared_driver_floor_is_enough_for_cuda(facts, image):
    """The driver floor that the image declares is at least what its CUDA runtime needs.

    torch 2.11's default wheel moved from driver 525 to 580, SageMaker does not publish its hosts':
    an image that does not say what it needs cannot be compared with one (contract 5.2, 6.1, trap
    15).
    """
    from splatgate.container.image import LABEL_FLOOR

    need = MINIMUM_DRIVER[int(facts.torch_cuda.split(".")[0])]
    floor = image.labels.get(LABEL_FLOOR)
    assert floor, f"no label {LABEL_FLOOR}; CUDA {facts.torch_cuda} needs driver {need} or newer"
    assert int(floor.split(".")[0]) >= need, (
        f"driver floor {floor}, but CUDA {facts.torch_cuda} needs {need}; mend the label or torch"
    )


@pytest.mark.runtime_permissions
@pytest.mark.needs("test_image_is_for_linux_amd64")
def test_mounts_are_writable_by_the_containers_user(facts):
    """The container's user may write to SageMaker's root-owned mounts and to /tmp.

    A build's chmod below /opt/ml is hidden by the mounts; with another USER the first checkpoint
    fails after 5,000 iterations (K08; contract 1.1, "User").
    """
    refused = [path for path in WRITABLE if not facts.writable.get(path)]
    assert not refused, (
        f"uid {facts.uid} may not write to {', '.join(refused)}; remove USER, run as root"
    )


@pytest.mark.build_supply_chain
@pytest.mark.should
def test_no_compiler_is_left_in_the_image(facts):
    """The final stage holds no compiler.

    It is gigabytes that every job pulls, and it hides a backend that was never compiled (K14).
    """
    assert not facts.compilers, (
        f"on PATH: {', '.join(facts.compilers)}; copy results to a last stage"
    )


@pytest.mark.runtime_offline
@pytest.mark.needs(
    "test_starts_with_the_word_train", "test_mounts_are_writable_by_the_containers_user"
)
def test_trains_with_no_network(smoke):
    """A short training job runs to Completed with EnableNetworkIsolation.

    Nothing can be fetched, installed or compiled at run time under isolation (contract 3.2, K17,
    trap 12).
    """
    if not smoke.request.get("EnableNetworkIsolation"):
        raise NotVerified("the request given has EnableNetworkIsolation off; set it to true")
    assert smoke.status == "Completed", (
        f"job {smoke.key} ended {smoke.status}: {smoke.failure_reason}\n" + tail(smoke)
    )


def tail(job) -> str:
    """The last lines of a job's log."""
    return "\n".join(line.text for line in job.log[-5:])
