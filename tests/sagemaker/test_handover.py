"""SageMaker integration: a sound scene is taken, an unsound one refused, each with its reason."""

import re

import pytest

from splatgate.expectations import FAILURE_LIMIT, UNSOUND
from splatgate.judge.fixtures.jobs import TRAINS, spec
from splatgate.sources.recorded import JobSpec


@pytest.mark.sagemaker_input
def test_scene_handed_over_is_sound(evidence):
    """The jobs' scene has what training needs: poses, points, photographs that fit the cameras.

    SfM that "works perfectly" without handing over its images fails an hour later (K32).
    """
    from splatgate.scene.judge import judge_scene

    found = judge_scene(evidence.scene())
    assert found.ok, f"{found.code}: {found.reason}"


@pytest.mark.sagemaker_input
@pytest.mark.needs("test_starts_with_the_word_train")
@pytest.mark.parametrize("variant", UNSOUND)
def test_unsound_scene_is_refused_with_its_reason(run_job, cpu_run, profile, variant):
    """What the scene judge calls unsound ends the job Failed, and the reason says the same.

    SfM that "works perfectly" without its photographs, or with their extension twice, fails an hour
    later (K32, K33); a code of another class sends people to the wrong stage.
    """
    asked = {**cpu_run.smoke, **cpu_run.cpu}
    job = run_job(spec(cpu_run, variant, asked, data=variant, deadline=300))
    classes, words = UNSOUND[variant]
    assert job.status == "Failed", f"a scene with {variant} ended {job.status}; refuse it"
    codes = [profile.errors[name] for name in classes if name in profile.errors]
    wanted = "|".join(map(re.escape, codes)) or words
    assert re.search(wanted, job.failure_reason, re.IGNORECASE), (
        f"expected {wanted} in FailureReason, got {job.failure_reason!r}; name the cause"
    )


@pytest.mark.sagemaker_input
@pytest.mark.needs(TRAINS)
def test_legal_oddities_are_trained_on(brief, run_job, cpu_run):
    """A model as text without comments in sparse/ itself, folders and spaces in names, extra files.

    Each was refused once, though all are COLMAP's own ways (K31, K35).
    """
    job = run_job(spec(cpu_run, "oddities", brief, data="oddities", deadline=300))
    assert job.status == "Completed", (
        f"a legal scene ended {job.status}: {job.failure_reason}; read COLMAP's layouts as they are"
    )


@pytest.mark.production_errors
@pytest.mark.needs("test_starts_with_the_word_train")
def test_empty_channel_fails_with_a_reason(run_job, cpu_run, profile):
    """An empty channel ends the job Failed, with a FailureReason that names the channel.

    Exit 0 counts as success, and without /opt/ml/output/failure the reason is empty (contract 1.3,
    K27, traps 7 and 8).
    """
    asked = {**cpu_run.smoke, **cpu_run.cpu}
    job = run_job(JobSpec("empty-channel", asked, data="empty", trains=False, deadline=300))
    assert job.status == "Failed", (
        f"an empty channel ended {job.status}; fail when there is nothing to train on"
    )
    assert job.log, "not a line of output, so not even a log stream; say what is wrong"
    assert job.failure, "no /opt/ml/output/failure; write the cause there before exiting"
    assert len(job.failure) <= FAILURE_LIMIT, (
        f"failure text has {len(job.failure)} characters, limit {FAILURE_LIMIT}"
    )
    wanted = profile.errors.get("empty_channel", cpu_run.channel)
    assert wanted in job.failure.splitlines()[0], (
        f"first line does not say {wanted}: {job.failure[:200]!r}"
    )
