"""Jobs that a walk has started, and what services answer to a state machine's calls."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

from splatgate.pipeline.definition import Call
from splatgate.pipeline.expressions import UNKNOWN, Open, SomeText
from splatgate.pipeline.json_values import member
from splatgate.pipeline.services import OWN, Kind, botocore_name, operation
from splatgate.sagemaker.validate import model as model_of

#: Contract 1.3: how a container's own failure is worded.
REASON = "AlgorithmError: E_SCENE_POINTS too few points, exit code: 3"
STOPPING = "Stopping"
#: The secondary status of a training job at its end.
_SECONDARY = {"Completed": "Completed", "Failed": "Failed", "Stopped": "MaxRuntimeExceeded"}


@dataclass(frozen=True)
class Job:
    """A job that a walk has started."""

    kind: Kind
    state: str
    #: None: not known before an execution, or the service gives it an id.
    name: str | None
    #: How it ends.
    final: str
    #: Whether it ends well; ECS has one word for all ends.
    good: bool = True
    request: dict[str, Any] = field(default_factory=dict)
    #: How often something could have asked for its status.
    asked: int = 0
    #: Whether the machine knows how it ended.
    observed: bool = False

    @property
    def status(self) -> str:
        """What the service says when asked now: at first that it runs, or is being stopped."""
        before = self.kind.running[:1]
        before += (STOPPING,) if self.final == "Stopped" and self.kind.sagemaker else ()
        return before[max(self.asked, 1) - 1] if self.asked <= len(before) else self.final

    @functools.cached_property
    def reads(self) -> tuple[str, ...]:
        """S3 URIs that it reads."""
        return tuple(dict.fromkeys(_uris(self.request, ("InputDataConfig", "ProcessingInputs"))))

    @functools.cached_property
    def writes(self) -> tuple[str, ...]:
        """S3 URIs below which it writes, an archive last."""
        found = _uris(self.request, ("OutputDataConfig", "ProcessingOutputConfig"))
        return (*found, *((self.archive,) if self.archive else ()))

    @functools.cached_property
    def archive(self) -> str | None:
        """Where a training job's archive lies (contract 2.1), or None where it is not known."""
        output = self.request.get("OutputDataConfig")
        if self.kind.word != "training" or not isinstance(output, dict) or not self.name:
            return None
        path, packed = output.get("S3OutputPath"), output.get("CompressionType") != "NONE"
        if not isinstance(path, str):
            return None
        return f"{path.rstrip('/')}/{self.name}/output/{'model.tar.gz' if packed else 'model/'}"


def _uris(request: dict[str, Any], members: tuple[str, ...]) -> list[str]:
    found: list[str] = []

    def collect(value: Any) -> None:
        for key, inner in value.items() if isinstance(value, dict) else ():
            if key in ("S3Uri", "S3OutputPath") and isinstance(inner, str):
                found.append(inner)
            collect(inner)
        for inner in value if isinstance(value, list) else ():
            collect(inner)

    for name in members:
        collect(request.get(name))
    return found


_SDK = {"SdkHttpMetadata": UNKNOWN, "SdkResponseMetadata": UNKNOWN}


def describe(job: Job, status: str) -> dict[str, Any]:
    """What the service answers when asked about a job."""
    answer = _members(job.kind.model, job.kind.describe)
    *above, last = job.kind.status
    inner: Any = {last: status}
    if job.kind.sagemaker:
        answer.update({k: _opened(v) for k, v in job.request.items() if k in answer})
        answer |= {last: status, job.kind.name: job.name or UNKNOWN}
        answer["FailureReason"] = REASON if status == "Failed" else UNKNOWN
        if "SecondaryStatus" in answer:
            answer["SecondaryStatus"] = _SECONDARY.get(status, "Training")
        if "ModelArtifacts" in answer:
            answer["ModelArtifacts"] = {"S3ModelArtifacts": job.archive or UNKNOWN}
        return answer | _SDK
    for name in reversed(above):
        inner = Open(inner) if isinstance(inner, dict) else inner
        inner = [inner] if name == "0" else {name: inner}
    return answer | dict(inner) | _SDK


def finished(job: Job, call: Call) -> Any:
    """The result of a ``.sync`` state whose job ended well, or was stopped."""
    if job.kind.sagemaker:
        return describe(job, job.final)
    if job.kind.word == "execution":
        # .sync answers Output as text, .sync:2 as JSON.
        output = UNKNOWN if call.second else SomeText()
        return describe(job, job.final) | {"Output": output}
    *above, last = job.kind.status
    if job.kind.word in ("build", "query"):
        what = "Build" if job.kind.word == "build" else "QueryExecution"
        return {what: UNKNOWN} | _SDK
    return _members(job.kind.model, job.kind.describe, tuple(above)) | {last: job.final} | _SDK


def _opened(value: Any) -> Any:
    """A request's member as it comes back: with members that were not sent."""
    if isinstance(value, dict):
        return Open({k: _opened(v) for k, v in value.items()})
    return [_opened(v) for v in value] if isinstance(value, list) else value


def cause(job: Job) -> str:
    """The Cause of a failed ``.sync`` state: the job's description as a JSON string (7.4)."""
    if not job.kind.sagemaker:
        return json.dumps({"Status": job.final})
    known = {
        job.kind.name: job.name or "unknown",
        job.kind.status[-1]: job.final,
        "FailureReason": REASON if job.final == "Failed" else "",
    }
    return json.dumps(known)


def answer_of(call: Call | None) -> Any:
    """The answer of any other call: its members where they are documented, else nothing known."""
    if call is None or call.pattern == "waitForTaskToken":
        return UNKNOWN
    if call.service == "lambda":
        known = dict.fromkeys(("ExecutedVersion", "Payload", "StatusCode"), UNKNOWN) | _SDK
        return known if call.optimized else UNKNOWN
    if call.pattern or (call.optimized and call.service in OWN):
        return UNKNOWN
    model = botocore_name(call.service)
    if model is None or operation(model, call.operation) is None:
        return UNKNOWN
    members = _members(model, call.operation)
    return members | _SDK if members else UNKNOWN


def _members(model: str, name: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """Members of an operation's answer, or of what lies below it, of unknown values."""
    found = operation(model, name)
    shape = member(found, "output", "shape")
    return dict(_inside(model, shape, below)) if shape else {}


@functools.cache
def _inside(model: str, name: str, below: tuple[str, ...] = (), deep: int = 4) -> dict[str, Any]:
    """The members of a structure, of unknown values; structures inside it as well."""
    shapes = model_of(model)["shapes"]
    shape = shapes[name]
    if below and shape["type"] == "list":
        return _inside(model, shape["member"]["shape"], below[1:], deep)
    members = {n[:1].upper() + n[1:]: m["shape"] for n, m in shape["members"].items()}
    if below:
        return _inside(model, members[below[0]], below[1:], deep)
    return {
        n: _inside(model, inner, (), deep - 1)
        if deep and shapes[inner]["type"] == "structure" and shapes[inner]["members"]
        else UNKNOWN
        for n, inner in members.items()
    }
