"""Writes the bundles of bundles.toml in the shapes that the AWS CLI prints."""

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path

TABLE = tomllib.loads(Path(__file__).with_name("bundles.toml").read_text())
ACCOUNT = "975050048887"
BEGIN = datetime(2024, 12, 3, 10, 0, tzinfo=UTC).timestamp()
IMAGE = f"{ACCOUNT}.dkr.ecr.us-west-2.amazonaws.com/spaceport/3dgs:latest"


def at(seconds):
    return datetime.fromtimestamp(BEGIN + seconds, UTC).isoformat()


def training(entry, name="scan-17-3dgs", spent=780):
    """`aws sagemaker describe-training-job`."""
    status = entry.get("status", "Failed")
    reason = entry.get("reason")
    if reason is None and status == "Failed":
        reason = f"AlgorithmError: , exit code: {entry.get('exit', 1)}"
    spent = max([spent, *[t + 10 for t in entry.get("times", [])]])
    return {
        "TrainingJobName": name,
        "TrainingJobArn": f"arn:aws:sagemaker:us-west-2:{ACCOUNT}:training-job/{name}",
        "TrainingJobStatus": status,
        "SecondaryStatus": entry.get("secondary", status),
        **({"FailureReason": reason} if reason else {}),
        "HyperParameters": {"max_iterations": "7000", **entry.get("hyperparameters", {})},
        "AlgorithmSpecification": {
            "TrainingImage": entry.get("image", IMAGE),
            "TrainingInputMode": "File",
        },
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/SageMaker",
        "InputDataConfig": [
            {
                "ChannelName": "training",
                "DataSource": {
                    "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://scans/job-17/colmap/"}
                },
            }
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://scans/job-17/3dgs/"},
        "ResourceConfig": {
            "InstanceType": "ml.g4dn.xlarge",
            "InstanceCount": 1,
            "VolumeSizeInGB": 50,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 7200},
        "CreationTime": at(0),
        "TrainingStartTime": at(60),
        "TrainingEndTime": at(spent),
        "SecondaryStatusTransitions": [
            {
                "Status": "Starting",
                "StartTime": at(0),
                "EndTime": at(60),
                "StatusMessage": "Preparing",
            },
            {"Status": "Training", "StartTime": at(60), "EndTime": at(spent), "StatusMessage": ""},
        ],
    }


def events(entry, start=65):
    """`aws logs get-log-events`."""
    lines = entry.get("log", "").strip("\n").splitlines()
    times = entry.get("times") or [5 * n for n in range(len(lines))]
    return {
        "events": [
            {"timestamp": int((BEGIN + start + t) * 1000), "message": line, "ingestionTime": 0}
            for t, line in zip(times, lines, strict=True)
        ],
        "nextForwardToken": "f/1",
        "nextBackwardToken": "b/1",
    }


class History:
    """`aws stepfunctions get-execution-history`."""

    def __init__(self):
        self.events = []

    def add(self, kind, seconds, **details):
        name = kind[0].lower() + kind[1:] + "EventDetails"
        name = "stateEnteredEventDetails" if kind.endswith("StateEntered") else name
        number = len(self.events) + 1
        event = {
            "timestamp": at(seconds),
            "type": kind,
            "id": number,
            "previousEventId": number - 1,
        }
        self.events.append({**event, **({name: details} if details else {})})
        return self


def history(entry, job):
    kind = entry.get("kind")
    told = History().add("ExecutionStarted", -700, input="{}")
    sync = {"resourceType": "sagemaker", "resource": "createTrainingJob.sync"}
    if kind == "create-failed":
        told.add("TaskStateEntered", 0, name="3DGSTraining")
        told.add("TaskFailed", 1, **sync, error=entry["error"], cause=entry["cause"])
        told.add("ExecutionFailed", 2, error=entry["error"], cause=entry["cause"])
    elif kind == "no-wait":
        told.add("TaskStateEntered", 0, name="3DGSTraining")
        told.add("TaskScheduled", 1, resourceType="sagemaker", resource="createTrainingJob")
        told.add("TaskSucceeded", 2, resourceType="sagemaker", resource="createTrainingJob")
        told.add("TaskStateEntered", 3, name="Compression")
        told.add("TaskScheduled", 4, resourceType="sagemaker", resource="createProcessingJob.sync")
        told.add("TaskFailed", 200, resourceType="sagemaker", error="States.TaskFailed", cause="{}")
        told.add("ExecutionFailed", 201, error="States.TaskFailed", cause="no model")
    elif kind == "masked":
        told.add("TaskStateEntered", 0, name="3DGSTraining")
        cause = json.dumps({k: job[k] for k in ("TrainingJobName", "FailureReason")})
        told.add("TaskFailed", 780, **sync, error="States.TaskFailed", cause=cause)
        told.add("TaskStateEntered", 781, name="NotifyError")
        told.add("TaskSucceeded", 782, resourceType="lambda", resource="invoke")
        told.add("ExecutionSucceeded", 783, output="{}")
    elif kind == "polls":
        for n in range(30):
            told.add("TaskStateEntered", 60 * n, name="CheckTraining")
            told.add("WaitStateEntered", 60 * n + 1, name="Wait")
    elif kind == "timed-out":
        told.add("TaskStateEntered", 0, name="3DGSTraining")
        parameters = json.dumps({"StoppingCondition": {"MaxRuntimeInSeconds": 7200}})
        told.add("TaskScheduled", 1, **sync, parameters=parameters, timeoutInSeconds=7200)
        told.add("TaskTimedOut", 7201, **sync, error="States.Timeout")
        told.add("ExecutionFailed", 7202, error="States.Timeout")
    elif kind == "told":
        told.add("TaskStateEntered", 0, name="Start")
        output = json.dumps({"Payload": {"errorDetails": entry["told"]}})
        told.add("TaskSucceeded", 1, resourceType="lambda", resource="invoke", output=output)
        told.add("ChoiceStateEntered", 2, name="Running?")
        told.add("ExecutionFailed", 3, error=entry["error"], cause=entry["cause"])
    elif kind == "retried":
        throttled = {"error": "SageMaker.AmazonSageMakerException", "cause": "Rate exceeded"}
        told.add("TaskStateEntered", 0, name="3DGSTraining")
        told.add("TaskScheduled", 1, resourceType="sagemaker", resource="createTrainingJob")
        told.add("TaskFailed", 2, resourceType="sagemaker", **throttled)
        told.add("TaskScheduled", 3, resourceType="sagemaker", resource="createTrainingJob")
        told.add("TaskSucceeded", 4, resourceType="sagemaker", output="{}")
        told.add("ExecutionSucceeded", 5, output="{}")
    else:
        return None
    return {"events": told.events}


def write(entry, folder):
    """Write one bundle; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = entry.get("kind")

    def put(name, value):
        (folder / name).write_text(json.dumps(value, indent=1))

    job = training(entry)
    stream = job["TrainingJobName"]
    if kind == "compression":
        put("describe-training-job.json", training({"status": "Completed"}))
        put("training-log.json", events({"log": entry.get("before", TABLE["good"]["log"])}))
        stream = "scan-17-compress"
        put(
            "describe-processing-job.json",
            {
                "ProcessingJobName": stream,
                "ProcessingJobStatus": "Failed",
                "FailureReason": entry.get(
                    "reason", "AlgorithmError: See job logs for more information"
                ),
                "AppSpecification": {"ContainerEntrypoint": ["python3", "compress.py"]},
                "ProcessingStartTime": at(900),
                "ProcessingEndTime": at(1000),
            },
        )
    elif kind not in ("create-failed", "timed-out", "no-wait", "told", "retried"):
        put("describe-training-job.json", job)
    if listed := entry.get("listing"):
        put("listing.json", {"Contents": [{"Key": key, "Size": 9} for key in listed]})
    if entry.get("log"):
        start = 905 if kind == "compression" else 65
        put(f"{stream}_algo-1-1733220065.json", events(entry, start))
    if (told := history(entry, job)) is not None:
        put("execution-history.json", told)
        status = {"masked": "SUCCEEDED", "retried": "SUCCEEDED", "polls": "TIMED_OUT"}.get(
            kind, "FAILED"
        )
        arn = f"arn:aws:states:us-west-2:{ACCOUNT}:execution:SpaceportMLPipeline:prod-17"
        put("execution.json", {"executionArn": arn, "name": "prod-17", "status": status})
    return folder
