"""What is known of a failed job or execution: the model that a bundle is read into (``load.py``).

Any member may be of another type than it should: then it counts as absent. What can be quoted is
flattened into ``Statement``\\ s, in the order in which it happened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from splatgate.diagnose.shapes import cut, moment, parsed
from splatgate.sagemaker.result import REASON_LIMIT

#: Where a service says that a job ended otherwise than well, and well.
BAD_ENDS = ("Failed", "Stopped", "FAILED", "TIMED_OUT", "ABORTED")
GOOD_ENDS = ("Completed", "SUCCEEDED", "exit 0")
#: What a stage does, by words in the name of its job or its image, or in the paths of its program.
ROLES = (
    ("compression", re.compile(r"(?i)compress|sogs|\bsog\b|ksplat|spz")),
    ("sfm", re.compile(r"(?i)sfm|colmap|glomap|opensfm|odm\b|photogrammetry|reconstruct")),
)


def mapping(value: Any) -> dict[str, Any]:
    """The value where it is an object, and else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[dict[str, Any]]:
    """The objects in a value that is a list."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def text(value: Any) -> str:
    """The value where it is a scalar, as text, and else nothing."""
    return str(value) if isinstance(value, str | int | float) else ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that something said: a line of a log, a failure text, an event of a history."""

    #: ``log``, ``reason`` (of a job), ``status`` (of a transition), ``history``
    kind: str
    #: What to open, and where: ``describe-training-job.json FailureReason``, ``log.txt:17``.
    source: str
    text: str
    #: Seconds since 1970, or None.
    at: float | None = None
    #: The job or state that said it, or "".
    stage: str = ""

    @property
    def origin(self) -> str:
        """The file or stream that it comes from."""
        return self.source.rpartition(":")[0] or self.source


@dataclass(frozen=True)
class SeenJob:
    """A training or processing job, as its describe call shows it."""

    name: str
    kind: str
    source: str
    raw: Mapping[str, Any]

    @property
    def status(self) -> str:
        """TrainingJobStatus or ProcessingJobStatus."""
        return text(self.raw.get(f"{self.kind}JobStatus"))

    @property
    def secondary(self) -> str:
        """SecondaryStatus."""
        return text(self.raw.get("SecondaryStatus"))

    @property
    def reason(self) -> str:
        """FailureReason, or what a processing job's container said at its exit."""
        found = text(self.raw.get("FailureReason")) or text(self.raw.get("ExitMessage"))
        return found[: 4 * REASON_LIMIT]

    @property
    def mute(self) -> bool:
        """Whether the failure text holds no more than a status."""
        pattern = r"(?is)\s*(AlgorithmError:?)?[\s,:]*(ExecuteUserScriptError:?)?[\s,:]*"
        pattern += r"(ExitCode \d+)?\s*(ErrorMessage \"\")?\s*(Command \"[^\"]*\")?"
        pattern += r"(See job logs for more information)?[\s,.]*(exit code:? ?-?\d+)?\s*"
        return re.fullmatch(pattern, self.reason) is not None

    @property
    def sent(self) -> dict[str, str]:
        """HyperParameters and Environment, names in lower case with ``_``, not a service's own."""
        own = ("sagemaker_", "_")
        sent = mapping(self.raw.get("HyperParameters"))
        both = mapping(self.raw.get("Environment")) | {
            k: v for k, v in sent.items() if not k.startswith(own)
        }
        return {k.lower().replace("-", "_"): str(v).strip('"') for k, v in both.items()}

    @property
    def _container(self) -> dict[str, Any]:
        return mapping(self.raw.get("AlgorithmSpecification") or self.raw.get("AppSpecification"))

    @property
    def image(self) -> str:
        """The image's reference."""
        own = self._container
        return text(
            own.get("TrainingImage") or own.get("ImageUri") or self.raw.get("TrainingImage")
        )

    @property
    def entrypoint(self) -> list[str]:
        """ContainerEntrypoint and ContainerArguments, where the request has them."""
        words = (self._container.get(f"Container{part}") for part in ("Entrypoint", "Arguments"))
        return [str(w) for part in words if isinstance(part, list) for w in part]

    @property
    def instance(self) -> str:
        """InstanceType."""
        where = self.raw.get("ResourceConfig")
        where = where or mapping(self.raw.get("ProcessingResources")).get("ClusterConfig")
        return text(mapping(where).get("InstanceType") or self.raw.get("InstanceType"))

    @property
    def channels(self) -> dict[str, str]:
        """Each channel's S3Uri by its name."""
        return {
            text(c.get("ChannelName")): text(
                mapping(mapping(c.get("DataSource")).get("S3DataSource")).get("S3Uri")
            )
            for c in items(self.raw.get("InputDataConfig"))
        }

    @property
    def limit(self) -> int | None:
        """MaxRuntimeInSeconds, or None."""
        value = mapping(self.raw.get("StoppingCondition")).get("MaxRuntimeInSeconds")
        found = text(value or self.raw.get("MaxRuntimeInSeconds"))
        return int(found) if re.fullmatch(r"[0-9]{1,9}", found) else None

    @property
    def transitions(self) -> list[dict[str, Any]]:
        """SecondaryStatusTransitions."""
        return items(self.raw.get("SecondaryStatusTransitions"))

    @property
    def role(self) -> str:
        """``training``, or what a processing job does: ``compression``, ``sfm`` or ``other``."""
        if self.kind == "Training":
            return "training"
        words = f"{self.name} {self.image} {' '.join(self.entrypoint)}"
        return next((role for role, pattern in ROLES if pattern.search(words)), "other")

    def _moment(self, *names: str) -> float | None:
        found = (moment(self.raw.get(name)) for name in names)
        return next((at for at in found if at is not None), None)

    @cached_property
    def started(self) -> float | None:
        """When it began, in seconds since 1970."""
        return self._moment(f"{self.kind}StartTime", "StartTime", "CreationTime")

    @cached_property
    def ended(self) -> float | None:
        """When it ended, in seconds since 1970."""
        return self._moment(f"{self.kind}EndTime", "EndTime", "LastModifiedTime")


@dataclass(frozen=True)
class Finding:
    """A line of the checklist, what speaks for it, and what to do."""

    item: str
    cause: str
    remedy: str
    #: Statements of the bundle, which place it in time, or made ones.
    evidence: tuple[Statement, ...]
    #: ``names``; ``suspects``: before a failure of which only the class is known; ``points``.
    strength: str = "names"
    stage: str = ""
    #: Lines of the checklist of whose failure it is the cause, and then it names it.
    explains: tuple[str, ...] = ()


def said(kind: str, source: str, text: str) -> tuple[Statement, ...]:
    """One statement as the evidence of a finding."""
    return (Statement(kind, source, text),)


def details_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """The ``…EventDetails`` of an event of a history."""
    found = (v for k, v in event.items() if k.endswith("EventDetails") and isinstance(v, dict))
    return next(found, {})


@dataclass
class Bundle:
    """What is known. Lists are empty and values None where the bundle does not say."""

    jobs: list[SeenJob] = field(default_factory=list)
    log: list[Statement] = field(default_factory=list)
    execution: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    history_source: str = ""
    definition: dict[str, Any] | None = None
    #: The image's config JSON.
    config: dict[str, Any] | None = None
    #: Keys and sizes of the objects that were listed, or None.
    artefacts: list[tuple[str, int]] | None = None
    #: Jobs that the training host ran: their records' names, and facts that AWS does not tell.
    records: list[str] = field(default_factory=list)
    image_id: str | None = None
    oom: bool | None = None
    exit: int | None = None
    #: What could not be fetched, and what would allow it.
    missing: list[dict[str, str]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)

    @property
    def training(self) -> SeenJob | None:
        """The training job in question: the last that did not end well, or the last."""
        jobs = [job for job in self.jobs if job.kind == "Training"]
        bad = [job for job in jobs if job.status in BAD_ENDS]
        found = bad or jobs
        return found[-1] if found else None

    def job(self, name: str) -> SeenJob | None:
        """The job of this name."""
        return next((job for job in self.jobs if job.name and job.name == name), None)

    @property
    def ends(self) -> list[str]:
        """How services say that jobs and execution ended."""
        told = [job.status for job in self.jobs]
        told += [text((self.execution or {}).get("status"))]
        told += ["SUCCEEDED" for e in self.history if e.get("type") == "ExecutionSucceeded"]
        told += ["exit 0"] if self.exit == 0 else []
        return [end for end in told if end]

    @property
    def failed(self) -> bool:
        """Whether any service says that something ended otherwise than well."""
        kinds = {text(event.get("type")) for event in self.history}
        ended_well = "ExecutionSucceeded" in kinds or "SUCCEEDED" in self.ends
        failed = any(re.search(r"(Failed|TimedOut|Aborted)$", kind) for kind in kinds)
        bad = set(self.ends) & set(BAD_ENDS) or (failed and not ended_well)
        return bool(bad) or bool(self.exit)

    @property
    def well(self) -> bool:
        """Whether a service says that it ended well, and none says anything else."""
        return bool(self.ends) and set(self.ends) <= set(GOOD_ENDS) and not self.failed

    def walk(self) -> Iterator[tuple[dict[str, Any], str, dict[str, Any], str]]:
        """Each event of the history: itself, its type, its details, the state that it is in."""
        state = ""
        for event in self.history:
            kind, details = text(event.get("type")), details_of(event)
            if kind.endswith("StateEntered"):
                state = text(details.get("name"))
            yield event, kind, details, state

    def statements(self) -> list[Statement]:
        """Everything that can be quoted, in the order in which it happened."""
        found = [*self.log, *self._reasons(), *self._events()]
        begun = {job.name: job.started or 0.0 for job in self.jobs}
        # What has no time keeps its place after what precedes it in its own source.
        order: list[tuple[float, int]] = []
        last: dict[str, float] = {}
        for number, statement in enumerate(found):
            at = statement.at
            if at is None:
                at = last.get(statement.origin, begun.get(statement.stage, 0.0))
            # One program wrote its lines in this order, whatever their clocks say.
            if statement.kind == "log":
                at = max(at, last.get(statement.origin, at))
            last[statement.origin] = at
            order.append((at, number))
        return [found[number] for _, number in sorted(order)]

    def _reasons(self) -> Iterator[Statement]:
        for job in self.jobs:
            source = f"{job.source} FailureReason"
            for line in job.reason.splitlines():
                yield Statement("reason", source, cut(line), job.ended, job.name)
            for step in job.transitions:
                said = f"{text(step.get('Status'))}: {text(step.get('StatusMessage'))}"
                source, at = (
                    f"{job.source} SecondaryStatusTransitions",
                    moment(step.get("StartTime")),
                )
                yield Statement("status", source, cut(said), at, job.name)

    def _events(self) -> Iterator[Statement]:
        """What a history says, without what was retried and then went well."""
        said: list[Statement] = []
        for event, kind, details, state in self.walk():
            if kind.endswith("Succeeded"):
                said = [s for s in said if s.stage != state or "Succeeded" in s.source]
            said += self._event(event, kind, details, state)
        yield from said if "SUCCEEDED" not in self.ends else ()
        if self.execution and self.execution.get("cause") and not self.history:
            told = f"{text(self.execution.get('error'))}: {text(self.execution['cause'])}"
            at = moment(self.execution.get("stopDate"))
            yield Statement("history", "the execution's cause", cut(told), at)

    def _event(
        self, event: dict[str, Any], kind: str, details: dict[str, Any], state: str
    ) -> Iterator[Statement]:
        source = f"{self.history_source} event {text(event.get('id')) or '?'} {kind}"
        at = moment(event.get("timestamp"))
        error, cause = text(details.get("error")), text(details.get("cause"))
        inner = parsed(cause)
        if kind.endswith("Succeeded") and details.get("output"):
            # What a function returns instead of raising it.
            for line in _told(parsed(text(details["output"]))):
                yield Statement("history", source, cut(line), at, state)
        elif isinstance(inner, dict):
            if not {"TrainingJobName", "ProcessingJobName"} & inner.keys():
                kind = text(inner.get("errorType")) or error
                line = text(inner.get("errorMessage")) or cause
                yield Statement("history", source, cut(f"{kind}: {line}"), at, state)
        elif error or cause:
            said = f"{error}: {cause}" if error and cause else error or cause
            yield Statement("history", source, cut(said), at, state)


def _told(value: Any, depth: int = 0) -> Iterator[str]:
    """The members of an answer that are named as errors."""
    if depth > 8:
        return
    if isinstance(value, list):
        for inner in value:
            yield from _told(inner, depth + 1)
    for name, inner in mapping(value).items():
        if re.search(r"(?i)error|cause|exception|failure|reason", name) and isinstance(inner, str):
            if inner:
                yield inner
        else:
            yield from _told(inner, depth + 1)
