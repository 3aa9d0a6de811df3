"""A bundle: what AWS keeps of a failed job or execution, read from a folder or an archive.

Files are known by their shape, not by their names: the JSON that the AWS CLI or boto3 prints for
``describe-training-job``, ``describe-processing-job``, ``get-log-events``, ``filter-log-events``,
``describe-execution``, ``get-execution-history``, ``describe-state-machine``, ``describe-images``,
``batch-get-image`` and ``list-objects-v2``, a definition in Amazon States Language, an image's
config, a job's record or ``splatgate job --json``, and text that is a log. Any part may be missing.

What can be quoted is flattened into ``Statement``\\ s, in the order in which it happened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from splatgate.diagnose import shapes
from splatgate.diagnose.shapes import moment, parsed
from splatgate.evidence import BadInput
from splatgate.sagemaker.result import REASON_LIMIT

#: The folder of a bundle that holds the last good job, a bundle of its own.
GOOD = "last-good"
#: Files that the training host puts beside the record of a job.
COPIES = ("log.txt", "failure")
#: Where a service says that a job ended otherwise than well.
BAD_ENDS = ("Failed", "Stopped", "FAILED", "TIMED_OUT", "ABORTED")


@dataclass(frozen=True)
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
        return str(self.raw.get(f"{self.kind}JobStatus", ""))

    @property
    def secondary(self) -> str:
        """SecondaryStatus."""
        return str(self.raw.get("SecondaryStatus", ""))

    @property
    def reason(self) -> str:
        """FailureReason, or what a processing job's container said at its exit."""
        return str(self.raw.get("FailureReason") or self.raw.get("ExitMessage") or "")

    @property
    def hyperparameters(self) -> dict[str, str]:
        """HyperParameters without those that a service adds."""
        sent = self.raw.get("HyperParameters") or {}
        return {k: str(v) for k, v in sent.items() if not k.startswith(("sagemaker_", "_"))}

    @property
    def started(self) -> float | None:
        """When it began, in seconds since 1970."""
        for name in (f"{self.kind}StartTime", "StartTime", "CreationTime"):
            if (at := moment(self.raw.get(name))) is not None:
                return at
        return None

    @property
    def ended(self) -> float | None:
        """When it ended, in seconds since 1970."""
        for name in (f"{self.kind}EndTime", "EndTime"):
            if (at := moment(self.raw.get(name))) is not None:
                return at
        return None


@dataclass
class Bundle:
    """What is known. Lists are empty and values None where the bundle does not say."""

    jobs: list[SeenJob] = field(default_factory=list)
    log: list[Statement] = field(default_factory=list)
    execution: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    history_source: str = ""
    definition: dict[str, Any] | None = None
    #: The image's config JSON, its manifest, and what ECR says of it.
    config: dict[str, Any] | None = None
    manifest: dict[str, Any] | None = None
    image_details: list[dict[str, Any]] = field(default_factory=list)
    #: Keys and sizes of the objects a job wrote, or None.
    artefacts: list[tuple[str, int]] | None = None
    #: Jobs that the training host ran: their records' names, and facts that AWS does not tell.
    records: list[str] = field(default_factory=list)
    image_id: str | None = None
    oom: bool | None = None
    exit: int | None = None
    #: What could not be fetched, and what would allow it.
    missing: list[dict[str, str]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def training(self) -> SeenJob | None:
        """The training job in question: the last that did not end well, or the last."""
        jobs = [job for job in self.jobs if job.kind == "Training"]
        bad = [job for job in jobs if job.status in BAD_ENDS]
        found = bad or jobs
        return found[-1] if found else None

    @property
    def failed(self) -> bool:
        """Whether any service says that something ended otherwise than well."""
        ends = [job.status for job in self.jobs]
        ends += [str((self.execution or {}).get("status", ""))]
        kinds = {str(event.get("type", "")) for event in self.history}
        return bool(set(ends) & set(BAD_ENDS)) or any(
            re.search(r"(Failed|TimedOut|Aborted)$", kind) for kind in kinds
        )

    @property
    def silent(self) -> bool:
        """Whether no service says how anything ended."""
        return not (self.jobs or self.execution or self.history)

    def statements(self) -> list[Statement]:
        """Everything that can be quoted, in the order in which it happened."""
        found = [*self.log, *self._reasons(), *self._events()]
        # What has no time keeps its place after what precedes it in its own source.
        order: list[tuple[float, int, Statement]] = []
        last: dict[str, float] = {}
        for number, statement in enumerate(found):
            origin = statement.source.partition(":")[0]
            at = statement.at if statement.at is not None else last.get(origin, float("inf"))
            last[origin] = at
            order.append((at, number, statement))
        return [s for _, _, s in sorted(order, key=lambda entry: entry[:2])]

    def _reasons(self) -> Iterator[Statement]:
        for job in self.jobs:
            if job.reason:
                for line in job.reason[: 4 * REASON_LIMIT].splitlines():
                    yield Statement(
                        "reason", f"{job.source} FailureReason", line, job.ended, job.name
                    )
            for step in job.raw.get("SecondaryStatusTransitions") or ():
                text = f"{step.get('Status', '')}: {step.get('StatusMessage', '')}"
                yield Statement(
                    "status",
                    f"{job.source} SecondaryStatusTransitions",
                    text,
                    moment(step.get("StartTime")),
                    job.name,
                )

    def _events(self) -> Iterator[Statement]:
        state = ""
        for event in self.history:
            details = next(
                (v for k, v in event.items() if k.endswith("EventDetails") and isinstance(v, dict)),
                {},
            )
            if str(event.get("type", "")).endswith("StateEntered"):
                state = str(details.get("name", ""))
            words = [str(details.get(k, "")) for k in ("error", "cause") if details.get(k)]
            if not words:
                continue
            source = f"{self.history_source} event {event.get('id', '?')} {event.get('type', '')}"
            at = moment(event.get("timestamp"))
            for word in words:
                yield Statement("history", source, word, at, state)
            # The cause of a failed .sync task is the job's description, as a JSON string.
            inner = parsed(str(details.get("cause", "")))
            if isinstance(inner, dict) and inner.get("FailureReason"):
                for line in str(inner["FailureReason"]).splitlines():
                    yield Statement("reason", f"{source} cause.FailureReason", line, at, state)
        if self.execution and self.execution.get("cause"):
            yield Statement(
                "history",
                "the execution's cause",
                f"{self.execution.get('error', '')}: {self.execution['cause']}",
                moment(self.execution.get("stopDate")),
            )


def load(path: Path) -> Bundle:
    """Read a bundle: a folder, a .tar, .tar.gz or .zip of one, or a single file.

    Raises:
        BadInput: there is nothing, or nothing in it says anything of a job.
    """
    bundle = Bundle()
    count = 0
    for name, data in shapes.files(path):
        if f"/{name}".rpartition("/")[0].endswith(f"/{GOOD}"):
            continue
        count += 1
        if not _take(bundle, name, data):
            bundle.unread.append(name)
    # The record of a job that the training host ran holds what these say.
    copies = {str(PurePosixPath(r).with_name(n)) for r in bundle.records for n in COPIES}
    bundle.log = [s for s in bundle.log if s.source.rpartition(":")[0] not in copies]
    if not (bundle.jobs or bundle.log or bundle.execution or bundle.history):
        held = bundle.definition or bundle.config or bundle.manifest or bundle.image_details
        if not held:
            raise BadInput(
                f"{path}: {count} files, and none is a log, a described job, an execution or a "
                "history; collect one with `diagnose JOB` or put what the AWS CLI prints there"
            )
    bundle.history.sort(key=lambda event: event.get("id", 0))
    bundle.jobs.sort(key=lambda job: job.started or float("inf"))
    _stages(bundle)
    return bundle


def _stages(bundle: Bundle) -> None:
    """Name the job that each log belongs to, where its source says so."""
    names = [job.name for job in bundle.jobs]
    only = names[0] if len(names) == 1 else ""

    def stage(source: str) -> str:
        return next((n for n in names if n and n in source), only)

    stages = {s.source.partition(":")[0]: "" for s in bundle.log}
    stages = {origin: stage(origin) for origin in stages}
    bundle.log = [
        s
        if s.stage
        else Statement(s.kind, s.source, s.text, s.at, stages[s.source.partition(":")[0]])
        for s in bundle.log
    ]


def _take(bundle: Bundle, name: str, data: bytes) -> bool:
    """Add a file to the bundle by its shape; False when it says nothing known."""
    suffix = PurePosixPath(name).suffix.lower()
    text = shapes.decoded(data)
    if suffix in (".ply", ".gz", ".png", ".jpg", ".sog", ".html", ".bin") or text is None:
        return False
    value = parsed(text)
    if value is None and suffix == ".jsonl":
        lines = [parsed(line) for line in text.splitlines() if line.strip()]
        value = lines if all(isinstance(line, dict) for line in lines) else None
    begun = shapes.mended(text) if value is None else value
    if begun is not None and _take_json(bundle, name, begun):
        return True
    if (job := shapes.described(text)) is not None:
        return _take_json(bundle, name, job)
    if (rows := shapes.rows(text)) is not None:
        bundle.log += _rows(name, rows)
        return True
    if value is not None or suffix in (".md", ".toml", ".yaml", ".yml", ".py", ".csv"):
        return False
    bundle.log += list(_text_log(name, text))
    return True


def _take_json(bundle: Bundle, name: str, value: Any) -> bool:
    if isinstance(value, str):
        # `--query FailureReason`
        lines = enumerate(value.splitlines(), 1)
        bundle.log += [Statement("reason", f"{name}:{n}", line) for n, line in lines]
        return bool(value)
    if isinstance(value, list):
        if value and all(isinstance(v, dict) and ("message" in v or "type" in v) for v in value):
            return _take_json(bundle, name, {"events": value})
        return any([_take_json(bundle, name, v) for v in value if isinstance(v, dict | str)])
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("detail"), dict) and "detail-type" in value:
        return _take_json(bundle, name, value["detail"])
    if isinstance(value.get("results"), list) and "statistics" in value:
        bundle.log += _rows(name, list(shapes.fields(value["results"])))
        return True
    for kind in ("Training", "Processing"):
        if f"{kind}JobStatus" in value or (f"{kind}JobName" in value and "RoleArn" in value):
            job = SeenJob(str(value.get(f"{kind}JobName", "")), kind, name, value)
            bundle.jobs.append(job)
            bundle.oom = value.get("oom", bundle.oom)
            bundle.exit = value.get("exit", bundle.exit)
            return True
    events = value.get("events")
    if isinstance(events, list) and events and isinstance(events[0], dict):
        if "message" in events[0]:
            bundle.log += list(_cloudwatch(name, events))
            return True
        if "type" in events[0]:
            bundle.history += [event for event in events if isinstance(event, dict)]
            bundle.history_source = name
            return True
    if isinstance(events, list):
        return "nextForwardToken" in value or not events
    if "executionArn" in value and "status" in value:
        bundle.execution = value
    elif isinstance(value.get("definition"), str):
        bundle.definition = parsed(value["definition"])
    elif "StartAt" in value and "States" in value:
        bundle.definition = value
    elif isinstance(value.get("imageDetails"), list):
        bundle.image_details += value["imageDetails"]
    elif isinstance(value.get("images"), list) and value["images"]:
        bundle.manifest = parsed(str(value["images"][0].get("imageManifest", "")))
    elif "mediaType" in value or "manifests" in value:
        bundle.manifest = value
    elif isinstance(value.get("rootfs") or value.get("RootFS"), dict):
        bundle.config = value
    elif isinstance(value.get("Contents"), list):
        listed = [(str(o.get("Key", "")), int(o.get("Size", 0))) for o in value["Contents"]]
        bundle.artefacts = (bundle.artefacts or []) + listed
    elif value.get("KeyCount") == 0:
        bundle.artefacts = bundle.artefacts or []
    elif isinstance(value.get("log"), list) and "failure_reason" in value:
        _host_record(bundle, name, value)
    elif isinstance(value.get("missing"), list):
        bundle.missing += value["missing"]
    elif value.get("execution") and value.get("history"):
        return all(
            [
                _take_json(bundle, name, value["execution"]),
                _take_json(bundle, name, value["history"]),
            ]
        )
    else:
        return False
    return True


def _host_record(bundle: Bundle, name: str, value: dict[str, Any]) -> None:
    """A job's record as the training host writes it (``evidence.Job``)."""
    start = moment(value.get("started")) or 0.0
    spent = sum(float(s) for s in (value.get("phases") or {}).values())
    raw = {
        **(value.get("request") or {}),
        "TrainingJobName": value.get("name", ""),
        "TrainingJobStatus": value.get("status", ""),
        "SecondaryStatus": value.get("secondary_status", ""),
        "FailureReason": value.get("failure_reason", ""),
        "TrainingStartTime": start,
        "TrainingEndTime": start + spent,
    }
    bundle.jobs.append(SeenJob(raw["TrainingJobName"], "Training", name, raw))
    bundle.records.append(name)
    bundle.image_id = value.get("image_id")
    bundle.oom, bundle.exit = value.get("oom"), value.get("exit")
    bundle.artefacts = [(m["path"], int(m["bytes"])) for m in value.get("members") or ()]
    for number, line in enumerate(value["log"], 1):
        bundle.log.append(
            Statement(
                "log",
                f"{name}:log {number}",
                str(line.get("text", "")),
                start + float(line.get("seconds", 0.0)),
                raw["TrainingJobName"],
            )
        )


def _rows(name: str, rows: list[tuple[str, str]]) -> list[Statement]:
    """Statements of times and messages, oldest first: a query answers newest first."""
    numbered = list(enumerate(rows, 1))
    times = [at for time, _ in rows if (at := moment(time)) is not None]
    if times and times[0] > times[-1]:
        numbered.reverse()
    return [
        Statement("log", f"{name}:{number}", line, moment(time))
        for number, (time, message) in numbered
        for line in message.rstrip("\n").split("\n")
    ]


def _cloudwatch(name: str, events: list[dict[str, Any]]) -> Iterator[Statement]:
    for number, event in enumerate(events, 1):
        stream = str(event.get("logStreamName", ""))
        source = f"{name}{' ' + stream if stream else ''}:{number}"
        at = moment(event.get("timestamp"))
        for line in str(event.get("message", "")).rstrip("\n").split("\n"):
            yield Statement("log", source, line, at, stream.partition("/")[0])


def _text_log(name: str, text: str) -> Iterator[Statement]:
    for number, at, stream, line in shapes.lines(text):
        yield Statement("log", f"{name}:{number}", line, at, stream.partition("/")[0])
