"""A state machine is judged by what becomes of it: sound ones are clean, faults have a rule."""

import copy
import json

import pytest

from splatgate.evidence import BadInput, Pipeline
from splatgate.pipeline import source
from splatgate.pipeline.cli import main
from splatgate.pipeline.definition import call_of, parse
from splatgate.pipeline.judge import judge
from splatgate.run import ROOT

MACHINES = ROOT / "tests" / "machines"
REFERENCE = source.beside(source.REFERENCE)
POLLED = source.load(MACHINES / "poll-loops.json", MACHINES / "poll-loops.input.json")
NOBODY = {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "MaxAttempts": 2}


def edited(pipeline: Pipeline, edit) -> Pipeline:
    """A pipeline whose definition, input or policies `edit` has changed in place."""
    parts = {
        name: copy.deepcopy(getattr(pipeline, name))
        for name in ("definition", "input", "policies", "execution_name")
    }
    states = parts["definition"]["States"]
    parts = edit(states, parts) or parts
    return Pipeline("edited", problems=(), **parts)


def musts(pipeline: Pipeline) -> set[tuple[str, str]]:
    return {(f.rule, f.state) for f in judge(pipeline).findings if f.level == "must"}


@pytest.mark.parametrize(
    "pipeline",
    [
        REFERENCE,
        POLLED,
        source.load(MACHINES / "poll-loops.json"),
        source.load(source.REFERENCE),
        source.load(MACHINES / "map-and-approval.json", MACHINES / "map-and-approval.input.json"),
        source.load(MACHINES / "map-and-approval.json"),
        source.load(MACHINES / "jsonata.json"),
    ],
    ids=["reference", "polled", "polled-no-input", "no-input", "map", "map-no-input", "jsonata"],
)
def test_a_sound_machine_is_clean(pipeline):
    assert judge(pipeline).findings == ()


def test_jsonata_is_not_verified_by_name():
    verdict = judge(source.load(MACHINES / "jsonata.json"))
    assert ("Train", "its request is written in JSONata") in {
        (g.state, g.reason) for g in verdict.not_verified
    }


def test_awss_sample_that_trains_and_transforms():
    found = musts(source.load(MACHINES / "lambda-train-transform.json"))
    assert found == {
        ("failure-ends-in-fail", "Train model"),
        ("name-unique", "Train model"),
        ("request", "Train model"),
        ("request", "Transform"),
        ("timeout", "Train model"),
        ("timeout", "Transform"),
    }


def test_awss_sample_that_notifies_and_ends():
    found = musts(source.load(MACHINES / "notify-and-end.json"))
    assert found == {
        ("failure-ends-in-fail", "Submit Job"),
        ("notifier-masks", "Notify Failure"),
        ("notifier-masks", "Notify Success"),
    }


def put(states, state, **members):
    for name, value in members.items():
        if value is None:
            states[state].pop(name)
        else:
            states[state][name] = value


def request(states, state="Train"):
    return states[state]["Parameters"]


#: name: (the sound machine, what is done to it, the rule, the state)
FAULTS = {
    "K41 the error branch ends in the notification": (
        REFERENCE,
        lambda s, p: (
            put(s, "TellFailed", Next=None, End=True, Catch=None),
            s.pop("Failed"),
        )[:0],
        ("failure-ends-in-fail", "Train"),
    ),
    "K41 a catch goes on to the next stage": (
        REFERENCE,
        lambda s, p: s["StructureFromMotion"]["Catch"][0].update(Next="Train"),
        ("failure-ends-in-fail", "StructureFromMotion"),
    ),
    "K41 the Fail state succeeds": (
        POLLED,
        lambda s, p: s.update(Broken={"Type": "Succeed"}),
        ("failure-ends-in-fail", "Compress"),
    ),
    "K41 a failed Choice goes to the end": (
        POLLED,
        lambda s, p: put(s, "TrainDone", Default="Succeeded"),
        ("failure-ends-in-fail", "Train"),
    ),
    "trap 28 no Choice after the job": (
        REFERENCE,
        lambda s, p: put(s, "Train", Next="Compress"),
        ("failure-ends-in-fail", "Train"),
    ),
    "trap 28 Stopped among what goes on": (
        REFERENCE,
        lambda s, p: s["HasModel"]["Choices"].append(
            {"Variable": "$.stage.status", "StringEquals": "Stopped", "Next": "Compress"}
        ),
        ("failure-ends-in-fail", "Train"),
    ),
    "K42 the loop does not know Stopped": (
        POLLED,
        lambda s, p: s["SfmDone"]["Choices"][1].update(Or=s["SfmDone"]["Choices"][1]["Or"][:1] * 2),
        ("status-leaves-loop", "Sfm"),
    ),
    "K42 the loop does not know Failed": (
        POLLED,
        lambda s, p: s["CompressDone"]["Choices"][1].update(
            Or=s["CompressDone"]["Choices"][1]["Or"][1:] * 2
        ),
        ("status-leaves-loop", "Compress"),
    ),
    "a status that is never said": (
        REFERENCE,
        lambda s, p: s["HasModel"]["Choices"][0].update(StringEquals="COMPLETED"),
        ("succeeds", "Failed"),
    ),
    "K37 no .sync": (
        REFERENCE,
        lambda s, p: put(
            s,
            "StructureFromMotion",
            Resource="arn:aws:states:::sagemaker:createProcessingJob",
            ResultSelector=None,
            Next="Train",
        ),
        ("waits-for-job", "StructureFromMotion"),
    ),
    "K37 asked once": (
        POLLED,
        lambda s, p: put(s, "TrainStatus", Next="Compress"),
        ("waits-for-job", "Train"),
    ),
    "K37 the last stage is not waited for": (
        POLLED,
        lambda s, p: put(s, "Compress", Next="ReportSuccess"),
        ("waits-for-job", "Compress"),
    ),
    "a notifier on the way to Fail is not caught": (
        REFERENCE,
        lambda s, p: put(s, "TellFailed", Catch=None),
        ("notifier-masks", "TellFailed"),
    ),
    "a notifier that fails says success": (
        REFERENCE,
        lambda s, p: s["TellFailed"]["Catch"][0].update(Next="Done"),
        ("failure-ends-in-fail", "Train"),
    ),
    "K44 TimeoutSeconds is MaxRuntimeInSeconds": (
        REFERENCE,
        lambda s, p: put(s, "Train", TimeoutSeconds=10800),
        ("timeout", "Train"),
    ),
    "K44 the trainer's own limit is MaxRuntimeInSeconds": (
        REFERENCE,
        lambda s, p: request(s)["HyperParameters"].update(max_minutes="180"),
        ("timeout", "Train"),
    ),
    "trap 29 no TimeoutSeconds": (
        REFERENCE,
        lambda s, p: put(s, "Train", TimeoutSeconds=None),
        ("timeout", "Train"),
    ),
    "the machine ends before its stage": (
        REFERENCE,
        lambda s, p: p["definition"].update(TimeoutSeconds=10000),
        ("timeout", "Train"),
    ),
    "trap 29 States.ALL is retried": (
        REFERENCE,
        lambda s, p: s["Train"]["Retry"].append(NOBODY),
        ("retry-algorithm-error", "Train"),
    ),
    "trap 29 States.TaskFailed is retried": (
        REFERENCE,
        lambda s, p: s["Compress"]["Retry"][0]["ErrorEquals"].append("States.TaskFailed"),
        ("retry-algorithm-error", "Compress"),
    ),
    "a catch starts the same job again": (
        REFERENCE,
        lambda s, p: s["Train"]["Catch"][0].update(Next="Train"),
        ("retry-algorithm-error", "Train"),
    ),
    "a loop sends the same name again": (
        POLLED,
        lambda s, p: put(s, "TrainFailed", Next="Train"),
        ("name-unique", "Train"),
    ),
    "K38 one name for two jobs": (
        POLLED,
        lambda s, p: request(s, "Compress").update(
            {"ProcessingJobName.$": "States.Format('{}-sfm', $.id)"}
        ),
        ("name-unique", "Compress"),
    ),
    "every execution has the same name": (
        REFERENCE,
        lambda s, p: (
            request(s).pop("TrainingJobName.$"),
            request(s).update(TrainingJobName="gsplat"),
        )[:0],
        ("name-unique", "Train"),
    ),
    "trap 21 a name too long": (
        REFERENCE,
        lambda s, p: request(s).update(
            {"TrainingJobName.$": "States.Format('gsplat-{}', $$.Execution.Name)"}
        ),
        ("request", "Train"),
    ),
    "trap 21 an underscore": (
        REFERENCE,
        lambda s, p: request(s).update({"TrainingJobName.$": "States.Format('g_{}', $.run.id)"}),
        ("request", "Train"),
    ),
    "K39 nothing sends it": (
        REFERENCE,
        lambda s, p: request(s).update({"RoleArn.$": "$.roles.jobs"}),
        ("reference", "Train"),
    ),
    "K39 the starter leaves it out": (
        REFERENCE,
        lambda s, p: p["input"].pop("topic")[:0],
        ("reference", "TellDone"),
    ),
    "K39 a catch forgets the data": (
        REFERENCE,
        lambda s, p: s["Compress"]["Catch"][0].pop("ResultPath")[:0],
        ("reference", "TellFailed"),
    ),
    "K39 no such member of the answer": (
        REFERENCE,
        lambda s, p: s["Train"]["ResultSelector"].update({"status.$": "$.Status"}),
        ("reference", "Train"),
    ),
    "trap 22 a number among hyperparameters": (
        REFERENCE,
        lambda s, p: request(s)["HyperParameters"].update(
            {"max_iterations.$": "$.training.max_iterations"}
        ),
        ("request", "Train"),
    ),
    "trap 22 a long environment value": (
        REFERENCE,
        lambda s, p: request(s)["Environment"].update(X="x" * 600),
        ("request", "Train"),
    ),
    "trap 23 a volume larger than the instance": (
        REFERENCE,
        lambda s, p: request(s)["ResourceConfig"].update(VolumeSizeInGB=500),
        ("request", "Train"),
    ),
    "trap 24 a key for an instance store": (
        REFERENCE,
        lambda s, p: request(s)["ResourceConfig"].update(VolumeKmsKeyId="alias/x"),
        ("request", "Train"),
    ),
    "K36 a member misspelt": (
        REFERENCE,
        lambda s, p: request(s).update(StopCondition={}),
        ("request", "Train"),
    ),
    "K36 no such instance": (
        REFERENCE,
        lambda s, p: request(s)["ResourceConfig"].update(InstanceType="ml.g4dn.tiny"),
        ("request", "Train"),
    ),
    "K40 trap 20 a tag": (
        REFERENCE,
        lambda s, p: p["input"]["images"].update(
            trainer="123456789012.dkr.ecr.us-west-2.amazonaws.com/3dgs:latest"
        ),
        ("image", "Train"),
    ),
    "K34 another prefix": (
        REFERENCE,
        lambda s, p: request(s)["InputDataConfig"][0]["DataSource"]["S3DataSource"].update(
            {"S3Uri.$": "States.Format('{}/train/', $.run.prefix)"}
        ),
        ("hand-over", "Train"),
    ),
    "K31 a folder below": (
        REFERENCE,
        lambda s, p: request(s)["InputDataConfig"][0]["DataSource"]["S3DataSource"].update(
            {"S3Uri.$": "States.Format('{}/scene/sparse/', $.run.prefix)"}
        ),
        ("hand-over", "Train"),
    ),
    "K45 the prefix above the archive": (
        REFERENCE,
        lambda s, p: request(s, "Compress")["ProcessingInputs"][0]["S3Input"].update(
            {"S3Uri.$": "States.Format('{}/model/', $.run.prefix)"}
        ),
        ("hand-over", "Compress"),
    ),
    "trap 30 no events": (
        REFERENCE,
        lambda s, p: p["policies"]["state-machine"]["Statement"].pop(3) and None,
        ("permission", "Train"),
    ),
    "trap 30 the role goes to another service": (
        REFERENCE,
        lambda s, p: p["policies"]["state-machine"]["Statement"][2].update(
            Condition={"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}
        ),
        ("permission", "Train"),
    ),
    "trap 30 the image cannot be pulled": (
        REFERENCE,
        lambda s, p: p["policies"]["jobs"]["Statement"].pop(1) and None,
        ("permission", "Train"),
    ),
    "a state that is not there": (
        REFERENCE,
        lambda s, p: put(s, "Train", Next="HasModels"),
        ("asl", "Train"),
    ),
    "a state that nothing reaches": (
        REFERENCE,
        lambda s, p: s.update(Lost={"Type": "Pass", "Next": "Done"}),
        ("asl", "Lost"),
    ),
    "a circle": (
        REFERENCE,
        lambda s, p: put(s, "NotCompleted", Next="HasModel"),
        ("ends", "HasModel"),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_rule_and_state(name):
    pipeline, edit, expected = FAULTS[name]
    found = musts(edited(pipeline, lambda s, p: edit(s, p) and None))
    assert expected in found


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_one_cause(name):
    """What is found besides is the same thing seen from another state."""
    pipeline, edit, (rule, _) = FAULTS[name]
    rules = {r for r, _ in musts(edited(pipeline, lambda s, p: edit(s, p) and None))}
    assert rules <= {rule, *BESIDE.get(name, ())}


#: A fault that is two, by its nature.
BESIDE = {
    "K41 the error branch ends in the notification": ("notifier-masks",),
    "K41 a failed Choice goes to the end": ("asl",),
    "trap 28 no Choice after the job": ("asl",),
    "K37 no .sync": ("asl",),
    "K37 asked once": ("asl",),
    "a catch starts the same job again": ("name-unique",),
    "a loop sends the same name again": ("retry-algorithm-error",),
    "every execution has the same name": ("permission",),
    "trap 21 an underscore": ("permission",),
    "trap 24 a key for an instance store": ("permission",),
}


def test_the_starters_own_name_counts():
    def named(states, parts):
        request(states).update({"TrainingJobName.$": "States.Format('g-{}', $$.Execution.Name)"})
        return {**parts, "execution_name": "brighton-2026", "policies": {}}

    assert musts(edited(REFERENCE, named)) == set()


def machine(depth, width):
    """A machine of Parallels and Maps in one another, with training jobs in the innermost."""
    states = {}
    for number in range(width):
        body = copy.deepcopy(REFERENCE.definition["States"]["Train"])
        name = f"States.Format('d{depth}-{number}-{{}}', States.Hash($$.Execution.Id, 'MD5'))"
        body["Parameters"]["TrainingJobName.$"] = name
        body |= {"ResultPath": None, "Next": f"S{depth}-{number + 1}"}
        body["Catch"][0]["Next"] = f"F{depth}"
        states[f"S{depth}-{number}"] = body
    inner = machine(depth - 1, width) if depth > 1 else None
    last = {"Type": "Pass", "Next": f"E{depth}"}
    if inner and depth % 2:
        last = {"Type": "Parallel", "Branches": [inner], "ResultPath": None, "Next": f"E{depth}"}
    elif inner:
        last = {
            "Type": "Map",
            "ItemsPath": "$.items",
            "ItemSelector": {
                "run.$": "$.run",
                "items.$": "$.items",
                **{k + ".$": f"$.{k}" for k in REFERENCE.input},
            },
            "ItemProcessor": inner,
            "ResultPath": None,
            "Next": f"E{depth}",
        }
    states[f"S{depth}-{width}"] = last
    states[f"E{depth}"] = {"Type": "Succeed"}
    states[f"F{depth}"] = {"Type": "Fail", "Error": "E"}
    return {"StartAt": f"S{depth}-0", "States": states}


def test_two_hundred_states_ten_levels_deep_are_walked():
    document = machine(10, 17)
    sent = {**REFERENCE.input, "items": [1], "run": {"id": "1", "prefix": "s3://b/r"}}
    verdict = judge(Pipeline("deep", document, input=sent))
    assert len(verdict.states) == 200
    assert len(verdict.requests) == 170
    stopped = {f.state for f in verdict.of("failure-ends-in-fail")}
    assert len(stopped) == 170


def test_what_describe_state_machine_prints_is_taken():
    printed = {"name": "x", "definition": json.dumps(REFERENCE.definition)}
    assert parse(json.dumps(printed)) == (REFERENCE.definition, [])


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"A": 1, "A": 2}'])
def test_bad_text_is_a_finding(tmp_path, text, capsys):
    path = tmp_path / "definition.json"
    path.write_text(text)
    assert main([str(path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][0]["rule"] == "json"


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="No such file") as caught:
        main([str(tmp_path / "none.json")])
    assert "\n" not in str(caught.value)


def test_the_verbs_json(capsys):
    policy = source.REFERENCE.parent / "roles" / "state-machine.json"
    arguments = [str(source.REFERENCE), "--input", str(source.REFERENCE.parent / "input.json")]
    assert main([*arguments, "--policy", str(policy), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "splatgate/pipeline/1"
    assert told["findings"] == []
    assert {r["state"] for r in told["requests"]} == {"StructureFromMotion", "Train", "Compress"}
    assert "Train" in told["states"]


@pytest.mark.parametrize(
    ("resource", "service", "operation", "pattern"),
    [
        (
            "arn:aws:states:::sagemaker:createTrainingJob.sync",
            "sagemaker",
            "CreateTrainingJob",
            "sync",
        ),
        (
            "arn:aws:states:::aws-sdk:sagemaker:describeTrainingJob",
            "sagemaker",
            "DescribeTrainingJob",
            "",
        ),
        ("arn:aws-cn:states:::states:startExecution.sync:2", "states", "StartExecution", "sync"),
        ("arn:aws:states:::lambda:invoke.waitForTaskToken", "lambda", "Invoke", "waitForTaskToken"),
        ("arn:aws:lambda:eu-west-1:1:function:f", "lambda", "Invoke", ""),
    ],
)
def test_what_a_resource_calls(resource, service, operation, pattern):
    call = call_of(resource)
    assert (call.service, call.operation, call.pattern) == (service, operation, pattern)
