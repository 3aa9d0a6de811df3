"""Whole trainings on this GPU: sound, true to their report, and as good as they were before."""

import re

import pytest

from splatgate.evidence.missing import NotVerified
from splatgate.expectations import GRACE, PSNR_MARGIN, PSNR_TOLERANCE, RAN_OUT, RECKONED
from splatgate.judge.fixtures.gpu import TRAINS, floor
from splatgate.scene.splats import check_layout, check_logits

SCENES = pytest.mark.parametrize("scene", ["scene", "banana"])


@pytest.mark.runtime_cuda
def test_trains_on_the_gpu(gpu_job):
    """A whole training completes, with PTX compilation switched off.

    A missing architecture, a driver too old and a backend that was never compiled show at the first
    launch, and nowhere before (contract 5.2, 6.3).
    """
    assert gpu_job.status == "Completed", f"ended {gpu_job.status}: {gpu_job.failure_reason}"


@pytest.mark.production_ply
@pytest.mark.needs(TRAINS)
@SCENES
def test_ply_is_sound(scene, trained_on):
    """The .ply has the INRIA layout, finite, with logits and log scales (K23, K24)."""
    found = trained_on(scene)
    problems = check_layout(found.ply) or check_logits(found.splats)
    assert not problems, "; ".join(problems)


@pytest.mark.production_truth
@pytest.mark.needs("test_ply_is_sound")
@SCENES
def test_reported_quality_is_the_artefacts(scene, trained_on, profile):
    """The PSNR reported is the one that the suite's own renderer finds in the .ply."""
    found = trained_on(scene)
    said = found.metrics[profile.metrics.psnr]
    assert abs(found.measured.psnr - said) <= PSNR_TOLERANCE, (
        f"reported {said:.2f} dB, the .ply has {found.measured.psnr:.2f} dB; evaluate the export"
    )


@pytest.mark.production_truth
@pytest.mark.needs(
    "test_ply_is_sound",
    "test_job_trains_on_the_machines_gpu",
    "test_gradients_are_the_references",
    "test_update_is_the_references_adam",
)
@SCENES
def test_quality_is_not_below_the_baseline(scene, trained_on):
    """Held-out quality is above the floor of the recorded baseline, and of the trivial answers.

    Wrong rates, lost gradients and dead kernels converge too, to less (K19, K20).
    """
    found = trained_on(scene)
    known = floor(found.scene)
    assert found.measured.psnr >= known.psnr, (
        f"{found.measured.psnr:.2f} dB; {known.runs} runs before had {known.mean:.2f} with a "
        f"deviation of {known.deviation:.2f}, floor {known.psnr:.2f}"
    )
    assert found.measured.margin >= PSNR_MARGIN, (
        f"{found.measured.psnr:.2f} dB against {found.measured.baselines}"
    )


@pytest.mark.production_truth
@pytest.mark.needs("test_ply_is_sound")
def test_quality_collapses_when_photos_are_shuffled(trained_on):
    """With each photograph under another's name nothing can be learnt.

    A quality that survives it is not measured on the scene.
    """
    found = trained_on("shuffled")
    assert found.measured.margin < PSNR_MARGIN, (
        f"{found.measured.psnr:.2f} dB from shuffled photographs, {found.measured.baselines}"
    )


@pytest.mark.production_duration
@pytest.mark.needs(TRAINS)
def test_projected_time_fits_the_request(gpu, trained_on, instances, profile):
    """On the declared instance's GPU the trainer's own projection is below 0.8 of the limit.

    At MaxRuntimeInSeconds the job is stopped, and its last minutes are lost (contract 1.4).
    """
    found = trained_on("scene")
    seconds = found.metrics.get(profile.metrics.projected)
    if seconds is None:
        raise NotVerified("the trainer projects no time")
    if not any(f" {i.gpu} " in f" {gpu.name} " for i in instances):
        declared = ", ".join(f"{i.name} ({i.gpu})" for i in instances)
        raise NotVerified(f"{seconds:.0f} s projected on {gpu.name}; declared is {declared}")
    limit = found.job.request["StoppingCondition"]["MaxRuntimeInSeconds"]
    assert seconds <= 0.8 * limit, (
        f"{seconds:.0f} s projected on {gpu.name}, MaxRuntimeInSeconds is {limit}; raise it"
    )


@pytest.mark.sagemaker_stop
@pytest.mark.needs(TRAINS)
def test_stop_in_the_middle_leaves_a_model(gpu_stopped, profile):
    """SIGTERM between two launches of kernels leaves a model within the grace (contract 1.4)."""
    assert gpu_stopped.exit == 0, f"ended {gpu_stopped.status}: {gpu_stopped.failure_reason}"
    names = [member.path for member in gpu_stopped.members]
    assert profile.outputs.model in names, f"no {profile.outputs.model} after SIGTERM: {names}"
    took = gpu_stopped.stop_seconds
    if took is None:
        raise NotVerified("the job ended before it could be stopped")
    assert took <= GRACE, f"took {took} s, has {GRACE}"


@pytest.mark.runtime_cuda
@pytest.mark.needs(TRAINS)
def test_trains_in_the_declared_gpus_memory(gpu_capped):
    """The whole training completes with as much GPU memory as the smallest declared GPU has.

    A larger card of the test machine hides what the declared one cannot hold.
    """
    assert gpu_capped.status == "Completed", (
        f"ended {gpu_capped.status}: {gpu_capped.failure_reason}; lower the cap on Gaussians"
    )
    assert not (said := ran_out(gpu_capped)), f"it had to give way: {said[0]}"


@pytest.mark.production_errors
@pytest.mark.needs(TRAINS, "test_quality_is_not_below_the_baseline")
@SCENES
def test_gpu_memory_is_as_reckoned(scene, peak):
    """The memory taken is below the one reckoned before training, and not far below.

    By it the trainer refuses a scene before it is rented for: too low, and jobs die after hours;
    too high, and scenes are refused that would fit.
    """
    taken, reckoned = peak(scene)
    told = f"{taken / 1e9:.2f} GB taken, {reckoned / 1e9:.2f} GB reckoned"
    assert taken <= reckoned, f"{told}; count what is missing"
    assert reckoned <= RECKONED * taken, f"{told}; reckon closer"


@pytest.mark.production_errors
@pytest.mark.needs(TRAINS, "test_quality_is_not_below_the_baseline")
def test_shortage_of_gpu_memory_is_told(gpu_short, profile):
    """Where GPU memory runs out, the log says so, and training goes on with less or ends by name.

    A model of fewer Gaussians that nobody was told of passes for what was ordered.
    """
    if gpu_short.status != "Completed" and not profile.memory.gives_way:
        assert re.search(RAN_OUT, gpu_short.failure or ""), f"ended {gpu_short.failure_reason!r}"
        return
    assert gpu_short.status == "Completed", (
        f"ended {gpu_short.status}: {gpu_short.failure_reason}; by its profile it gives way"
    )
    names = [member.path for member in gpu_short.members]
    assert profile.outputs.model in names, f"no {profile.outputs.model}: {names}"
    assert ran_out(gpu_short), "memory was short, and no line of the log says so"


@pytest.mark.production_errors
@pytest.mark.needs(TRAINS, "test_quality_is_not_below_the_baseline")
def test_too_little_gpu_memory_ends_the_job_by_name(gpu_starved, profile):
    """Where the GPU cannot hold even a reduced model, the job fails and names memory as the cause.

    "Illegal address" or a bare exit status sends whoever is on call after the driver.
    """
    if gpu_starved.status == "Completed":
        raise NotVerified("a tenth of the memory was enough; it cannot be starved this way")
    known = profile.errors.get("out_of_memory")
    failure = gpu_starved.failure or ""
    named = failure.startswith(known) if known else re.search(RAN_OUT, failure)
    assert named, f"ended {gpu_starved.failure_reason!r}, expected {known or RAN_OUT}"


def ran_out(job):
    """What the log says about memory that ran out."""
    return [line.text for line in job.log if re.search(RAN_OUT, line.text)]
