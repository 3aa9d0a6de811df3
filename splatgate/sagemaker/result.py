"""What comes back of a job: SageMaker's words for its end, and the JSON of ``splatgate job``."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from splatgate.evidence import Job, LogLine
from splatgate.evidence.text import pattern
from splatgate.sagemaker.assumptions import Assumptions
from splatgate.sagemaker.request import Metric

SCHEMA = "splatgate/job/1"
#: Contract 1.3: DescribeTrainingJob returns the first 1024 characters; the field holds no more as a
#: whole.
REASON_LIMIT = 1024
#: Why a host ends a job (``Job.ended_by``).
ENDERS = (
    "StopTrainingJob",
    "MaxRuntimeExceeded",
    "MaxWaitTimeExceeded",
    "InternalServerError",
    "Deadline",
)
#: What another attempt may follow: spot capacity taken away, a fault of the platform.
MISHAPS = ("Interrupted", "InternalServerError")
DEFAULTS = Assumptions()
#: Times are kept to a thousandth of a second.
ROUNDING = 0.002
LOG_GROUP = "/aws/sagemaker/TrainingJobs"


def failure_reason(
    failure: str | None,
    exit_code: int | None,
    engine: str | None = None,
    assumed: Assumptions = DEFAULTS,
) -> str:
    """Word a failed job as DescribeTrainingJob does (contract 1.3), in at most 1024 characters.

    ``failure`` is the text of /opt/ml/output/failure. ``engine`` is what the engine said of a
    container that never ran: with an exit status it is the algorithm's fault (126, 127), without
    one the request's or image's.
    """
    if exit_code is None:
        return f"ClientError: {engine or 'the container could not be created'}"[:REASON_LIMIT]
    text = (failure if failure is not None else engine or "")[:REASON_LIMIT]
    whole = f"AlgorithmError: {text}, exit code: {exit_code}"
    return whole[:REASON_LIMIT] if assumed.reason_counts_whole else whole


@dataclass(frozen=True)
class Ending:
    """The three fields of DescribeTrainingJob that say how a job ended."""

    status: str
    secondary: str
    reason: str


def ending(
    exit_code: int | None,
    ended_by: str | None,
    failure: str | None,
    engine: str | None = None,
    assumed: Assumptions = DEFAULTS,
) -> Ending:
    """Decide a job's final status (contract 1.3, 1.4).

    A job that was stopped is Stopped whatever its exit status. ``Deadline`` is this host's own,
    which SageMaker has not: the job counts as failed and the reason says whose limit it was.
    """
    if ended_by == "InternalServerError":
        return Ending("Failed", "Failed", f"{ended_by}: {assumed.internal_error}"[:REASON_LIMIT])
    if ended_by == "Deadline":
        return Ending(
            "Failed", "Failed", "Splatgate: the deadline of this run passed, not SageMaker's"
        )
    if ended_by is not None and (exit_code == 0 or assumed.stopped_keeps_status):
        secondary = "Stopped" if ended_by == "StopTrainingJob" else ended_by
        return Ending("Stopped", secondary, "")
    if exit_code == 0:
        return Ending("Completed", "Completed", "")
    return Ending("Failed", "Failed", failure_reason(failure, exit_code, engine, assumed))


def contradictions(job: Job) -> list[str]:
    """What in a job's record cannot be true together; empty when it is coherent."""
    end = ending(job.exit, job.ended_by, job.failure)
    told = f"exit {job.exit}, ended by {job.ended_by}"
    pairs = [("status", job.status, end.status), ("secondary", job.secondary_status, end.secondary)]
    # Without the failure file the reason quotes the engine, whose words the record does not keep.
    if end.status != "Failed" or job.failure is not None:
        pairs.append(("reason", job.failure_reason, end.reason))
    found = [f"{name} {had!r}, {told} gives {want!r}" for name, had, want in pairs if had != want]
    if job.ended_by not in (None, *ENDERS):
        found.append(f"ended by {job.ended_by!r}, which is none of {', '.join(ENDERS)}")
    if end.status == "Stopped" and (job.stop_seconds is None or job.stop_seconds < 0):
        found.append(f"stopped, and ended {job.stop_seconds} s after SIGTERM")
    return [*found, *_attempts(job)] if job.attempts else found


def _attempts(job: Job) -> Iterator[str]:
    """What in the attempts of a job does not add up to the job."""
    *earlier, last = job.attempts
    for attempt in earlier:
        if attempt.ended_by not in MISHAPS:
            yield f"another attempt followed one ended by {attempt.ended_by!r}"
    if (last.exit, last.oom, last.ended_by) != (job.exit, job.oom, job.ended_by):
        yield "its last attempt ended otherwise than the job"
    if job.attempts[0].started != job.started:
        yield f"started {job.started!r}, its first attempt {job.attempts[0].started!r}"
    if (lines := sum(attempt.lines for attempt in job.attempts)) != len(job.log):
        yield f"a log of {len(job.log)} lines, of which its attempts wrote {lines}"
    trained = sum(attempt.seconds for attempt in job.attempts)
    if abs(trained - job.phases.get("Training", 0.0)) > ROUNDING * len(job.attempts):
        yield f"attempts of {trained:g} s, training of {job.phases.get('Training')} s"


def transitions(job: Job) -> list[str]:
    """Each SecondaryStatus that the job had, in order (contract 1.4, 1.5)."""
    found = []
    for attempt in job.attempts:
        found += ["Starting", "Downloading"]
        found += ["Training"] if attempt.started else []
        found += ["Interrupted"] if attempt.ended_by == "Interrupted" else []
    found += ["Uploading"] if job.started and job.ended_by != "InternalServerError" else []
    return [*found, job.secondary_status]


def log_streams(job: Job) -> list[str]:
    """Names of the job's CloudWatch streams, one for each container that started."""
    starts = [attempt.started for attempt in job.attempts] or [job.started]
    return [log_stream(job.name, started) for started in starts if started]


def log_stream(name: str, started: str) -> str:
    """Name of the job's CloudWatch stream, in group ``LOG_GROUP`` (contract 1.2).

    ``started`` is the ISO time at which the container started; the number in the name is its epoch
    second.
    """
    epoch = int(datetime.datetime.fromisoformat(started).timestamp()) if started else 0
    return f"{name}/algo-1-{epoch}"


@dataclass(frozen=True)
class Point:
    """One value of a metric, as SageMaker reads it from a line of the log."""

    name: str
    value: float
    seconds: float


def metric_points(log: Iterable[LogLine], metrics: Iterable[Metric]) -> list[Point]:
    """Apply MetricDefinitions to a log: the first group of each match is the value (contract 7.1).

    A group that is no number gives no point, as a metric that CloudWatch would not show.
    """
    compiled = [(metric.name, pattern(metric.regex)) for metric in metrics]
    points = []
    for line in log:
        for name, expression in compiled:
            for match in expression.finditer(line.text):
                try:
                    points.append(Point(name, float(match[1]), line.seconds))
                except (IndexError, TypeError, ValueError):
                    continue
    return points


def values(job: Job, regex: str) -> list[float]:
    """What the first group of a metric's expression finds in a job's log, in order."""
    found = (pattern(regex).search(line.text) for line in job.log)
    return [float(match[1]) for match in found if match]


def same_value(asked: str, effective: object) -> bool:
    """Whether a hyperparameter's text and the value in force agree (contract 2.2: every value is a
    string).
    """
    try:
        return float(asked) == float(str(effective))
    except ValueError:
        return asked.strip('"').lower() == str(effective).lower()


def job_json(job: Job) -> dict[str, Any]:
    """The object that ``splatgate job --json`` prints. Sizes are bytes, times seconds."""

    def members(found: Iterable[Any]) -> list[dict[str, Any]]:
        return [asdict(member) for member in found]

    return {
        "schema": SCHEMA,
        "TrainingJobName": job.name,
        "TrainingJobStatus": job.status,
        "SecondaryStatus": job.secondary_status,
        "transitions": transitions(job),
        "attempts": [asdict(attempt) for attempt in job.attempts],
        "FailureReason": job.failure_reason,
        "exit": job.exit,
        "oom": job.oom,
        "ended_by": job.ended_by,
        "stop_seconds": job.stop_seconds,
        "image_id": job.image_id,
        "command": list(job.command),
        "limits": {"asked": asdict(job.limits_asked), "applied": asdict(job.limits_applied)},
        "phases": dict(job.phases),
        "log_group": LOG_GROUP,
        "log_stream": log_stream(
            job.name, job.attempts[-1].started if job.attempts else job.started
        ),
        "log_streams": log_streams(job),
        "log_lines": len(job.log),
        "env_names": list(job.env_names),
        "writes_outside": list(job.writes_outside),
        "members": members(job.members),
        "output_members": members(job.output_members),
        "checkpoint_members": members(job.checkpoint_members),
        "channels": dict(job.channels),
        "unverified": list(job.unverified),
    }
