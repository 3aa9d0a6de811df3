"""SageMaker integration: a stopped job leaves a usable model, and one that restarts goes on."""

import json

import pytest

from splatgate.evidence.missing import Blocked, NotVerified
from splatgate.expectations import GRACE, KILLED, POLL, STOPS
from splatgate.judge.fixtures.jobs import TRAINS, model_file, spec
from splatgate.sagemaker.result import values
from splatgate.scene.splats import check_layout


@pytest.mark.sagemaker_stop
@pytest.mark.needs(TRAINS)
def test_stop_leaves_a_usable_model(stopped, evidence, profile):
    """SIGTERM in mid-training: the container ends by itself within 120 s and leaves a whole model.

    MaxRuntimeInSeconds and StopTrainingJob send SIGTERM, then SIGKILL; as PID 1 a process without a
    handler ignores SIGTERM, and a library may put a handler of its own in its place (contract 1.1,
    1.4, trap 4).
    """
    assert stopped.status == "Stopped", f"ended {stopped.status} before it could be stopped"
    took = stopped.stop_seconds
    late = stopped.exit == KILLED or took > GRACE + POLL
    assert not late, f"ended {took} s after SIGTERM; stop at the next step and exit"
    model = model_file(evidence, stopped)
    assert model, "stopped without a model; export on SIGTERM"
    problems = check_layout(model)
    assert not problems, f"half a model after SIGTERM: {'; '.join(problems)}; rename when whole"


@pytest.mark.sagemaker_stop
@pytest.mark.needs("test_stop_leaves_a_usable_model")
def test_restart_resumes_from_the_checkpoints(stopped, resumed, profile):
    """With the stopped job's checkpoints the same request goes on where it ended, and completes.

    After a spot interruption the container starts from zero with /opt/ml/checkpoints restored
    (contract 1.5): a trainer that begins again pays twice.
    """
    if not profile.outputs.checkpoints:
        raise NotVerified("the subject profile says that this trainer keeps no checkpoints")
    assert stopped.checkpoint_members, "stopped without a checkpoint; save one on SIGTERM"
    assert resumed.status == "Completed", f"ended {resumed.status}: {resumed.failure_reason}"
    assert profile.outputs.model in {m.path for m in resumed.members}, (
        "completed without a model; export also when nothing is left to train"
    )
    step = profile.log.metric("step")
    if step is None:
        raise NotVerified("the subject profile names no metric that ends in `step`")
    before, after = values(stopped, step.regex), values(resumed, step.regex)
    assert after[0] > before[0], (
        f"stopped at {before[-1]:.0f}, restarted at {after[0]:.0f}; load the checkpoint"
    )


@pytest.mark.sagemaker_stop
@pytest.mark.needs("test_stop_leaves_a_usable_model")
def test_stopped_model_does_not_call_itself_completed(stopped, evidence, profile):
    """The metrics of a stopped job do not say that training was completed.

    Metadata with "completed" written into it told the next stage nothing (K26); a job that was
    stopped is no success (trap 28).
    """
    path = evidence.artefact(stopped, profile.outputs.metrics or "")
    if path is None:
        raise NotVerified("the stopped job reports no metrics")
    keys = profile.metrics
    said = json.loads(path.read_text()).get(keys.status)
    if said is None:
        raise NotVerified(f"the metrics have no {keys.status}")
    assert said != keys.completed, f"stopped, and {keys.status} is {said!r}; say how it ended"


@pytest.mark.sagemaker_stop
@pytest.mark.needs("test_stop_leaves_a_usable_model")
@pytest.mark.parametrize("at", STOPS)
def test_stop_at_any_moment_leaves_nothing_half_done(
    stopped, brief, run_job, profile, evidence, at
):
    """SIGTERM at the start, while loading, at a checkpoint, at the export: ended in time, no half.

    SageMaker uploads what is in /opt/ml/model, whole or not (contract 1.4, 2.5). From the first
    step on there is a model to leave.
    """
    if at not in profile.log.stops:
        raise NotVerified(f"the subject profile names no line of the log for {at}")
    if stopped.exit == KILLED:
        raise Blocked("test_stop_leaves_a_usable_model", "it was killed 120 s after SIGTERM")
    line = profile.log.stops[at]
    job = run_job(spec(profile.run, f"stop-{at}", brief, stop_on=line, stop_at=1, deadline=300))
    late = job.exit == KILLED or (job.stop_seconds or 0) > GRACE + POLL
    assert not late, f"stopped at {at}, ended {job.stop_seconds} s later; look for it there too"
    assert job.status in ("Stopped", "Completed"), (
        f"stopped at {at}, ended {job.status}: {job.failure_reason}"
    )
    model = model_file(evidence, job)
    if model is None:
        trained = at in ("checkpoint", "export")
        assert not trained, f"stopped at {at} without a model; export on SIGTERM"
        return
    problems = check_layout(model)
    assert not problems, f"half a model: {'; '.join(problems)}; rename when whole"


@pytest.mark.sagemaker_stop
@pytest.mark.needs("test_restart_resumes_from_the_checkpoints")
def test_foreign_checkpoint_is_not_resumed(stopped, brief, run_job, profile):
    """A checkpoint of another configuration is refused, or trained over from the first step.

    A new job on an old S3Uri silently goes on from there (contract 1.5, trap 27).
    """
    from splatgate.judge.fixtures.jobs import stop_spec

    if not profile.outputs.checkpoints:
        raise NotVerified("the subject profile says that this trainer keeps no checkpoints")
    step = profile.log.metric("step")
    if step is None:
        raise NotVerified("the subject profile names no metric that ends in `step`")
    before = stop_spec(profile, profile.run)
    job = run_job(spec(profile.run, "foreign", brief, resumes=before, deadline=300))
    first = values(job, step.regex)[:1]
    resumed = first and first[0] >= values(stopped, step.regex)[-1]
    assert job.status == "Failed" or (first and not resumed), (
        f"with another job's checkpoint the first step logged is {first}; bind checkpoints to "
        "scene and configuration"
    )
