"""What can be wrong with a state machine, each known failure and trap and its neighbours."""

import pytest

from .test_pipeline import POLLED, REFERENCE, STYLES, edited, musts, request

#: What a Pass hands on in every execution.
CONSTANT = {"id": "scene", "prefix": "s3://splatgate-123456789012/runs/scene"}
#: A retrier of everything.
ANY = {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "MaxAttempts": 2}


def put(states, state, **members):
    for name, value in members.items():
        if value is None:
            states[state].pop(name)
        else:
            states[state][name] = value


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
        ("status-leaves-loop", "SfmDone"),
    ),
    "K42 the loop does not know Failed": (
        POLLED,
        lambda s, p: s["CompressDone"]["Choices"][1].update(
            Or=s["CompressDone"]["Choices"][1]["Or"][1:] * 2
        ),
        ("status-leaves-loop", "CompressDone"),
    ),
    "a status that is never said": (
        REFERENCE,
        lambda s, p: s["HasModel"]["Choices"][0].update(StringEquals="COMPLETED"),
        ("succeeds", "HasModel"),
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
        lambda s, p: s["Train"]["Retry"].append(ANY),
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
    "K38 a constant handed through a Pass": (
        REFERENCE,
        lambda s, p: put(s["NameRun"].pop("Parameters") and s, "NameRun", Result=CONSTANT),
        ("name-unique", "Train"),
    ),
    "K41 Stopping is taken for the end": (
        STYLES["poll-status"],
        lambda s, p: (
            s["Ended?"]["Choices"][0].update(Or=s["Ended?"]["Choices"][0]["Or"][:1] * 2),
            put(s, "Ended?", Default="Keep"),
        )[:0],
        ("failure-ends-in-fail", "Start"),
    ),
    "K41 a branch's failure that nobody asks about": (
        STYLES["parallel-branches"],
        lambda s, p: s["All?"]["Choices"][0]["And"].pop() and None,
        ("failure-ends-in-fail", "Train right"),
    ),
    "a token that nobody is given": (
        STYLES["cdk"],
        lambda s, p: s["Approve"]["Parameters"]["MessageBody"].pop("token.$") and None,
        ("asl", "Approve"),
    ),
    "a heartbeat longer than the limit": (
        STYLES["cdk"],
        lambda s, p: put(s, "Approve", HeartbeatSeconds=90000),
        ("asl", "Approve"),
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
    "K38 one name for two jobs": ("reference",),
    "K37 no .sync": ("asl",),
    "K37 asked once": ("asl",),
    "a catch starts the same job again": ("name-unique",),
    "a loop sends the same name again": ("retry-algorithm-error",),
    "every execution has the same name": ("permission",),
    "trap 21 an underscore": ("permission",),
    "trap 24 a key for an instance store": ("permission",),
}
