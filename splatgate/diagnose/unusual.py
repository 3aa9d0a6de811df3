"""What is unusual of a failed job against one that went well: times, words, request, image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from splatgate.diagnose.bundle import Bundle, SeenJob
from splatgate.diagnose.shapes import moment

#: A phase that takes so many times longer, or shorter, is told.
RATIO = 2.0
#: New lines told.
TOLD = 12
#: What differs between any two lines of one kind: numbers, addresses, quoted names, paths.
_CHANGING = re.compile(r"0x[0-9a-fA-F]+|\d+(?:[.,:eE+-]+\d+)*|'[^']*'|\"[^\"]*\"|/\S+")
#: Members of a request that differ from job to job.
_OWN = re.compile(
    r"(?i)(JobName|JobArn|Time|Status|Reason|Arn|Transitions|Seconds|MetricDataList)$"
)


def unusual(bundle: Bundle, good: Bundle) -> list[str]:
    """One line for each difference that a person would look at."""
    found = []
    job, other = bundle.training, good.training
    if job and other:
        found += _phases(job, other)
        found += _request(job.raw, other.raw)
    found += _words(bundle, good)
    return found


def phases(job: SeenJob) -> dict[str, float]:
    """Seconds of each SecondaryStatus."""
    spent: dict[str, float] = {}
    for step in job.raw.get("SecondaryStatusTransitions") or ():
        begin, end = moment(step.get("StartTime")), moment(step.get("EndTime"))
        if begin is not None and end is not None:
            name = str(step.get("Status", ""))
            spent[name] = spent.get(name, 0.0) + end - begin
    if not spent and job.started is not None and job.ended is not None:
        spent["Training"] = job.ended - job.started
    return spent


def _phases(job: SeenJob, other: SeenJob) -> list[str]:
    ours, theirs = phases(job), phases(other)
    return [
        f"{name} took {ours[name]:.0f} s, in the good job {theirs[name]:.0f} s"
        for name in ours
        if name in theirs
        and max(ours[name], theirs[name], 1.0) / max(min(ours[name], theirs[name]), 1.0) >= RATIO
    ]


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Every leaf of a request by its path."""
    if isinstance(value, Mapping):
        rows: dict[str, str] = {}
        for key, inner in value.items():
            if not _OWN.search(str(key)) or key == "MaxRuntimeInSeconds":
                rows.update(flat(inner, f"{path}.{key}" if path else str(key)))
        return rows
    if isinstance(value, list):
        rows = {}
        for number, inner in enumerate(value):
            rows.update(flat(inner, f"{path}[{number}]"))
        return rows
    return {path: str(value)}


def _request(job: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    ours, theirs = flat(job), flat(other)
    return [
        f"request {path}: {ours.get(path, '(absent)')}, in the good job "
        f"{theirs.get(path, '(absent)')}"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    ][:TOLD]


def _words(bundle: Bundle, good: Bundle) -> list[str]:
    if not good.log:
        return []
    known = {_CHANGING.sub("#", s.text).strip() for s in good.log}
    new: dict[str, str] = {}
    for statement in bundle.log:
        shape = _CHANGING.sub("#", statement.text).strip()
        if shape and shape not in known:
            line = statement.text.strip()[:200]
            new.setdefault(shape, f"new in the log, {statement.source}: {line}")
    return list(new.values())[:TOLD]
