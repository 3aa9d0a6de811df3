"""SageMaker integration: what the request says reaches the trainer, and what the host has reaches
it too.
"""

import json
import re

import pytest

from splatgate.doors import JobSpec
from splatgate.facts import (
    CAPABILITIES,
    FAILURE_LIMIT,
    GRACE,
    HIDING,
    INJECTED,
    KILLED,
    NEEDED_CAPABILITIES,
    POLL,
    PROMPT,
    VISIBLE,
    VISIBLE_GPUS,
)
from splatgate.outcomes import NotVerified
from splatgate.provide import TRAINS, model_file
from splatgate.scene.splats import check_layout


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs(TRAINS)
def test_effective_configuration_is_the_requests(trained, door, profile):
    """Each hyperparameter of the request is in the effective configuration that the trainer wrote.

    Sent as HyperParameters and read from elsewhere, they silently keep their defaults (K43, trap
    6).
    """
    wrong = differing(trained.request["HyperParameters"], trained, door, profile)
    assert not wrong, f"{wrong}; read /opt/ml/input/config/hyperparameters.json"


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs("test_effective_configuration_is_the_requests")
def test_json_encoded_hyperparameters_mean_the_same(brief, run_job, door, profile):
    """Encoded as JSON, and beside keys of the SDK's own, hyperparameters mean what they say.

    Step Functions sends `cpu`, the SageMaker SDK `"cpu"` with its quotes, and adds `sagemaker_*`
    keys that no trainer has heard of: one image must read both (contract 2.2, trap 6).
    """
    encoded = {name: json.dumps(value) for name, value in {**brief, **INJECTED}.items()}
    job = run_job(JobSpec("dialect", encoded, trains=False, deadline=300))
    assert job.status == "Completed", (
        f"encoded as JSON, the request ended {job.status}: {job.failure_reason}; decode each "
        f"value, and ignore sagemaker_*"
    )
    wrong = differing(brief, job, door, profile)
    assert not wrong, f"{wrong}; decode each value with json.loads, or take its text"


def differing(asked: dict[str, str], job, door, profile) -> dict[str, str]:
    """Hyperparameters whose value in the configuration that a job wrote is another than asked."""
    path = door.artefact(job, profile.outputs.config)
    assert path, f"no {profile.outputs.config} in the model; write the effective configuration"
    written = json.loads(path.read_text())
    key = profile.outputs.config_key
    effective = written[key] if key else written
    return {
        name: f"asked {value}, effective {effective.get(name)}"
        for name, value in asked.items()
        if not equal(value, effective.get(name))
    }


def equal(asked: str, effective: object) -> bool:
    """Whether a hyperparameter's text and the value in force agree (contract 2.2: every value is a
    string).
    """
    try:
        return float(asked) == float(str(effective))
    except ValueError:
        return asked.strip('"').lower() == str(effective).lower()


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs("test_starts_with_the_word_train")
def test_malformed_hyperparameter_is_refused(run_job, cpu_run, profile):
    """A hyperparameter that cannot be read is refused by name, before any training.

    Taken for its default it costs a whole job before anyone notices (K25, K26).
    """
    name = next(iter(cpu_run.smoke))
    asked = {**cpu_run.smoke, **cpu_run.cpu, name: "abc"}
    job = run_job(JobSpec("malformed", asked, trains=False, deadline=120))
    assert job.status == "Failed", f"{name}=abc ended {job.status}; refuse what cannot be read"
    assert name in job.failure_reason, (
        f"FailureReason does not name {name}: {job.failure_reason!r}; write the cause there"
    )


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs("test_starts_with_the_word_train")
def test_unknown_hyperparameter_is_refused_by_name(brief, run_job):
    """A misspelt hyperparameter ends the job Failed before training, and the reason names it.

    Passed over in silence, it leaves a default in force that nobody asked for (K43, K26); what the
    SDK adds begins with `sagemaker_` (contract 2.2).
    """
    name, value = next(iter(brief.items()))
    unknown = f"{name}s"
    job = run_job(JobSpec("unknown", {**brief, unknown: value}, trains=False, deadline=300))
    assert job.status == "Failed", f"an unknown {unknown} ended {job.status}; refuse it by name"
    assert unknown in job.failure_reason, (
        f"FailureReason does not name {unknown}: {job.failure_reason!r}; write the cause there"
    )


@pytest.mark.sagemaker_paths
@pytest.mark.needs(TRAINS)
def test_nothing_is_written_outside_the_mounts(trained):
    """A job writes to /opt/ml and /tmp alone.

    Everything else is on the small system disk and is lost with the container (contract 2.1, 2.6).
    """
    assert trained.members, "the job wrote nothing to /opt/ml/model"
    outside = [p for p in trained.writes_outside if not p.startswith("/tmp/")]
    assert not outside, f"written outside: {', '.join(outside[:5])}; use /tmp"


@pytest.mark.sagemaker_gpu_access
@pytest.mark.parametrize("name", HIDING)
def test_environment_hides_no_gpu(facts, name):
    """The image's environment hides no GPU from CUDA.

    `CUDA_VISIBLE_DEVICES=all` reads well and means no device: "No GPU found" on a T4 for thirteen
    days (K12); a build-time empty value that leaks does the same (K18).
    """
    assert name not in facts.environment, (
        f"the image sets {name}={facts.environment[name]!r}, which hides GPUs; leave it unset"
    )


@pytest.mark.sagemaker_gpu_access
def test_environment_asks_for_the_gpu(facts):
    """NVIDIA_VISIBLE_DEVICES and NVIDIA_DRIVER_CAPABILITIES ask for every GPU, for compute and
    utility.

    Without the first the NVIDIA runtime acts like runc: no GPU, no driver. Whether SageMaker adds
    them is not documented (contract 5.3, trap 16).
    """
    visible = facts.environment.get(VISIBLE, "")
    assert re.fullmatch(VISIBLE_GPUS, visible), f"{VISIBLE}={visible!r}; set it to all in the image"
    asked = {word.strip() for word in facts.environment.get(CAPABILITIES, "").split(",")}
    missing = set() if "all" in asked else NEEDED_CAPABILITIES - asked
    assert not missing, f"{CAPABILITIES} lacks {', '.join(sorted(missing))}; set compute,utility"


@pytest.mark.sagemaker_gpu_access
@pytest.mark.needs("test_starts_with_the_word_train", "test_environment_hides_no_gpu")
def test_missing_gpu_fails_at_once_and_by_name(run_job, cpu_run, profile):
    """Without a GPU, and not told to do without, the job fails promptly and says so.

    A silent fall-back trained for thirteen minutes on the CPU while the pipeline said SUCCEEDED
    (K13).
    """
    asked = {k: v for k, v in cpu_run.smoke.items() if k not in cpu_run.cpu}
    job = run_job(JobSpec("no-gpu", asked, trains=False, deadline=300))
    assert job.status == "Failed", (
        f"without a GPU the job ended {job.status}; never fall back to the CPU"
    )
    assert job.phases["Training"] < PROMPT, (
        f"took {job.phases['Training']:.0f} s to miss the GPU; look for it first"
    )
    wanted = profile.errors.get("no_gpu", "GPU")
    assert wanted in job.failure_reason, (
        f"FailureReason does not say {wanted}: {job.failure_reason!r}"
    )


@pytest.mark.sagemaker_logs
@pytest.mark.needs(TRAINS)
def test_progress_is_logged_as_it_happens(trained, profile):
    """Progress lines match the metric definitions, one by one and while training goes on.

    Output held until exit shows no line for an hour and then twenty (K28); a regular expression
    that never matches gives an empty metric (contract 1.2, trap 31).
    """
    for metric in profile.log.progress:
        times = [line.seconds for line in trained.log if re.search(metric.regex, line.text)]
        assert len(times) > 1, f"metric {metric.name}: {len(times)} lines match {metric.regex!r}"
        assert len(set(times)) > 1, f"metric {metric.name}: all lines came at once; flush each line"


@pytest.mark.sagemaker_stop
@pytest.mark.needs(TRAINS)
def test_stop_leaves_a_usable_model(stopped, door, profile):
    """SIGTERM in mid-training: the container ends by itself within 120 s and leaves a whole model.

    MaxRuntimeInSeconds and StopTrainingJob send SIGTERM, then SIGKILL; as PID 1 a process without a
    handler ignores SIGTERM, and a library may put a handler of its own in its place (contract 1.1,
    1.4, trap 4).
    """
    assert stopped.status == "Stopped", f"ended {stopped.status} before it could be stopped"
    took = stopped.stop_seconds
    late = stopped.exit == KILLED or took > GRACE + POLL
    assert not late, f"ended {took} s after SIGTERM; stop at the next step and exit"
    model = model_file(door, stopped)
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
    step = next((m for m in profile.log.progress if m.name.endswith("step")), None)
    if step is None:
        raise NotVerified("the subject profile names no metric that ends in `step`")
    before, after = values(stopped, step.regex), values(resumed, step.regex)
    assert after[0] > before[0], (
        f"stopped at {before[-1]:.0f}, restarted at {after[0]:.0f}; load the checkpoint"
    )


def values(job, regex: str) -> list[float]:
    """What a metric definition finds in a job's log, in order."""
    found = (re.search(regex, line.text) for line in job.log)
    return [float(match[1]) for match in found if match]


@pytest.mark.sagemaker_input
def test_scene_handed_over_is_sound(door):
    """The jobs' scene has what training needs: poses, points, photographs that fit the cameras.

    SfM that "works perfectly" without handing over its images fails an hour later (K32).
    """
    from splatgate.scene.judge import judge_scene

    found = judge_scene(door.scene())
    assert found.ok, f"{found.code}: {found.reason}"


@pytest.mark.sagemaker_input
@pytest.mark.needs("test_starts_with_the_word_train")
def test_scene_without_photographs_is_refused(run_job, cpu_run):
    """A model without its photographs ends the job Failed, and the reason names the images.

    The SfM stage's output never contained them (K32); an entry in the model is no photograph.
    """
    asked = {**cpu_run.smoke, **cpu_run.cpu}
    job = run_job(JobSpec("no-photos", asked, data="no-photos", trains=False, deadline=300))
    assert job.status == "Failed", f"without photographs the job ended {job.status}; refuse"
    named = re.search("image|photo", job.failure_reason, re.IGNORECASE)
    assert named, f"FailureReason does not name the images: {job.failure_reason!r}"


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
