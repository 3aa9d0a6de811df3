"""SageMaker integration: the state machine is sound, and its requests will be accepted.

The machine is judged as it is written, before it is deployed: each stage is made to fail, to be
stopped and to end well, and each request is rendered and held against the service's own model.
"""

import json

import pytest

from splatgate.evidence.missing import Blocked, NotVerified
from splatgate.evidence.text import pattern
from splatgate.judge.fixtures.jobs import PLY, TRAINS
from splatgate.pipeline.handover import lacks
from splatgate.sagemaker.result import same_value
from splatgate.sources.recorded import JobSpec

VALID = "test_definition_is_valid"
DEFINITION = ("json", "asl", "size", "integration", "path-as-text", "error-name")


def broken(pipeline, *rules: str) -> str:
    """The broken musts of some rules, one a line; "" where none is."""
    if not pipeline.states and "json" not in rules:
        raise Blocked(VALID, "no state could be read")
    lines = [(f"{f.state or 'the machine'}: {f.reason}", *f.ways) for f in pipeline.of(*rules)]
    found = "\n".join(line for ways in lines for line in ways)
    if not found and (gaps := pipeline.unknown(*rules)):
        raise NotVerified("; ".join(f"{g.state} {g.reason}".strip() for g in gaps))
    return found


@pytest.mark.sagemaker_pipeline
def test_definition_is_valid(pipeline):
    """The definition is Amazon States Language: JSON, known members, targets that are there.

    Source: Amazon States Language specification; Step Functions Developer Guide.
    """
    assert not (found := broken(pipeline, *DEFINITION)), found


@pytest.mark.sagemaker_pipeline
def test_every_failure_ends_in_fail(pipeline):
    """An execution in which a stage failed or was stopped does not succeed.

    A notification at the end of the error branch is no Fail state: the execution said SUCCEEDED
    (K41). Whether `.sync` takes Stopped for success is not documented (contract 7.4, trap 28).
    """
    assert not (found := broken(pipeline, "failure-ends-in-fail")), found


@pytest.mark.sagemaker_pipeline
def test_every_job_status_leaves_its_loop(pipeline):
    """Completed, Failed and Stopped each end the loop that waits for them, and an execution.

    A job over its time limit is Stopped: a Choice that knows the other two polls for hours (K42).
    """
    found = broken(pipeline, "status-leaves-loop", "ends", "succeeds", "poll")
    assert not found, found


@pytest.mark.sagemaker_pipeline
def test_next_stage_waits_for_the_job(pipeline):
    """What reads a job's output, and the end, come after the job's end.

    Without `.sync` or a loop the state ends when the call returns (K37, contract 7.2).
    """
    assert not (found := broken(pipeline, "waits-for-job")), found


@pytest.mark.sagemaker_pipeline
def test_failing_notifier_masks_nothing(pipeline):
    """A notification that fails leaves the execution's own error and cause in place.

    Not caught, it puts its own in their place, and who is on call looks for the wrong thing (K41).
    """
    assert not (found := broken(pipeline, "notifier-masks")), found


@pytest.mark.sagemaker_pipeline
def test_timeouts_nest(pipeline):
    """The program's limit < MaxRuntimeInSeconds < TimeoutSeconds < the machine's.

    Where two are equal the inner one can never be handled (K44); without TimeoutSeconds a state
    waits 99999999 s (contract 7.4, trap 29).
    """
    assert not (found := broken(pipeline, "timeout")), found


@pytest.mark.sagemaker_pipeline
def test_retries_repeat_no_algorithm_error(pipeline):
    """What is retried can come out differently: a refused call, not a failed job.

    A retrier on States.TaskFailed or States.ALL pays for the same AlgorithmError several times
    (contract 7.4, trap 29).
    """
    assert not (found := broken(pipeline, "retry-algorithm-error")), found


@pytest.mark.sagemaker_pipeline
def test_job_names_are_never_taken(pipeline):
    """No job has the name of another: of another stage, execution or attempt.

    A name belongs to its job for ever; the second job is refused (K38, contract 7.1, 7.2).
    """
    assert not (found := broken(pipeline, "name-unique")), found


@pytest.mark.sagemaker_pipeline
def test_every_path_leads_somewhere(pipeline):
    """What the definition refers to, the starter sends or an earlier state has put there.

    `JSONPath … could not be found` ends the execution uncaught, also in an error branch (K39).
    """
    assert not (found := broken(pipeline, "reference")), found


@pytest.mark.sagemaker_pipeline
@pytest.mark.needs("test_every_path_leads_somewhere")
def test_requests_are_accepted(pipeline):
    """Each rendered request fits the service model: members, types, lengths, patterns, values.

    The service tells one error at a time, and boto3 most of them not at all (K36, traps 21 to 24);
    names are built for an execution's longest, 80 characters.
    """
    assert not (found := broken(pipeline, "request", "environment")), found


@pytest.mark.sagemaker_pipeline
def test_images_are_named_by_digest(pipeline):
    """Each job's image is named by digest: what was judged is what runs.

    A tag may never have been pushed (K40), or be pushed again between judging and running (K49,
    trap 20).
    """
    assert not (found := broken(pipeline, "image")), found


@pytest.mark.sagemaker_pipeline
def test_each_stage_reads_what_the_one_before_writes(pipeline):
    """A stage's input is the prefix, or the archive, that the stage before it writes.

    "No S3 objects found under …/train/": the layout had changed on one side (K34); "no PLY files
    found": the model is in model.tar.gz, two folders down (K45).
    """
    assert not (found := broken(pipeline, "hand-over")), found


@pytest.mark.sagemaker_pipeline
def test_roles_allow_what_requests_need(pipeline):
    """The roles' policies allow what the state machine calls and what its jobs do.

    Without events:PutRule a `.sync` state never starts; without StopTrainingJob an aborted
    execution's job runs on (contract 4, 7.3, trap 30).
    """
    assert not (found := broken(pipeline, "permission")), found


@pytest.mark.sagemaker_pipeline
@pytest.mark.should
@pytest.mark.needs("test_roles_allow_what_requests_need")
def test_role_is_passed_to_its_service_alone(pipeline):
    """A permission to pass a role names the service that gets it (iam:PassedToService).

    Without it the job runs all the same, and whoever may start the machine can hand the role to any
    service (contract 7.3).
    """
    wide = {f.reason for f in pipeline.findings if (f.rule, f.level) == ("permission", "should")}
    assert not wide, "; ".join(sorted(wide))


@pytest.mark.sagemaker_pipeline
@pytest.mark.needs(PLY)
def test_hand_overs_hold_what_was_agreed(contracts, truth, scene):
    """The scene that is trained on, and the archive that training leaves, are as the contracts say.

    `sparse/` against `sparse/0/`, a scene without its images, a .ply two folders down: each was a
    change on one side only (K31, K32, K45). The other side is held to the same file.
    """
    files = [p.relative_to(scene.path).as_posix() for p in scene.path.rglob("*") if p.is_file()]
    held = {"scene": files, "model": [member.path for member in truth.members]}
    for name, found in held.items():
        layout = contracts[name].get("layout")
        assert layout, f"contract {name} names no file"
        missing = lacks(contracts[name], found)
        assert not missing, f"contract {name}: no {', '.join(missing)}; it holds {found[:5]}"


@pytest.mark.sagemaker_pipeline
@pytest.mark.needs(TRAINS)
def test_metrics_of_the_request_are_logged(training_state, trained):
    """Each MetricDefinition of the request matches a line of the trainer's log, with its number.

    A regular expression that never matches gives an empty metric, and no error (trap 31).
    """
    defined = training_state["AlgorithmSpecification"].get("MetricDefinitions", ())
    found = {m["Name"]: pattern(m["Regex"]).findall(trained.text) for m in defined}
    never = [name for name, values in found.items() if not values or not as_number(values[0])]
    assert not never, f"{', '.join(never)}: no number in the log; mend the Regex"


def as_number(text: object) -> bool:
    """Whether a metric's first group is a number."""
    try:
        float(str(text))
    except ValueError:
        return False
    return True


@pytest.mark.sagemaker_pipeline
@pytest.mark.needs(TRAINS)
def test_training_request_names_what_the_trainer_knows(training_state, trained, evidence, profile):
    """The training state sends its channel and its parameters under the names that are read.

    Under another name a parameter keeps its default, and nobody is told (K43).
    """
    channels = {c["ChannelName"] for c in training_state.get("InputDataConfig", ())}
    wanted = profile.run.channel
    assert wanted in channels, f"channels {sorted(channels)}; the trainer reads {wanted}"
    known = effective(trained, evidence, profile)
    assert known is not None, f"no {profile.outputs.config} in the model; write what is in force"
    unknown = sorted(training_state.get("HyperParameters", {}).keys() - known.keys())
    assert not unknown, f"sends {', '.join(unknown)}, of which the trainer knows nothing"


@pytest.mark.sagemaker_pipeline
@pytest.mark.needs(
    "test_training_request_names_what_the_trainer_knows",
    "test_requests_are_accepted",
    "test_stop_leaves_a_usable_model",
)
def test_training_request_is_understood(training_state, run_job, cpu_run, evidence, profile):
    """The trainer takes each value that the training state sends, and puts it in force.

    One out of range or in contradiction to another ends the job when the instance is paid for
    (K25); sent as HyperParameters and read from the environment only, all are defaults (K43). The
    job runs as it is requested, but for what makes it run without a GPU, and is stopped at its
    first step.
    """
    step = profile.log.metric("step")
    if step is None:
        raise NotVerified("the subject profile names no metric that ends in `step` to stop at")
    sent = dict(training_state.get("HyperParameters", {}))
    environment = dict(training_state.get("Environment", {}))
    algorithm = training_state["AlgorithmSpecification"]
    as_sent = JobSpec(
        "pipeline",
        {**sent, **cpu_run.cpu},
        environment=environment,
        command={k: v for k, v in algorithm.items() if k.startswith("Container")},
        stop_on=step.regex,
        stop_at=1,
        trains=False,
        deadline=300,
    )
    job = run_job(as_sent)
    if job.ended_by == "Deadline":
        raise NotVerified("without a GPU it came to no step in time")
    if job.status == "Failed" and (job.oom or "memory" in job.failure_reason.lower()):
        raise NotVerified(f"does not fit into this machine's memory: {job.failure_reason}")
    assert job.status != "Failed", f"its request ended Failed: {job.failure_reason}"
    found = effective(job, evidence, profile)
    if found is None:
        raise NotVerified(f"stopped at its first step it leaves no {profile.outputs.config}")
    differing = {
        name: f"sent {value}, effective {found.get(name)}"
        for name, value in sent.items()
        if name not in cpu_run.cpu and not same_value(value, found.get(name))
    }
    assert not differing, f"{differing}; read /opt/ml/input/config/hyperparameters.json"


def effective(job, evidence, profile) -> dict[str, object] | None:
    """The configuration that a job wrote as the one in force, or None where it wrote none."""
    if profile.outputs.config is None:
        raise NotVerified("by its profile this trainer writes no effective configuration")
    path = evidence.artefact(job, profile.outputs.config)
    if path is None:
        return None
    written = json.loads(path.read_text())
    return written[profile.outputs.config_key] if profile.outputs.config_key else written
