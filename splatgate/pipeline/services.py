"""What Step Functions can call, which calls start a job, and what a service takes.

Sources: Step Functions Developer Guide, "Integrating services", "Optimized integrations"; the
service models of the locked botocore. Members are spelled as Step Functions spells them: with a
capital, also where the API has none.
"""

from __future__ import annotations

import functools
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from splatgate.pipeline.definition import Call
from splatgate.pipeline.expressions import UNKNOWN, Open
from splatgate.sagemaker.validate import model as model_of


@dataclass(frozen=True)
class Kind:
    """A kind of job: the calls that start it and ask about it, and how it can end."""

    word: str
    service: str
    #: As botocore spells the service.
    model: str
    create: str
    describe: str
    #: The request's member that names a job for ever; "": the service gives it an id.
    name: str
    #: Where the answer to ``describe`` has the status, the members of a list as text of digits.
    status: tuple[str, ...]
    running: tuple[str, ...]
    good: str
    #: Other ends, a failure first.
    bad: tuple[str, ...]

    @property
    def sagemaker(self) -> bool:
        """Whether SageMaker runs it."""
        return self.service == "sagemaker"

    @property
    def words(self) -> tuple[str, ...]:
        """Every status."""
        return (*self.running, self.good, *self.bad)


def _sagemaker(word: str, kind: str) -> Kind:
    names = (f"Create{kind}Job", f"Describe{kind}Job", f"{kind}JobName", (f"{kind}JobStatus",))
    return Kind(
        word, "sagemaker", "sagemaker", *names, ("InProgress",), "Completed", ("Failed", "Stopped")
    )


KINDS: tuple[Kind, ...] = (
    *(_sagemaker(kind.lower(), kind) for kind in ("Training", "Processing", "Transform")),
    _sagemaker("tuning", "HyperParameterTuning"),
    Kind("batch", "batch", "batch", "SubmitJob", "DescribeJobs", "", ("Jobs", "0", "Status"),
         ("RUNNING",), "SUCCEEDED", ("FAILED",)),
    Kind("ecs", "ecs", "ecs", "RunTask", "DescribeTasks", "", ("Tasks", "0", "LastStatus"),
         ("RUNNING",), "STOPPED", ("STOPPED",)),
    Kind("glue", "glue", "glue", "StartJobRun", "GetJobRun", "", ("JobRun", "JobRunState"),
         ("RUNNING",), "SUCCEEDED", ("FAILED", "TIMEOUT", "STOPPED", "ERROR", "EXPIRED")),
    Kind("execution", "states", "stepfunctions", "StartExecution", "DescribeExecution", "",
         ("Status",), ("RUNNING",), "SUCCEEDED", ("FAILED", "TIMED_OUT", "ABORTED")),
    Kind("build", "codebuild", "codebuild", "StartBuild", "BatchGetBuilds", "",
         ("Builds", "0", "BuildStatus"), ("IN_PROGRESS",), "SUCCEEDED",
         ("FAILED", "FAULT", "TIMED_OUT", "STOPPED")),
    Kind("query", "athena", "athena", "StartQueryExecution", "GetQueryExecution", "",
         ("QueryExecution", "Status", "State"), ("RUNNING",), "SUCCEEDED", ("FAILED", "CANCELLED")),
)  # fmt: skip
#: What a service is called in a Resource, where an SDK integration calls it otherwise.
_SAME = {"sfn": "states", "eventbridge": "events"}


@functools.cache
def starts(call: Call | None) -> Kind | None:
    """The kind of job that a call starts."""
    return _kind(call, "create")


@functools.cache
def asks_about(call: Call | None) -> Kind | None:
    """The kind of job that a call asks about."""
    return _kind(call, "describe")


def _kind(call: Call | None, verb: str) -> Kind | None:
    if call is None:
        return None
    service = _SAME.get(call.service, call.service)
    found = (k for k in KINDS if k.service == service and getattr(k, verb) == call.operation)
    return next(found, None)


_ALL = ("", "sync", "waitForTaskToken")
#: Optimized integrations: what they can call, and the patterns besides request and response.
OPTIMIZED: dict[str, tuple[str, tuple[str, ...]]] = {
    "apigateway": ("Invoke", ("waitForTaskToken",)),
    "athena": (
        "StartQueryExecution StopQueryExecution GetQueryExecution GetQueryResults",
        ("sync",),
    ),
    "batch": ("SubmitJob", ("sync",)),
    "bedrock": ("InvokeModel CreateModelCustomizationJob", _ALL),
    "codebuild": (
        "StartBuild StopBuild BatchDeleteBuilds BatchGetReports StartBuildBatch StopBuildBatch "
        "RetryBuildBatch DeleteBuildBatch BatchGetBuilds BatchGetBuildBatches",
        ("sync",),
    ),
    "databrew": ("StartJobRun", ("sync",)),
    "dynamodb": ("GetItem PutItem DeleteItem UpdateItem", ()),
    "ecs": ("RunTask", ("sync", "waitForTaskToken")),
    "eks": (
        "CreateCluster DeleteCluster CreateFargateProfile DeleteFargateProfile CreateNodegroup "
        "DeleteNodegroup RunJob Call",
        _ALL,
    ),
    "elasticmapreduce": (
        "CreateCluster SetClusterTerminationProtection TerminateCluster AddStep CancelStep "
        "ModifyInstanceFleetByName ModifyInstanceGroupByName",
        ("sync",),
    ),
    "emr-containers": ("CreateVirtualCluster DeleteVirtualCluster StartJobRun", ("sync",)),
    "emr-serverless": (
        "CreateApplication DeleteApplication StartApplication StopApplication StartJobRun "
        "CancelJobRun",
        ("sync",),
    ),
    "events": ("PutEvents", ("waitForTaskToken",)),
    "glue": ("StartJobRun", ("sync",)),
    "http": ("Invoke", ()),
    "lambda": ("Invoke", ("waitForTaskToken",)),
    "mediaconvert": ("CreateJob", ("sync",)),
    "sagemaker": (
        "CreateEndpoint CreateEndpointConfig CreateHyperParameterTuningJob CreateLabelingJob "
        "CreateModel CreateProcessingJob CreateTrainingJob CreateTransformJob UpdateEndpoint",
        ("sync",),
    ),
    "sns": ("Publish", ("waitForTaskToken",)),
    "sqs": ("SendMessage", ("waitForTaskToken",)),
    "states": ("StartExecution", ("sync", "waitForTaskToken")),
}
#: Of these `.sync` is there for some calls only.
_SYNCS = {
    "athena": "StartQueryExecution",
    "codebuild": "StartBuild StartBuildBatch RetryBuildBatch",
    "bedrock": "CreateModelCustomizationJob",
    "eks": OPTIMIZED["eks"][0].replace(" Call", ""),
    "elasticmapreduce": "CreateCluster TerminateCluster AddStep",
    "sagemaker": "CreateHyperParameterTuningJob CreateLabelingJob CreateProcessingJob "
    "CreateTrainingJob CreateTransformJob",
}
#: Their members are Step Functions' own, not those of a service's model.
OWN = ("apigateway", "http", "eks", "elasticmapreduce", "bedrock")


def refused(call: Call) -> str | None:
    """Why CreateStateMachine refuses a Resource, or None."""
    word = call.operation[:1].lower() + call.operation[1:]
    if not call.optimized and call.service == "lambda" and call.operation == "Invoke":
        return None
    if call.optimized:
        known = OPTIMIZED.get(call.service)
        sdk = f"aws-sdk:{_sdk_name(call.service)}:{word}"
        if known is None or call.operation not in known[0].split():
            there = botocore_name(call.service) is not None
            instead = f"; write {sdk}" if there and not call.pattern else ""
            return f"Step Functions has no integration {call.service}:{word}{instead}"
        syncs = _SYNCS.get(call.service, known[0]).split()
        if call.pattern not in ("", *known[1]) or (
            call.pattern == "sync" and call.operation not in syncs
        ):
            return f"{call.service}:{word} has no .{call.pattern}; wait in another way"
        return None
    if call.pattern == "sync":
        return f"aws-sdk:{call.service}:{word} has no .sync; only optimized integrations have"
    model = botocore_name(call.service)
    if model is None:
        return f"AWS has no service {call.service!r} (aws-sdk:{call.service}:…)"
    if operation(model, call.operation) is None:
        return f"{call.service} has no {call.operation}"
    return None


def _sdk_name(service: str) -> str:
    return {"states": "sfn", "events": "eventbridge"}.get(service, service)


#: SDK names whose folder of botocore has another name, whatever stands between its words.
_FOLDERS = {
    "sfn": "stepfunctions", "states": "stepfunctions", "eventbridge": "events",
    "cloudwatchlogs": "logs", "cloudwatchevents": "events", "elasticmapreduce": "emr",
    "cognitoidentityprovider": "cognito-idp", "costexplorer": "ce",
    "databasemigration": "dms", "elasticloadbalancing": "elb", "elasticloadbalancingv2": "elbv2",
    "elasticsearch": "es", "iotdataplane": "iot-data", "sagemakerruntime": "sagemaker-runtime",
    "resourcegroupstaggingapi": "resourcegroupstaggingapi",
}  # fmt: skip


@functools.cache
def botocore_name(service: str) -> str | None:
    """The name in botocore of a service as a Resource calls it, or None where there is none."""
    if service in _FOLDERS:
        return _FOLDERS[service]
    found = find_spec("botocore")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "data"
    names = {p.name.replace("-", ""): p.name for p in folder.iterdir() if p.is_dir()}
    if (name := names.get(service.replace("-", ""))) is not None:
        return name
    # As the SDK for Java names it: by the model's serviceId.
    for path in folder.glob("*/*/service-2.json.gz"):
        with gzip.open(path) as file:
            named = re.search(rb'"serviceId":"([^"]+)"', file.read(3000))
        word = re.sub(r"[^a-z0-9]", "", named[1].decode().lower()) if named else ""
        if service in (word, word.removesuffix("service")):
            return path.parent.parent.name
    return None


def operation(model: str, name: str) -> dict[str, Any] | None:
    """An operation of botocore's model of a service; Step Functions minds no capitals."""
    operations: dict[str, dict[str, Any]] = model_of(model)["operations"]
    if name in operations:
        return operations[name]
    return next((o for n, o in operations.items() if n.lower() == name.lower()), None)


def unfit(call: Call, sent: dict[str, Any]) -> list[str]:
    """Members of a request that a service does not have or lacks, as ``path: reason``.

    Types of other services than SageMaker are left alone: Step Functions converts some.
    """
    model = botocore_name(call.service)
    if call.service == "lambda" and not call.optimized:
        return []  # a function's own ARN takes any payload
    if model is None or (call.optimized and call.service in OWN):
        return []
    found = operation(model, call.operation)
    if found is None or "input" not in found:
        return []
    shapes = model_of(model)["shapes"]
    errors = _unfit(shapes, shapes[found["input"]["shape"]], sent, "", 0)
    # A value of DynamoDB may be written as it is, without its type.
    return [f for f in errors if model != "dynamodb" or "not of type structure" not in f]


def _unfit(shapes: Any, shape: Any, value: Any, path: str, depth: int) -> Iterator[str]:
    if value is UNKNOWN or isinstance(value, Open) or depth > 12:
        return
    kind = shape["type"]
    wanted = {"structure": dict, "map": dict, "list": list}.get(kind)
    if wanted and not isinstance(value, wanted):
        yield f"{path or 'request'}: {value!r} is not of type {kind}"
    elif kind == "structure" and isinstance(value, dict) and not shape.get("document"):
        members = {n[:1].upper() + n[1:]: (n, m) for n, m in shape["members"].items()}
        for name in shape.get("required", ()):
            shown = name[:1].upper() + name[1:]
            if shown not in value and not members[shown][1].get("idempotencyToken"):
                yield f"{_at(path, shown)}: missing"
        for name, inner in value.items():
            if name not in members:
                near = next((m for m in members if m.lower() == name.lower()), None)
                yield f"{_at(path, name)}: no such member" + (f"; {near}" if near else "")
            else:
                target = shapes[members[name][1]["shape"]]
                yield from _unfit(shapes, target, inner, _at(path, name), depth + 1)
    elif kind == "list" and isinstance(value, list):
        for number, inner in enumerate(value):
            target = shapes[shape["member"]["shape"]]
            yield from _unfit(shapes, target, inner, f"{path}[{number}]", depth + 1)
    elif kind == "map" and isinstance(value, dict):
        for name, inner in value.items():
            target = shapes[shape["value"]["shape"]]
            yield from _unfit(shapes, target, inner, f"{path}[{name!r}]", depth + 1)


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def errors_of(call: Call) -> frozenset[str] | None:
    """The names after the dot of the errors that a call documents, or None where not known."""
    model = botocore_name(call.service)
    if model is None:
        return None
    # Java appends Exception to a name that does not end so.
    names = (n for n, s in model_of(model)["shapes"].items() if s.get("exception"))
    bare = (n.removesuffix("Exception").removesuffix("Fault") for n in names)
    return frozenset(f"{n}Exception" for n in bare)


_RUNS = re.compile(
    r"(?i)progress|pending|running|submit|start|queue|creating|provision|stopping|waiting|schedul|"
    r"runnable|cancel(l)?ing|initial|processing|accepted"
)
_BAD = re.compile(
    r"(?i)fail|error|abort|cancel(l)?ed|stopped|time_?d?_?out|expired|rejected|terminated|fault"
)
_GOOD = re.compile(r"(?i)succ|complete|available|active|inservice|in_service|ready|finished")


def kind_by_model(call: Call, path: list[str]) -> Kind | None:
    """The kind of job whose status lies at a path of an answer, by the model's own values."""
    model = botocore_name(call.service)
    found = operation(model, call.operation) if model else None
    if model is None or found is None or "output" not in found or not path:
        return None
    shapes = model_of(model)["shapes"]
    shape = shapes[found["output"]["shape"]]
    for name in path:
        if shape["type"] == "list":
            shape = shapes[shape["member"]["shape"]]
        if not name.isdigit():
            members = {n.lower(): m["shape"] for n, m in shape.get("members", {}).items()}
            if name.lower() not in members:
                return None
            shape = shapes[members[name.lower()]]
    words = [str(w) for w in shape.get("enum", ())]
    running = tuple(w for w in words if _RUNS.search(w))
    bad = tuple(w for w in words if w not in running and _BAD.search(w))
    good = [w for w in words if w not in (*running, *bad) and _GOOD.search(w)]
    if not (running and bad and good):
        return None
    return Kind(call.service, call.service, model, "", call.operation, "", (path[-1],), running,
                good[0], bad)  # fmt: skip
