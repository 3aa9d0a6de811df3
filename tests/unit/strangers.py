"""Writes the bundles of strangers.toml in the shapes in which people hand over what they saw."""

import csv
import io
import json
import pprint
import tarfile
import tomllib
import zipfile
from datetime import UTC, datetime
from pathlib import Path

TABLE = tomllib.loads(Path(__file__).with_name("strangers.toml").read_text())
NAME = "scan-17"
STREAM = f"{NAME}/algo-1-1733220065"
BEGIN = 1733220000.0


def _iso(seconds):
    return datetime.fromtimestamp(BEGIN + seconds, UTC).isoformat(timespec="milliseconds")


def _lines(entry):
    return [(5.0 * n, t) for n, t in enumerate(entry.get("log", "").strip("\n").splitlines())]


def _job(entry):
    status = entry.get("status", "Failed")
    reason = entry.get("reason", f"AlgorithmError: , exit code: {entry.get('exit', 1)}")
    return {
        "TrainingJobName": NAME,
        "TrainingJobArn": f"arn:aws:sagemaker:us-west-2:111122223333:training-job/{NAME}",
        "TrainingJobStatus": status,
        "SecondaryStatus": entry.get("secondary", status),
        **({"FailureReason": reason} if status == "Failed" else {}),
        "HyperParameters": {"iterations": "7000"},
        "AlgorithmSpecification": {
            "TrainingImage": "111122223333.dkr.ecr.us-west-2.amazonaws.com/gs:v41",
            "TrainingInputMode": "File",
        },
        "ResourceConfig": {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "CreationTime": _iso(-100),
        "TrainingStartTime": _iso(-20),
        "TrainingEndTime": _iso(5.0 * len(_lines(entry)) + 20),
    }


def _describe(entry):
    files = {"job.json": json.dumps(_job(entry), indent=4)}
    if _lines(entry):
        files["logs.json"] = json.dumps(
            {
                "events": [
                    {"timestamp": int((BEGIN + t) * 1000), "message": m, "ingestionTime": 1}
                    for t, m in _lines(entry)
                ],
                "nextForwardToken": "f/1",
            }
        )
    return files


def _plain(entry):
    return {"run.log": "\n".join(m for _, m in _lines(entry)) + "\n"}


def _tail(entry):
    rows = [f"{_iso(t)} {STREAM} {m}" for t, m in _lines(entry)]
    return {"describe.txt": json.dumps(_job(entry)), "tail.out": "\n".join(rows) + "\n"}


def _filter(entry):
    events = [
        {"logStreamName": STREAM, "timestamp": int((BEGIN + t) * 1000), "message": m + "\n"}
        for t, m in _lines(entry)
    ]
    found = {"events": events, "searchedLogStreams": []}
    return {"a": json.dumps(_job(entry)), "b": json.dumps(found)}


def _text(entry):
    rows = [
        f"EVENTS\t{int((BEGIN + t) * 1000) + 9}\t{m}\t{int((BEGIN + t) * 1000)}"
        for t, m in _lines(entry)
    ]
    return {"job.json": json.dumps(_job(entry)), "events.txt": "b/1\tf/1\n" + "\n".join(rows)}


def _rows(header, rows):
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue()


def _csv(entry):
    rows = [(int((BEGIN + t) * 1000), m) for t, m in _lines(entry)]
    return {"log-events-viewer-result.csv": _rows(("timestamp", "message"), rows)}


def _insights_csv(entry):
    rows = [(_iso(t)[:23].replace("T", " "), m) for t, m in reversed(_lines(entry))]
    table = _rows(("@timestamp", "@message"), rows)
    return {"logs-insights-results.csv": table, "j.json": json.dumps(_job(entry))}


def _insights(entry):
    rows = [
        [
            {"field": "@timestamp", "value": _iso(t)[:23].replace("T", " ")},
            {"field": "@message", "value": m},
            {"field": "@ptr", "value": "CmE="},
        ]
        for t, m in reversed(_lines(entry))
    ]
    found = {"results": rows, "statistics": {"recordsMatched": 3.0}, "status": "Complete"}
    return {"query.json": json.dumps(found), "job.json": json.dumps(_job(entry))}


def _events(entry):
    told = [{"type": "ExecutionStarted", "executionStartedEventDetails": {"input": "{}"}}]
    told += [{"type": "TaskStateEntered", "stateEnteredEventDetails": {"name": "Train 3DGS"}}]
    task = {"resourceType": "sagemaker", "resource": "createTrainingJob.sync"}
    if entry.get("status") == "Completed":
        told += [{"type": "TaskSucceeded", "taskSucceededEventDetails": {**task, "output": "{}"}}]
        told += [{"type": "ExecutionSucceeded", "executionSucceededEventDetails": {}}]
    else:
        words = {"error": entry["error"], "cause": entry["cause"]}
        kind = "TaskTimedOut" if entry["error"] == "States.Timeout" else "TaskFailed"
        told += [{"type": kind, f"{kind[0].lower()}{kind[1:]}EventDetails": {**task, **words}}]
        told += [{"type": "ExecutionFailed", "executionFailedEventDetails": words}]
    return [
        {"timestamp": BEGIN + n, "id": n + 1, "previousEventId": n, **event}
        for n, event in enumerate(told)
    ]


def _history(entry):
    return {"hist.json": json.dumps({"events": _events(entry)})}


def _history_array(entry):
    return {"exportedEvents.json": json.dumps(_events(entry))}


def _nested_cause(entry):
    cause = json.dumps(_job(entry))
    return _history({**entry, "error": "States.TaskFailed", "cause": cause})


def _yaml(entry):
    # `--output yaml` quotes with single quotes, doubled inside.
    rows = []
    for key, value in _job(entry).items():
        if isinstance(value, dict):
            rows += [f"{key}:", *(f"  {k}: {v}" for k, v in value.items())]
        else:
            rows.append(f"{key}: '{str(value).replace(chr(39), chr(39) * 2)}'")
    return {"job.yaml": "\n".join(rows) + "\n"}


def _table(entry):
    rows = ["-" * 60, "|  DescribeTrainingJob |", "+" + "-" * 20 + "+" + "-" * 30 + "+"]
    rows += [f"|  {k:24}|  {v}  |" for k, v in _job(entry).items() if isinstance(v, str)]
    return {"job.txt": "\n".join(rows) + "\n", **(_plain(entry) if _lines(entry) else {})}


def _eventbridge(entry):
    event = {
        "version": "0",
        "detail-type": "SageMaker Training Job State Change",
        "source": "aws.sagemaker",
        "time": "2024-12-03T10:00:00Z",
        "detail": _job(entry),
    }
    return {"event.json": json.dumps(event)}


def _truncated(entry):
    text = json.dumps(_job(entry), indent=4)
    cut = text[: text.index('"HyperParameters"') + 30]
    return {"job.json": cut, **_plain(entry)}


def _boto3(entry):
    job = {**_job(entry), "CreationTime": datetime(2024, 12, 3, tzinfo=UTC)}
    return {"response.txt": pprint.pformat(job), **_plain(entry)}


SHAPES = {
    "describe": _describe,
    "plain": _plain,
    "tail": _tail,
    "filter": _filter,
    "text": _text,
    "csv": _csv,
    "insights": _insights,
    "insights-csv": _insights_csv,
    "history": _history,
    "history-array": _history_array,
    "nested-cause": _nested_cause,
    "yaml": _yaml,
    "table": _table,
    "eventbridge": _eventbridge,
    "truncated": _truncated,
    "boto3": _boto3,
    "utf16": _tail,
    "zip": _tail,
    "tar": _filter,
}


def write(entry, folder):
    """Write one bundle; returns what to hand to `load`: a folder, an archive or a file."""
    shape = entry["shape"]
    files = SHAPES[shape](entry)
    folder.mkdir(parents=True, exist_ok=True)
    if shape == "zip":
        path = folder / "for support (2).zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(f"New folder/{name}", text)
        return path
    if shape == "tar":
        path = folder / "it.tgz"
        with tarfile.open(path, "w:gz") as archive:
            for name, text in files.items():
                info = tarfile.TarInfo(f"./tmp/x/{name}")
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
        return path
    # PowerShell's `>` writes UTF-16.
    encoding = "utf-16" if shape == "utf16" else "utf-8"
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1\0")
    for name, text in files.items():
        (folder / f"Untitled {name}").write_bytes(text.encode(encoding))
    return folder
