"""The GPU and what it asks of driver and trainer, before any quality is spoken of."""

import pytest

from splatgate.container.cuda import MINIMUM_DRIVER
from splatgate.evidence.missing import NotVerified
from splatgate.evidence.text import pattern
from splatgate.expectations import GPU_LEFT, PROMPT
from splatgate.judge.fixtures.gpu import TRAINS


@pytest.mark.sagemaker_gpu_access
def test_driver_is_at_least_the_cuda_versions_floor(gpu, kernels):
    """The driver's branch is one that the trainer's CUDA runs on.

    Below it CUDA ends with "driver version is insufficient", after the instance has been paid for
    (contract 5.2).
    """
    floor = MINIMUM_DRIVER[int(kernels["cuda"].split(".")[0])]
    assert gpu.driver_branch >= floor, (
        f"driver {gpu.driver}, CUDA {kernels['cuda']} needs {floor}; build for an older CUDA"
    )


@pytest.mark.sagemaker_gpu_access
@pytest.mark.needs(TRAINS)
def test_job_trains_on_the_machines_gpu(gpu, trained_on, profile):
    """With the environment of a job and no other, the trainer finds the GPU and trains on it.

    A fall-back to the CPU looks like success, and takes the job's whole time (K13).
    """
    said = trained_on("scene").metrics.get(profile.metrics.device_name)
    assert said == gpu.name, (
        f"trained on {said}, the machine has {gpu.name}; fail at once where CUDA finds no GPU"
    )


@pytest.mark.runtime_offline
@pytest.mark.needs(TRAINS)
def test_first_step_comes_promptly(gpu_job, profile):
    """The first line of progress comes within the time that imports take.

    An extension that is compiled at its first call takes minutes of every job, and the compiler
    that it needs (contract 6.3).
    """
    step = pattern(profile.log.progress[0].regex)
    first = next((line.seconds for line in gpu_job.log if step.search(line.text)), None)
    assert first is not None, "no line of progress in the log"
    assert first <= PROMPT, (
        f"first step after {first:.0f} s, expected {PROMPT:.0f}; compile kernels with the image"
    )


@pytest.mark.runtime_offline
@pytest.mark.needs(TRAINS)
def test_caches_stay_empty(trained_on):
    """A job compiles and downloads nothing: it leaves no file outside /opt/ml and /tmp.

    What a first job puts into a cache each job pays for, since the cache ends with its container
    (K16).
    """
    kept = [p for p in trained_on("scene").job.writes_outside if not p.startswith("/tmp/")]
    assert not kept, f"left behind: {', '.join(kept[:5])}; compile and fetch with the image"


@pytest.mark.runtime_cuda
@pytest.mark.needs(TRAINS)
@pytest.mark.parametrize("data", ["scene", "banana"])
def test_gpu_is_left_as_it_was(data, trained_on, evidence):
    """Two jobs in a row: after each the GPU has as much memory free as before it.

    What a job leaves running holds memory that the next one reckons with.
    """
    used = evidence.gpu_use(trained_on(data).job)
    if used.before is None or used.after is None:
        raise NotVerified("nvidia-smi tells no memory in use")
    more = used.after - used.before
    assert more <= GPU_LEFT, f"{more / 1e6:.0f} MB of GPU memory still held; end every child"
