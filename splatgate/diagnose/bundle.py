"""A bundle: what AWS keeps of a failed job or execution, read from a folder or an archive.

Files are known by their shape, not by their names: the JSON that the AWS CLI or boto3 prints for
``describe-training-job``, ``describe-processing-job``, ``get-log-events``, ``filter-log-events``,
``describe-execution``, ``get-execution-history``, ``describe-state-machine``, ``describe-images``,
``batch-get-image`` and ``list-objects-v2``, a definition in Amazon States Language, an image's
config, a job's record or ``splatgate job --json``, and text that is a log. Any part may be missing,
and any member may be of another type than it should: then it counts as absent.

What can be quoted is flattened into ``Statement``\\ s, in the order in which it happened.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from splatgate.diagnose import shapes
from splatgate.diagnose.files import File, files
from splatgate.diagnose.shapes import cut, moment, parsed
from splatgate.evidence import BadInput
from splatgate.sagemaker.result import REASON_LIMIT

#: The folder of a bundle that holds the last good job, a bundle of its own.
GOOD = "last-good"
#: Files that the training host puts beside the record of a job.
COPIES = ("log.txt", "failure")
#: Where a service says that a job ended otherwise than well, and well.
BAD_ENDS = ("Failed", "Stopped", "FAILED", "TIMED_OUT", "ABORTED")
GOOD_ENDS = ("Completed", "SUCCEEDED", "exit 0")
#: Statements that a bundle keeps; a log of short lines has many.
MOST = 200_000
#: What no text holds.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a]")
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
    def hyperparameters(self) -> dict[str, str]:
        """HyperParameters without those that a service adds."""
        sent = mapping(self.raw.get("HyperParameters"))
        return {k: str(v) for k, v in sent.items() if not k.startswith(("sagemaker_", "_"))}

    @property
    def sent(self) -> dict[str, str]:
        """HyperParameters and Environment, names in lower case with ``_``."""
        both = {**mapping(self.raw.get("Environment")), **self.hyperparameters}
        return {k.lower().replace("-", "_"): str(v).strip('"') for k, v in both.items()}

    @property
    def image(self) -> str:
        """The image's reference."""
        spec = mapping(self.raw.get("AlgorithmSpecification") or self.raw.get("AppSpecification"))
        return text(
            spec.get("TrainingImage") or spec.get("ImageUri") or self.raw.get("TrainingImage")
        )

    @property
    def entrypoint(self) -> list[str]:
        """ContainerEntrypoint and ContainerArguments, where the request has them."""
        spec = mapping(self.raw.get("AlgorithmSpecification") or self.raw.get("AppSpecification"))
        words = (spec.get("ContainerEntrypoint"), spec.get("ContainerArguments"))
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
    #: The image's config JSON, its manifest, and what ECR says of it.
    config: dict[str, Any] | None = None
    manifest: dict[str, Any] | None = None
    image_details: list[dict[str, Any]] = field(default_factory=list)
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
        state, said = "", list[Statement]()
        for event in self.history:
            if text(event.get("type")).endswith("Succeeded"):
                said = [s for s in said if s.stage != state or "Succeeded" in s.source]
            if text(event.get("type")).endswith("StateEntered"):
                state = text(details_of(event).get("name"))
            said += self._event(event, state)
        yield from said if "SUCCEEDED" not in self.ends else ()
        if self.execution and self.execution.get("cause") and not self.history:
            told = f"{text(self.execution.get('error'))}: {text(self.execution['cause'])}"
            at = moment(self.execution.get("stopDate"))
            yield Statement("history", "the execution's cause", cut(told), at)

    def _event(self, event: dict[str, Any], state: str) -> Iterator[Statement]:
        details, kind = details_of(event), text(event.get("type"))
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


def load(path: Path) -> Bundle:
    """Read a bundle: a folder, a .tar, .tar.gz or .zip of one, or a single file.

    Raises:
        BadInput: there is nothing, or nothing in it says anything of a job.
    """
    bundle = Bundle()
    for file in files(path, bundle.unread.append):
        name = file.name
        if f"/{name}".rpartition("/")[0].endswith(f"/{GOOD}"):
            continue
        before = len(bundle.log)
        if before >= MOST or not _take(bundle, file):
            why = "more lines than diagnose reads" if before >= MOST else "nothing known is in it"
            bundle.unread.append(f"{name}: {why}")
            continue
        bundle.read.append(name)
        if (more := len(bundle.log) - before - MOST // 2) > 0:
            start = before + MOST // 8
            del bundle.log[start : start + more]
            bundle.unread.append(f"{name}: {more} lines in its middle")
    # The record of a job that the training host ran holds what these say.
    copies = {str(PurePosixPath(r).with_name(n)) for r in bundle.records for n in COPIES}
    bundle.log = [s for s in bundle.log if s.origin not in copies]
    if not (bundle.jobs or bundle.log or bundle.execution or bundle.history):
        held = bundle.definition or bundle.config or bundle.manifest or bundle.image_details
        if not held:
            count = len(bundle.read) + len(bundle.unread)
            raise BadInput(
                f"{path}: {count} files, and none is a log, a described job, an execution or a "
                "history; collect one with `diagnose JOB` or put what the AWS CLI prints there"
            )
    bundle.history.sort(key=lambda e: e["id"] if isinstance(e.get("id"), int) else 0)
    for event in bundle.history:
        # The cause of a failed .sync task is the job's description, as a JSON string.
        inner = parsed(text(details_of(event).get("cause")))
        if isinstance(inner, dict) and not _known(bundle, inner):
            _take_json(
                bundle, f"{bundle.history_source} event {text(event.get('id'))} cause", inner
            )
    bundle.jobs.sort(key=lambda job: job.started or float("inf"))
    bundle.log = list(_staged(bundle))
    return bundle


def _known(bundle: Bundle, job: Mapping[str, Any]) -> bool:
    names = {text(job.get("TrainingJobName")), text(job.get("ProcessingJobName"))} - {""}
    return not names or any(j.name in names for j in bundle.jobs)


def _staged(bundle: Bundle) -> Iterator[Statement]:
    """The log, each line with its job: by its source's name, or else by the time."""
    jobs = [job for job in bundle.jobs if job.name]
    kinds = {"Training": "train", "Processing": "process"}
    by: dict[str, str] = {}
    begins = [job.started or 0.0 for job in jobs]
    for s in bundle.log:
        if s.stage or not jobs:
            yield s
            continue
        if s.origin not in by:
            named = [j for j in jobs if j.name in s.origin]
            named = named or [j for j in jobs if len(jobs) > 1 and j.role in s.origin.lower()]
            kind = [j for j in jobs if len(jobs) > 1 and kinds[j.kind] in s.origin.lower()]
            named = named or (kind if len(kind) == 1 else [])
            if not named and s.at is not None:
                named = [jobs[max(0, bisect.bisect_right(begins, s.at + 60) - 1)]]
            by[s.origin] = (named or (jobs if len(jobs) == 1 else []) or [SeenJob("", "", "", {})])[
                0
            ].name
        yield replace(s, stage=by[s.origin])


def _take(bundle: Bundle, file: File) -> bool:
    """Add a file to the bundle by its shape; False when it says nothing known."""
    name, suffix = file.name, PurePosixPath(file.name).suffix.lower()
    said, rest = shapes.decoded(file.head), ""
    if file.tail and b"\0" in file.head[:1024] and said:
        rest = shapes.decoded(file.tail) or ""
    elif file.tail:
        # A hole in a sparse file reads as zeros.
        end = file.tail.rpartition(b"\0")[2]
        rest = end.decode("utf-8", "replace") if not _BINARY.search(end) else ""
        said = said or (rest and "")
    if suffix in (".ply", ".png", ".jpg", ".sog", ".html", ".bin") or said is None:
        return False
    value = None if rest else parsed(said)
    if value is None and suffix == ".jsonl":
        lines = [parsed(line) for line in said.splitlines() if line.strip()]
        value = lines if lines and all(isinstance(line, dict) for line in lines) else None
    begun = shapes.mended(said) if value is None else value
    if begun is not None and _take_json(bundle, name, begun):
        bundle.log += _cloudwatch(f"{name} (end)", shapes.events(rest))
        return True
    if (job := shapes.described(said)) is not None:
        return _take_json(bundle, name, job)
    if (rows := shapes.rows(said)) is not None:
        bundle.log += _rows(name, rows)
        bundle.log += [Statement("log", f"{name} (end):{n}", cut(line)) for n, line in _of(rest)]
        return True
    if value is not None or suffix in (".md", ".toml", ".yaml", ".yml", ".py"):
        return False
    bundle.log += _text_log(name, said)
    bundle.log += _text_log(f"{name} (end)", rest)
    return True


def _of(rest: str) -> Iterator[tuple[int, str]]:
    return enumerate(rest.splitlines(), 1)


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
            job = SeenJob(text(value.get(f"{kind}JobName")), kind, name, value)
            bundle.jobs.append(job)
            return True
    if isinstance(value.get("events"), list):
        events = items(value["events"])
        if events and any("message" in event for event in events):
            bundle.log += list(_cloudwatch(name, events))
        elif events and any("type" in event for event in events):
            bundle.history += events
            bundle.history_source = name
        else:
            return "nextForwardToken" in value or not value["events"]
        return True
    if "executionArn" in value and "status" in value:
        bundle.execution = value
    elif isinstance(value.get("definition"), str):
        bundle.definition = mapping(parsed(value["definition"])) or None
    elif "StartAt" in value and "States" in value:
        bundle.definition = value
    elif isinstance(value.get("imageDetails"), list):
        bundle.image_details += items(value["imageDetails"])
    elif isinstance(value.get("images"), list) and items(value["images"]):
        manifest = parsed(text(items(value["images"])[0].get("imageManifest")))
        bundle.manifest = mapping(manifest) or None
    elif "mediaType" in value or "manifests" in value:
        bundle.manifest = value
    elif isinstance(value.get("rootfs") or value.get("RootFS"), dict):
        bundle.config = value
    elif isinstance(value.get("Contents"), list):
        sizes = [(text(o.get("Key")), o.get("Size")) for o in items(value["Contents"])]
        listed = [(key, size if isinstance(size, int) else 0) for key, size in sizes]
        bundle.artefacts = (bundle.artefacts or []) + listed
    elif value.get("KeyCount") == 0:
        bundle.artefacts = bundle.artefacts or []
    elif isinstance(value.get("log"), list) and "failure_reason" in value:
        _host_record(bundle, name, value)
    elif isinstance(value.get("missing"), list):
        bundle.missing += items(value["missing"])
    elif isinstance(value.get("State"), dict) and "ExitCode" in value["State"]:
        # An engine's `inspect` of the container.
        bundle.exit, bundle.oom = value["State"]["ExitCode"], value["State"].get("OOMKilled")
    else:
        return False
    return True


def _host_record(bundle: Bundle, name: str, value: dict[str, Any]) -> None:
    """A job's record as the training host writes it (``evidence.Job``)."""
    start = moment(value.get("started")) or 0.0
    spent = sum(s for s in mapping(value.get("phases")).values() if isinstance(s, int | float))
    raw = {
        **mapping(value.get("request")),
        "TrainingJobName": text(value.get("name")),
        "TrainingJobStatus": value.get("status", ""),
        "SecondaryStatus": value.get("secondary_status", ""),
        "FailureReason": value.get("failure_reason", ""),
        "TrainingStartTime": start,
        "TrainingEndTime": start + spent,
    }
    bundle.jobs.append(SeenJob(raw["TrainingJobName"], "Training", name, raw))
    bundle.records.append(name)
    bundle.image_id = text(value.get("image_id")) or None
    bundle.oom, bundle.exit = value.get("oom"), value.get("exit")
    sizes = [(text(m.get("path")), m.get("bytes")) for m in items(value.get("members"))]
    bundle.artefacts = [(path, size if isinstance(size, int) else 0) for path, size in sizes]
    for number, line in enumerate(items(value["log"]), 1):
        seconds = line.get("seconds")
        at = start + (seconds if isinstance(seconds, int | float) else 0.0)
        source, stage = f"{name}:log:{number}", raw["TrainingJobName"]
        bundle.log.append(Statement("log", source, cut(text(line.get("text"))), at, stage))


def _rows(name: str, rows: list[tuple[str, str]]) -> list[Statement]:
    """Statements of times and messages, oldest first: a query answers newest first."""
    numbered = list(enumerate(rows, 1))
    times = [at for time, _ in rows if (at := moment(time)) is not None]
    if times and times[0] > times[-1]:
        numbered.reverse()
    return [
        Statement("log", f"{name}:{number}", cut(line), moment(time))
        for number, (time, message) in numbered
        for line in re.split(r"[\r\n]+", message.rstrip())
    ]


def _cloudwatch(name: str, events: list[dict[str, Any]]) -> Iterator[Statement]:
    for number, event in enumerate(events, 1):
        stream = text(event.get("logStreamName"))
        source = f"{name}{' ' + stream if stream else ''}:{number}"
        at = moment(event.get("timestamp"))
        for line in re.split(r"[\r\n]+", text(event.get("message")).rstrip()):
            yield Statement("log", source, cut(line), at, stream.partition("/")[0])


def _text_log(name: str, said: str) -> Iterator[Statement]:
    for number, at, stream, line in shapes.lines(said):
        yield Statement("log", f"{name}:{number}", line, at, stream.partition("/")[0])
