"""SageMaker integration: what the request says reaches the trainer, and what the host has reaches
it too.
"""

import json
import re

import pytest

from splatgate.evidence.missing import NotVerified
from splatgate.expectations import (
    CAPABILITIES,
    EFFECTS,
    HIDING,
    NEEDED_CAPABILITIES,
    PROMPT,
    REFUSED_VALUES,
    VISIBLE,
    VISIBLE_GPUS,
)
from splatgate.judge.fixtures.jobs import TRAINS, model_file, spec
from splatgate.sagemaker.result import same_value, values
from splatgate.scene.splats import check_layout, read_splats


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs(TRAINS)
def test_effective_configuration_is_the_requests(trained, evidence, profile):
    """Each hyperparameter of the request is in the effective configuration that the trainer wrote.

    Sent as HyperParameters and read from elsewhere, they silently keep their defaults (K43, trap
    6).
    """
    run = profile.run
    wrong = differing({**run.smoke, **(run.cpu or {})}, trained, evidence, profile)
    assert not wrong, f"{wrong}; read /opt/ml/input/config/hyperparameters.json"


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs("test_effective_configuration_is_the_requests")
def test_json_encoded_hyperparameters_mean_the_same(brief, dialect, evidence, profile):
    """Encoded as JSON, and beside keys of the SDK's own, hyperparameters mean what they say.

    Step Functions sends `cpu`, the SageMaker SDK `"cpu"` with its quotes, and adds `sagemaker_*`
    keys that no trainer has heard of: one image must read both (contract 2.2, trap 6).
    """
    assert dialect.status == "Completed", (
        f"encoded as JSON, the request ended {dialect.status}: {dialect.failure_reason}; decode "
        f"each value, and ignore sagemaker_*"
    )
    wrong = differing(brief, dialect, evidence, profile)
    assert not wrong, f"{wrong}; decode each value with json.loads, or take its text"


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs("test_effective_configuration_is_the_requests")
def test_parameters_from_the_environment_mean_the_same(brief, by_environment, evidence, profile):
    """Without hyperparameters.json, each parameter in the environment is in force.

    HyperParameters are optional (contract 2.2): a job definition may set all in `Environment`.
    """
    assert by_environment.status == "Completed", (
        f"by environment the job ended {by_environment.status}: {by_environment.failure_reason}; "
        "take defaults for an absent hyperparameters.json"
    )
    wrong = differing(brief, by_environment, evidence, profile)
    assert not wrong, f"{wrong}; read the upper-case names of the environment"


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs("test_json_encoded_hyperparameters_mean_the_same")
@pytest.mark.parametrize("effect", EFFECTS)
def test_parameter_shows_in_what_the_job_leaves(brief, dialect, evidence, profile, effect):
    """Steps, cap, size and degree asked for are those of the log, the .ply and the metrics.

    A cap was accepted, logged, and wired to nothing (K26): a configuration that repeats the request
    proves only that it was read.
    """
    name = getattr(profile.effects, effect)
    if name is None or name not in brief:
        raise NotVerified(f"the subject profile names no parameter for {effect}")
    asked = int(float(brief[name]))
    if effect == "iterations":
        step = profile.log.metric("step")
        found = int(max(values(dialect, step.regex), default=0)) if step else None
    elif effect == "image_size":
        path = evidence.artefact(dialect, profile.outputs.metrics or "")
        keys = profile.metrics
        views = json.loads(path.read_text())[keys.views] if path else []
        found = max((v[side] for v in views for side in (keys.width, keys.height)), default=None)
    else:
        path = model_file(evidence, dialect)
        splats = read_splats(path) if path else None
        found = splats and (len(splats) if effect == "gaussians" else splats.degree)
    if found is None:
        raise NotVerified(f"the job left nothing that shows {effect}")
    within = found <= asked if effect == "gaussians" else found == asked
    assert within, f"{name}={asked} and {effect} is {found}; wire it to what it names"


def differing(asked: dict[str, str], job, evidence, profile) -> dict[str, str]:
    """Hyperparameters whose value in the configuration that a job wrote is another than asked."""
    if profile.outputs.config is None:
        raise NotVerified("by its profile this trainer writes no effective configuration")
    path = evidence.artefact(job, profile.outputs.config)
    assert path, f"no {profile.outputs.config} in the model; write the effective configuration"
    written = json.loads(path.read_text())
    key = profile.outputs.config_key
    effective = written[key] if key else written
    return {
        name: f"asked {value}, effective {effective.get(name)}"
        for name, value in asked.items()
        if not same_value(value, effective.get(name))
    }


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs("test_starts_with_the_word_train")
def test_malformed_hyperparameter_is_refused(run_job, cpu_run, profile):
    """A hyperparameter that cannot be read is refused by name, before any training.

    Taken for its default it costs a whole job before anyone notices (K25, K26).
    """
    name = next(iter(cpu_run.smoke))
    asked = {**cpu_run.smoke, **cpu_run.cpu, name: "abc"}
    job = run_job(spec(cpu_run, "malformed", asked, trains=False, deadline=120))
    assert job.status == "Failed", f"{name}=abc ended {job.status}; refuse what cannot be read"
    assert name in job.failure_reason, (
        f"FailureReason does not name {name}: {job.failure_reason!r}; write the cause there"
    )


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs("test_starts_with_the_word_train")
def test_unknown_hyperparameter_is_refused_by_name(brief, run_job, cpu_run):
    """A misspelt hyperparameter ends the job Failed before training, and the reason names it.

    Passed over in silence, it leaves a default in force that nobody asked for (K43, K26); what the
    SDK adds begins with `sagemaker_` (contract 2.2).
    """
    if "hyperparameters" not in cpu_run.read_from:
        raise NotVerified("among other variables of the environment a misspelt one is not known")
    name, value = next(iter(brief.items()))
    unknown = f"{name}s"
    job = run_job(spec(cpu_run, "unknown", {**brief, unknown: value}, trains=False, deadline=300))
    assert job.status == "Failed", f"an unknown {unknown} ended {job.status}; refuse it by name"
    assert unknown in job.failure_reason, (
        f"FailureReason does not name {unknown}: {job.failure_reason!r}; write the cause there"
    )


@pytest.mark.sagemaker_hyperparameters
@pytest.mark.needs("test_starts_with_the_word_train")
@pytest.mark.parametrize("what", REFUSED_VALUES)
def test_value_that_cannot_be_meant_is_refused(run_job, cpu_run, what):
    """A number out of range, and parameters that contradict each other, end the job Failed.

    A minimum of iterations above the maximum was accepted (K25); the reason names a parameter.
    """
    name = next(iter(cpu_run.smoke))
    bad = {"out-of-range": {name: "-1"}, "contradiction": cpu_run.contradiction}[what]
    if not bad:
        raise NotVerified("the subject profile has no [run.contradiction]")
    asked = {**cpu_run.smoke, **cpu_run.cpu, **bad}
    job = run_job(spec(cpu_run, what, asked, deadline=120))
    assert job.status == "Failed", f"{bad} ended {job.status}; refuse it before training"
    assert any(key in job.failure_reason for key in bad), (
        f"FailureReason names none of {', '.join(bad)}: {job.failure_reason!r}; name it"
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


@pytest.mark.sagemaker_paths
@pytest.mark.needs(TRAINS)
def test_full_disk_fails_with_its_reason_and_leaves_no_half_model(full_disk, evidence, profile):
    """On a disk too small for the model the job fails, says why, and leaves none or a whole one.

    What lies in /opt/ml/model is uploaded, whole or not (contract 2.5), and exit 0 without a model
    counts as success (contract 1.3).
    """
    path = model_file(evidence, full_disk)
    problems = check_layout(path) if path else []
    assert not problems, f"half a model: {'; '.join(problems)}; rename when whole"
    if full_disk.status == "Completed":
        assert path, "the disk was full, and the job says Completed without a model; fail"
        raise NotVerified("the model fitted the disk: this trainer starts with fewer Gaussians")
    wanted = profile.errors.get("disk", "disk|space left")
    assert re.search(wanted, full_disk.failure_reason, re.IGNORECASE), (
        f"expected {wanted} in FailureReason, got {full_disk.failure_reason!r}; name the cause"
    )


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
def test_missing_gpu_fails_at_once_and_by_name(run_job, profile):
    """Without a GPU, and not told to do without, the job fails promptly and says so.

    A silent fall-back trained for thirteen minutes on the CPU while the pipeline said SUCCEEDED
    (K13).
    """
    run = profile.run
    if run is None or not run.smoke:
        raise NotVerified("the subject profile has no [run.smoke]")
    asked = {k: v for k, v in run.smoke.items() if k not in (run.cpu or {})}
    job = run_job(spec(run, "no-gpu", asked, trains=False, deadline=300))
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
