"""The GPU lane: the trainer's kernels run on this GPU, and what they train is sound."""

import json

import pytest

from splatgate.provide import model_file
from splatgate.scene.splats import check_layout, check_logits, read_splats


@pytest.mark.runtime_cuda
def test_trains_on_the_gpu(gpu_job, door, profile):
    """A few hundred steps of gsplat's kernels run on this GPU, the loss falls, and the splats are
    sound.

    A missing architecture, a driver too old and a backend that was never compiled show at the first
    launch, and nowhere before (contract 5.2, 6.3).
    """
    assert gpu_job.status == "Completed", f"ended {gpu_job.status}: {gpu_job.failure_reason}"
    path = model_file(door, gpu_job)
    assert path is not None, f"no {profile.outputs.model} in the model"
    problems = check_layout(path) or check_logits(read_splats(path))
    assert not problems, "; ".join(problems)
    metrics = json.loads((path.parent / profile.outputs.metrics).read_text())
    assert metrics["device"] == "cuda", f"trained on {metrics['device']}, not on the GPU"
    assert metrics["loss_last"] < metrics["loss_first"], (
        f"loss went from {metrics['loss_first']} to {metrics['loss_last']}; do gradients flow?"
    )
