"""Reads a bundle: what AWS keeps of a failed job or execution, from a folder or an archive.

Files are known by their shape, not by their names: the JSON that the AWS CLI or boto3 prints for
``describe-training-job``, ``describe-processing-job``, ``get-log-events``, ``filter-log-events``,
``describe-execution``, ``get-execution-history``, ``describe-state-machine`` and
``list-objects-v2``, a definition in Amazon States Language, an image's config, a job's record or
``splatgate job --json``, and text that is a log. Any part may be missing.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from splatgate.diagnose import shapes
from splatgate.diagnose.bundle import Bundle, SeenJob, Statement, details_of, items, mapping, text
from splatgate.diagnose.files import File, files
from splatgate.diagnose.shapes import cut, moment, parsed
from splatgate.evidence import BadInput

#: The folder of a bundle that holds the last good job, a bundle of its own.
GOOD = "last-good"
#: Files that the training host puts beside the record of a job.
COPIES = ("log.txt", "failure")
#: Statements that a bundle keeps; a log of short lines has many.
MOST = 200_000
#: What no text holds.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a]")


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
    held = bundle.jobs or bundle.log or bundle.execution or bundle.history
    if not (held or bundle.definition or bundle.config):
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
    told = suffix in (".yaml", ".yml") and "message: " in said
    if value is not None or (suffix in (".md", ".toml", ".yaml", ".yml", ".py") and not told):
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
    if isinstance(value.get("message"), str) and "timestamp" in value:
        return _take_json(bundle, name, {"events": [value]})
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
    elif {"imageDetails", "imageManifest", "mediaType", "manifests", "images"} & value.keys():
        # Of the image's registry nothing is asked beyond that it answered.
        return True
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
