"""What services answer to a state machine's calls, as far as it is known before they are made."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

from splatgate.pipeline.definition import Call, Kind
from splatgate.pipeline.template import UNKNOWN, Open
from splatgate.sagemaker.validate import members_of_answer

#: Services whose calls and answers are held against their models; in others' a member may be text
#: or an object, as Step Functions converts it.
MODELLED = ("sagemaker", "sns", "sqs")
#: How a SageMaker job can end (service model), with the secondary status of a training job.
ENDS = {"Completed": "Completed", "Failed": "Failed", "Stopped": "MaxRuntimeExceeded"}
RUNNING, STOPPING = "InProgress", "Stopping"
#: Contract 1.3: how a container's own failure is worded.
REASON = "AlgorithmError: E_SCENE_POINTS too few points, exit code: 3"


@dataclass(frozen=True)
class Job:
    """A job that the walk has started."""

    kind: Kind
    state: str
    #: None: not known before an execution.
    name: str | None
    #: How it ends.
    final: str
    request: dict[str, Any] = field(default_factory=dict)
    #: How often something could have asked for its status.
    asked: int = 0
    #: Whether the machine knows how it ended.
    observed: bool = False

    @property
    def status(self) -> str:
        """What the service says when asked now: at first that it runs, or is being stopped."""
        before = (RUNNING, STOPPING) if self.final == "Stopped" else (RUNNING,)
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

    for member in members:
        collect(request.get(member))
    return found


def describe(job: Job, status: str) -> dict[str, Any]:
    """What Describe…Job answers, and a ``.sync`` state's result."""
    answer: dict[str, Any] = dict.fromkeys(members_of_answer(job.kind.describe), UNKNOWN)
    answer.update({k: _opened(v) for k, v in job.request.items() if k in answer})
    answer[job.kind.status] = status
    answer[job.kind.name] = job.name or UNKNOWN
    answer["FailureReason"] = REASON if status == "Failed" else UNKNOWN
    if "SecondaryStatus" in answer:
        answer["SecondaryStatus"] = ENDS.get(status, "Training")
    if "ModelArtifacts" in answer:
        answer["ModelArtifacts"] = Open({"S3ModelArtifacts": job.archive or UNKNOWN})
    return answer | _SDK


_SDK = {"SdkHttpMetadata": UNKNOWN, "SdkResponseMetadata": UNKNOWN}


def _opened(value: Any) -> Any:
    """A request's member as it comes back: with members that were not sent."""
    if isinstance(value, dict):
        return Open({k: _opened(v) for k, v in value.items()})
    return [_opened(v) for v in value] if isinstance(value, list) else value


def cause(job: Job, status: str) -> str:
    """The Cause of a failed ``.sync`` state: the job's description as a JSON string (7.4)."""
    known = {
        job.kind.name: job.name or "unknown",
        job.kind.status: status,
        "FailureReason": REASON if status == "Failed" else "",
    }
    return json.dumps(known)


def other(call: Call | None) -> Any:
    """The answer of any other call: its members where they are documented, else nothing known."""
    if call is not None and call.service in MODELLED and call.pattern == "":
        return _modelled(call.service, call.operation)
    return UNKNOWN


@functools.cache
def _modelled(service: str, operation: str) -> Any:
    members = members_of_answer(operation, service)
    return dict.fromkeys(members, UNKNOWN) | _SDK if members else UNKNOWN
