"""Machines as others write them: what works is not refused, what cannot work is named."""

import json

import pytest

from splatgate.evidence import Pipeline
from splatgate.pipeline.judge import judge

IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/splat@sha256:" + "b" * 64
FAIL = {"Type": "Fail", "Error": "Broken"}
ALL = [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Broken"}]
SENT = {"photos": "s3://b/photos/", "to": "s3://b/models", "job": "castle-7"}


def train(resource="sagemaker:createTrainingJob.sync", **members):
    """A sound training state, with other members."""
    sent = {
        "TrainingJobName.$": "States.Format('t-{}', States.Hash($$.Execution.Id, 'SHA-1'))",
        "RoleArn": "arn:aws:iam::123456789012:role/jobs",
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "InputDataConfig": [
            {
                "ChannelName": "training",
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri.$": "$.photos"}},
            }
        ],
        "OutputDataConfig": {"S3OutputPath.$": "$.to"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 9},
        "StoppingCondition": {"MaxRuntimeInSeconds": 1800},
    }
    sent |= members.pop("Parameters", {})
    sent = {k: v for k, v in sent.items() if v is not None}
    return task(resource, sent, TimeoutSeconds=3600, ResultPath="$.trained", Catch=ALL, **members)


def task(resource, sent, **members):
    named = {"Type": "Task", "Resource": f"arn:aws:states:::{resource}"}
    return named | {"Parameters": sent} | members


def call(function, **members):
    return task("lambda:invoke", {"FunctionName": function, "Payload.$": "$"}, **members)


def choice(variable, ways, default):
    rules = [{"Variable": variable, "StringEquals": w, "Next": n} for w, n in ways.items()]
    return {"Type": "Choice", "Choices": rules, "Default": default}


ENDED = choice("$.trained.TrainingJobStatus", {"Completed": "Done"}, "Broken")


def machine(*states, **members):
    """States in a row, each leading to the next, and the two ends."""
    names = [name for name, _ in states]
    found = {}
    for (name, body), after in zip(states, [*names[1:], "Done"], strict=True):
        leads = {"Next", "End", "Choices"} & body.keys() or body["Type"] in ("Fail", "Succeed")
        found[name] = body if leads else body | {"Next": after}
    text = json.dumps(found)
    ends = {"Done": {"Type": "Succeed"}, "Broken": FAIL}
    found |= {n: b for n, b in ends.items() if f'"{n}"' in text}
    return {"StartAt": names[0], "TimeoutSeconds": 9000, "States": found} | members


def trained(*before, **members):
    return machine(*before, ("Train", train(**members)), ("Ended", ENDED))


def polled(ask, ways, default="Pause", name="$.now.TrainingJobStatus", start=None):
    """A job that is started, and asked about until it ends."""
    return machine(
        ("Start", start or train("aws-sdk:sagemaker:createTrainingJob")),
        ("Pause", {"Type": "Wait", "Seconds": 60}),
        ("Ask", ask),
        ("Which", choice(name, ways, default)),
    )


def asks(resource="aws-sdk:sagemaker:describeTrainingJob", name=None, **members):
    known = {"TrainingJobName.$": "States.Format('t-{}', States.Hash($$.Execution.Id, 'SHA-1'))"}
    sent = {"TrainingJobName": name} if name else known
    return task(resource, sent, ResultPath="$.now", **members)


LEFT = {"Completed": "Done", "Failed": "Broken", "Stopped": "Broken"}
BATCH = {"JobName": "sfm", "JobQueue": "q", "JobDefinition": "colmap"}
ECS = {"Cluster": "c", "TaskDefinition": "colmap"}
FORGIVES = [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Train"}]
STAGES = {
    "batch:submitJob": BATCH,
    "ecs:runTask": ECS,
    "glue:startJobRun": {"JobName": "sfm"},
    "states:startExecution": {"StateMachineArn": "arn:aws:states:eu-west-1:1:stateMachine:sfm"},
}
MAP = {
    "Type": "Map",
    "ItemsPath": "$.list",
    "ItemBatcher": {"MaxItemsPerBatch": 5, "BatchInput": {"to.$": "$.to"}},
    "ItemProcessor": machine(("Each", call("f", End=True, Parameters={
        "FunctionName": "f", "Payload": {"all.$": "$.Items", "to.$": "$.BatchInput.to"}})))
    | {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}},
}  # fmt: skip
MAP["ItemProcessor"].pop("TimeoutSeconds")
JSONATA = {
    "QueryLanguage": "JSONata",
    "StartAt": "Train",
    "TimeoutSeconds": 9000,
    "States": {
        "Train": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sagemaker:createTrainingJob.sync",
            "Arguments": {
                "TrainingJobName": "{% 'no name_' & $states.input.job %}",
                "HyperParameters": {"steps": "{% $states.input.steps %}"},
                "StoppingCondition": {"MaxRuntimeInSeconds": 7000},
            },
            "TimeoutSeconds": 600,
            "Next": "Ended",
        },
        "Ended": {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": "{% $states.input.TrainingJobStatus = 'Completed' %}",
                    "Next": "Done",
                }
            ],
            "Default": "Broken",
        },
        "Done": {"Type": "Succeed"},
        "Broken": FAIL,
    },
}
TUNE = {
    "HyperParameterTuningJobName": "always",
    "HyperParameterTuningJobConfig": {
        "Strategy": "Random",
        "ResourceLimits": {"MaxNumberOfTrainingJobs": "9", "MaxParallelTrainingJobs": 3},
    },
}

#: name: (definition, input, rule, state, words of the reason); rule "": nothing that is a *must*.
CASES = {
    "sound": (trained(), SENT, "", "", ""),
    "a function's answer replaces the state": (
        trained(("Note", call("note"))), SENT, "reference", "Train", "ExecutedVersion"),
    "an answer of DynamoDB replaces it": (
        trained(("Put", task("dynamodb:putItem", {"TableName": "t", "Item": {"k": {"S": "v"}}}))),
        SENT, "reference", "Train", "Attributes"),
    "what has no .sync answers an ARN alone": (
        machine(("Train", train("sagemaker:createTrainingJob")), ("Use", {
            "Type": "Pass", "InputPath": "$.trained.ModelArtifacts"})),
        SENT, "reference", "Use", "ModelArtifacts"),
    "a nested execution's output is text without :2": (
        machine(
            ("Sfm", task("states:startExecution.sync", STAGES["states:startExecution"],
                         ResultPath="$.sfm", TimeoutSeconds=9)),
            ("Use", {"Type": "Pass", "InputPath": "$.sfm.Output.scene"})),
        SENT, "reference", "Use", "has no members"),
    **{
        f"a failed {resource} goes on to training": (
            trained(("Sfm", task(f"{resource}.sync", sent, ResultPath=None, Catch=FORGIVES,
                                 TimeoutSeconds=60))),
            SENT, "failure-ends-in-fail", "Sfm", "SUCCEEDS")
        for resource, sent in STAGES.items()
    },
    "a failed function goes on to training": (
        trained(("Sfm", call("colmap", ResultPath="$.sfm", Catch=FORGIVES))),
        SENT, "failure-ends-in-fail", "Sfm", "SUCCEEDS"),
    **{
        f"nobody waits for {resource}": (
            trained(("Sfm", task(resource, sent, ResultPath=None))),
            SENT, "waits-for-job", "Sfm", "Train starts")
        for resource, sent in STAGES.items()
    },
    "a job that a function starts is asked about for ever": (
        polled(call("ask", ResultPath="$.now"), {"Completed": "Done", "Failed": "Broken"},
               name="$.now.Payload.TrainingJobStatus",
               start=call("start-training", ResultPath="$.begun")),
        None, "status-leaves-loop", "Which", "Stopped goes back to Pause"),
    "a failed job that a function started is well": (
        polled(call("ask", ResultPath="$.now"), {**LEFT, "Failed": "Done"},
               name="$.now.Payload.TrainingJobStatus",
               start=call("start-training", ResultPath="$.begun")),
        None, "failure-ends-in-fail", "Which", "Failed leads to Done"),
    "a batch job is asked about once it has failed": (
        polled(task("aws-sdk:batch:describeJobs", {"Jobs.$": "States.Array($.trained.JobId)"},
                    ResultPath="$.now"), {"SUCCEEDED": "Done"}, name="$.now.Jobs[0].Status",
               start=task("batch:submitJob", BATCH, ResultPath="$.trained", Catch=ALL)),
        {}, "status-leaves-loop", "Which", "FAILED"),
    "without a Wait": (
        machine(("Start", train("aws-sdk:sagemaker:createTrainingJob")), ("Ask", asks()),
                ("Which", choice("$.now.TrainingJobStatus", LEFT, "Ask"))),
        SENT, "poll", "Which", "without a Wait"),
    "no such integration": (
        polled(asks("sagemaker:describeTrainingJob"), LEFT),
        SENT, "integration", "Ask", "aws-sdk:"),
    "no .sync of the SDK": (
        trained(("S", task("aws-sdk:batch:submitJob.sync", BATCH, ResultPath=None))),
        SENT, "integration", "S", "no .sync"),
    "no .sync of a function": (
        trained(("S", task("lambda:invoke.sync", {"FunctionName": "f"}, ResultPath=None))),
        SENT, "integration", "S", "no .sync"),
    "no such service": (
        trained(("S", task("aws-sdk:sagemakerr:listModels", {}, ResultPath=None))),
        SENT, "integration", "S", "no service"),
    "no such action": (
        trained(("S", task("aws-sdk:s3:copyObjects", {}, ResultPath=None))),
        SENT, "integration", "S", "CopyObjects"),
    "what a service needs": (
        trained(("S", task("batch:submitJob.sync", {"JobName": "x", "JobQueue": "q"},
                           ResultPath=None, TimeoutSeconds=9))),
        SENT, "request", "S", "JobDefinition: missing"),
    "what a service does not know": (
        trained(("S", task("glue:startJobRun.sync", {"JobName": "x", "Argument": {}},
                           ResultPath=None, TimeoutSeconds=9))),
        SENT, "request", "S", "Argument: no such member"),
    "an input that leads past the job": (
        machine(("Go", choice("$.job", {"train": "Train"}, "Done")),
                ("Train", train(Parameters={"RoleArn": None})), ("Ended", ENDED)),
        SENT, "request", "Train", "RoleArn: missing"),
    "a key without .$": (
        trained(Parameters={"Environment": {"TO": "$.to"}}), SENT, "path-as-text", "Train", "TO.$"),
    "JSONata is read as far as it is known": (
        JSONATA, {"job": "x", "steps": 7}, "request", "Train", "7 is not of type string"),
    "JSONata that names nothing": (
        JSONATA, {"steps": "7"}, "request", "Train", "RoleArn"),
    "another job is asked about": (
        polled(asks(name="other"), LEFT, start=train("aws-sdk:sagemaker:createTrainingJob")),
        SENT, "reference", "Ask", "no job of this name"),
    "a tuning job is a job": (
        machine(("Tune", task("sagemaker:createHyperParameterTuningJob.sync", TUNE,
                              TimeoutSeconds=99))),
        {}, "request", "Tune", "'9' is not of type integer"),
    "a misspelt error of Step Functions": (
        trained(("S", call("f", ResultPath=None, Catch=[
            {"ErrorEquals": ["States.Timeoutt"], "Next": "Broken"}]))),
        SENT, "error-name", "S", "States.Timeout"),
    "an error that SageMaker does not have": (
        trained(Retry=[{"ErrorEquals": ["SageMaker.JobFailed"]}]),
        SENT, "error-name", "Train", "no such error"),
    "a catcher that another masks": (
        trained(("S", call("f", ResultPath=None, Catch=[
            {"ErrorEquals": ["States.TaskFailed"], "Next": "Broken"},
            {"ErrorEquals": ["Lambda.TooManyRequestsException"], "Next": "S"}]))),
        SENT, "error-name", "S", "never reached"),
    "a GPU that is hidden": (
        trained(Parameters={"Environment": {"CUDA_VISIBLE_DEVICES": ""}}),
        SENT, "environment", "Train", "hides every GPU"),
    "a secret in the environment": (
        trained(Parameters={"Environment": {"HF_TOKEN": "hf_abc"}}),
        SENT, "environment", "Train", "shows a secret"),
    "TimeoutSeconds below the wait for a spot instance": (
        trained(Parameters={"EnableManagedSpotTraining": True, "StoppingCondition": {
            "MaxRuntimeInSeconds": 1800, "MaxWaitTimeInSeconds": 7200}}),
        SENT, "timeout", "Train", "MaxWaitTimeInSeconds"),
    "a refused question is asked again": (
        polled(asks(Catch=[{"ErrorEquals": ["SageMaker.SageMakerException"], "ResultPath": None,
                            "Next": "Pause"}, *ALL]), LEFT), SENT, "", "", ""),
    "a function's refused question is asked again": (
        polled(call("ask", ResultPath="$.now", Catch=[{"ErrorEquals": [
            "Lambda.TooManyRequestsException"], "ResultPath": None, "Next": "Pause"}]),
            {"OVER": "Done", "LOST": "Broken"}, name="$.now.Payload.word",
            start=call("begin", ResultPath="$.begun")), None, "", "", ""),
    "a batch of items": (machine(("Map", MAP)), {"list": ["a", "b"], "to": "x"}, "", "", ""),
    "paths that Step Functions takes": (
        machine(("A", call("f", ResultPath="$.first-answer")), ("B", {
            "Type": "Pass", "ResultPath": "$.b", "Parameters": {
                "one.$": "$.first-answer.Payload.rows.[0].id", "all.$": "$..id",
                "count.$": "$.first-answer.Payload.rows.length()"}}),
            ("W", {"Type": "Wait", "SecondsPath": "$.first-answer.Payload.wait-for"}),
            ("C", {"Type": "Choice", "Choices": [{
                "Variable": "$.first-answer.Payload.n", "Next": "Done",
                "NumericLessThanPath": "$$.Execution.Input.most"}], "Default": "Broken"})),
        None, "", "", ""),
    "an array as input": (
        machine(("A", {"Type": "Pass", "Parameters": {"b.$": "$[0].body"}})), None, "", "", ""),
    "what the context object has is made up": (
        machine(("A", {"Type": "Pass", "Parameters": {
            "x.$": "States.ArrayGetItem(States.StringSplit($$.Execution.Id, ':'), 8)"}})),
        None, "", "", ""),
    "what tells nobody": (
        machine(
            ("A", task("aws-sdk:cloudwatch:deleteAlarms", {"AlarmNames": ["a"]})),
            ("B", call("build-slack-payload"))), None, "", "", ""),
    "a lookup that may fail": (
        trained(("There", task("aws-sdk:s3:headObject", {"Bucket": "b", "Key": "k"},
                               ResultPath="$.there", Catch=FORGIVES))), SENT, "", "", ""),
    "another way to do the same": (
        machine(("One", call("render-fast", ResultPath="$.r", Next="Done", Catch=[
            {"ErrorEquals": ["States.ALL"], "ResultPath": "$.e", "Next": "Two"}])),
            ("Two", call("render-slow", ResultPath="$.r"))), None, "", "", ""),
    "Stopped under .sync is not documented": (
        machine(("Train", train())), SENT, "", "", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named_and_nothing_else_is(name):
    definition, sent, rule, state, words = CASES[name]
    musts = [f for f in judge(Pipeline("x", definition, input=sent)).findings if f.level == "must"]
    told = [(f.rule, f.state, f.reason, f.ways) for f in musts]
    if not rule:
        assert told == []
    assert not rule or [t for t in told if t[:2] == (rule, state) and words in str(t)], told


def gaps(definition, sent=None):
    verdict = judge(Pipeline("x", definition, input=sent))
    return [f"{g.state}: {g.reason}" for g in verdict.not_verified]


@pytest.mark.parametrize(
    ("definition", "sent", "words"),
    [
        (CASES["an input that leads past the job"][0], SENT, "Train: no execution on this input"),
        (polled(call("ask", ResultPath="$.now"), {"OVER": "Done"}, name="$.now.Payload.word",
                start=call("begin", ResultPath="$.b")), None, "besides OVER"),
        (machine(("S", call("start-training-job"))), None, "S: it may start a job inside"),
        (machine(("S", task("batch:submitJob.sync", BATCH))), {}, "S: what its batch job runs"),
        (trained(), None, "Train: not known before an execution"),
        (machine(("S", {"Type": "Task", "Resource": "arn:aws:states:eu-west-1:1:activity:a"})),
         {}, "S: what arn:aws:states:eu-west-1:1:activity:a does is not known"),
        (JSONATA, None, "Train: not known before an execution"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_not_verified_by_name(definition, sent, words):
    assert [g for g in gaps(definition, sent) if words in g], gaps(definition, sent)


def test_one_cause_is_one_finding():
    """Three stages whose catchers all lead to what should have been a Fail state."""
    rows = [(f"S{n}", call(f"stage-{n}", ResultPath=None, Catch=ALL)) for n in range(3)]
    definition = trained(*rows)
    definition["States"]["Broken"] = {"Type": "Succeed"}
    (found,) = judge(Pipeline("x", definition)).of("failure-ends-in-fail")
    assert found.state == "S0"
    assert [w.partition(":")[0] for w in found.ways] == ["S1", "S2", "Train", "Train", "Train"]


def test_numbers_of_an_input_are_tried_as_text_and_the_reverse():
    definition = trained(Parameters={"HyperParameters": {"steps.$": "$.steps"}})
    verdict = judge(Pipeline("x", definition, input=SENT | {"steps": "9"}))
    assert [f.reason for f in verdict.findings if "when sent text as numbers" in f.reason]


def test_a_definition_over_a_megabyte_is_named():
    long = {"Type": "Pass", "Result": "x" * 200}
    many = {f"P{n}": long | {"Next": f"P{n + 1}"} for n in range(5000)}
    last = {"P5000": {"Type": "Succeed"}}
    verdict = judge(Pipeline("x", {"StartAt": "P0", "States": many | last}, input={}))
    assert [f.rule for f in verdict.findings if f.level == "must"] == ["size"]
