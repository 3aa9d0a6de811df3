"""Timeouts nest: the trainer's own < MaxRuntimeInSeconds < TimeoutSeconds < the machine's.

Only then does each limit fire while the next one out can still handle it (K44; contract 1.4, 7.4,
trap 29).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from splatgate.expectations import GRACE
from splatgate.pipeline.definition import Machine
from splatgate.pipeline.expressions import Open
from splatgate.pipeline.findings import Finding
from splatgate.pipeline.json_values import member as at
from splatgate.pipeline.services import starts
from splatgate.pipeline.trace import Started

#: MaxRuntimeInSeconds when the request does not say: one day (contract 1.4).
DEFAULT_RUNTIME = {"training": 86400, "processing": 86400}
#: What a job takes beside its run: instance, image pull (5 to 13 minutes seen, contract 4), upload.
AROUND = 900
_INNER = re.compile(
    r"(?i)(time_?out|time_?limit|deadline|max_?(run_?)?time|max_?seconds|max_?minutes|max_?hours)"
)
_UNITS = (("minute", 60), ("hour", 3600), ("_ms", 0.001), ("milli", 0.001))


def nest(machine: Machine, started: dict[str, Started]) -> Iterator[Finding]:
    """Findings on the limits of each job that is started."""
    total = 0
    for name, start in started.items():
        state, request = start.state, start.job.request
        if not start.job.kind.sagemaker:
            continue
        limit = _limit(request, start.job.kind.word)
        yield from _inner(name, request, limit)
        if state.call is None or state.call.pattern != "sync":
            total += limit or 0
            continue
        outer = state.body.get("TimeoutSeconds")
        waits = at(request, "StoppingCondition", "MaxWaitTimeInSeconds")
        if isinstance(outer, int) and isinstance(waits, int) and outer <= waits + GRACE:
            yield Finding(
                name,
                "timeout",
                "must",
                f"TimeoutSeconds {outer} is not above MaxWaitTimeInSeconds {waits}: while a spot "
                f"instance is waited for, the state gives up and the job runs on",
            )
        if outer is None and "TimeoutSecondsPath" not in state.body:
            yield Finding(
                name,
                "timeout",
                "must",
                "no TimeoutSeconds: without an answer it waits 99999999 seconds; set it above "
                "MaxRuntimeInSeconds",
            )
        if isinstance(outer, int) and limit is not None:
            total += outer
            if outer <= limit + GRACE:
                yield Finding(
                    name,
                    "timeout",
                    "must",
                    f"TimeoutSeconds {outer} is not above MaxRuntimeInSeconds {limit} and the "
                    f"{GRACE:.0f} s of a stop: it abandons the job before SageMaker stops it, and "
                    f"no model is uploaded",
                )
            elif outer < limit + AROUND:
                yield Finding(
                    name,
                    "timeout",
                    "should",
                    f"TimeoutSeconds {outer} leaves {outer - limit} s for instance, image and "
                    f"upload beside MaxRuntimeInSeconds {limit}; leave {AROUND}",
                )
        if isinstance(outer, int) and machine.timeout is not None and machine.timeout <= outer:
            yield Finding(
                name,
                "timeout",
                "must",
                f"TimeoutSeconds {outer} is not below the machine's {machine.timeout}, which ends "
                f"the execution with no Catch",
            )
    limits = {"TimeoutSeconds", "TimeoutSecondsPath", "HeartbeatSeconds", "HeartbeatSecondsPath"}
    for state in machine.every() if machine.timeout is None else ():
        call = state.call
        kind = starts(call)
        if call is None or (kind and kind.sagemaker) or not call.pattern:
            continue
        if not limits & state.body.keys():
            yield Finding(
                state.name, "timeout", "should", "no TimeoutSeconds: unanswered, it waits a year"
            )
    ours = [s for s in started.values() if s.job.kind.sagemaker]
    if ours and machine.timeout is None:
        yield Finding("", "timeout", "should", "the machine has no TimeoutSeconds")
    elif ours and machine.timeout is not None and machine.timeout < total:
        polled = all(s.state.call and s.state.call.pattern != "sync" for s in ours)
        yield Finding(
            "",
            "timeout",
            "must" if polled and len(ours) == 1 else "should",
            f"the machine's TimeoutSeconds {machine.timeout} is less than its jobs may take, "
            f"{total} s: it ends the execution with no Catch, and the job runs on",
        )


def _limit(request: dict[str, Any], word: str) -> int | None:
    """MaxRuntimeInSeconds of a request; None where it is not known."""
    if word not in DEFAULT_RUNTIME or not request:
        return None
    condition = request.get("StoppingCondition", {})
    if not isinstance(condition, dict) or isinstance(condition, Open):
        return None
    value = condition.get("MaxRuntimeInSeconds", DEFAULT_RUNTIME.get(word))
    return value if isinstance(value, int) else None


def _inner(name: str, request: dict[str, Any], limit: int | None) -> Iterator[Finding]:
    """The program's own limits, as far as its parameters name them."""
    for member in ("HyperParameters", "Environment"):
        values = request.get(member)
        for key, value in values.items() if isinstance(values, dict) else ():
            seconds = _seconds(key, value)
            if limit is not None and seconds is not None and seconds >= limit:
                yield Finding(
                    name,
                    "timeout",
                    "must",
                    f"{member}.{key} = {value} is not below MaxRuntimeInSeconds {limit}: SageMaker "
                    f"stops the job before its own limit can",
                )


def _seconds(key: str, value: object) -> float | None:
    if not _INNER.search(key):
        return None
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number * next((f for word, f in _UNITS if word in key.lower()), 1)
