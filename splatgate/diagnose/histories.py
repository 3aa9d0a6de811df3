"""What the history of an execution gives away: who waited for whom, and which branch was taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from splatgate.diagnose.bundle import (
    BAD_ENDS,
    Bundle,
    Finding,
    SeenJob,
    Statement,
    items,
    mapping,
    said,
    text,
)
from splatgate.diagnose.bundle import details_of as _details
from splatgate.diagnose.shapes import moment


def findings(bundle: Bundle) -> Iterator[Finding]:
    """Everything that the rules below find."""
    for rule in (_masked, polls_for_ever, _next_before_the_end, _state_ends_first, _hand_over):
        yield from rule(bundle)


def _of_sagemaker(event: dict[str, Any]) -> bool:
    details = _details(event)
    words = f"{details.get('resourceType', '')} {details.get('resource', '')}".lower()
    return "sagemaker" in words


def _masked(bundle: Bundle) -> Iterator[Finding]:
    """An execution that succeeded over a job that did not."""
    if (bundle.execution or {}).get("status") != "SUCCEEDED" and not any(
        event.get("type") == "ExecutionSucceeded" for event in bundle.history
    ):
        return
    last: dict[str, SeenJob] = {job.kind: job for job in bundle.jobs}
    bad = [
        Statement("status", job.source, f"{job.name}: {job.status} {job.reason}".strip())
        for job in last.values()
        if job.status in BAD_ENDS
    ]
    open_states: dict[str, Statement] = {}
    for event, kind, details, state in bundle.walk():
        if kind in ("TaskFailed", "TaskTimedOut", "TaskSubmitFailed") and _of_sagemaker(event):
            source = f"{bundle.history_source} event {event.get('id', '?')} {kind}"
            told = f"{state}: {details.get('error', '')} {str(details.get('cause', ''))[:200]}"
            open_states[state] = Statement("history", source, told)
        elif kind == "TaskSucceeded":
            open_states.pop(state, None)
    bad += open_states.values()
    if bad:
        yield Finding(
            "sagemaker.pipeline",
            "A stage failed and the execution says SUCCEEDED: its error branch ends elsewhere "
            "than in Fail.",
            "End every Catch and every failed Choice in a Fail state, after the notification.",
            tuple(bad),
        )


def polls_for_ever(bundle: Bundle) -> Iterator[Finding]:
    """A loop that goes on asking after the job has ended."""
    for job in bundle.jobs:
        if job.status not in BAD_ENDS or job.ended is None:
            continue
        after: dict[str, list[dict[str, Any]]] = {}
        for event, kind, _, name in bundle.walk():
            at = moment(event.get("timestamp"))
            if kind.endswith("StateEntered") and at is not None and at > job.ended:
                after.setdefault(name, []).append(event)
        name, events = max(after.items(), key=lambda e: len(e[1]), default=("", []))
        if len(events) >= 4:
            last = events[-1]
            told = f"{name} entered {len(events)} times after {job.name} was {job.status}"
            source = f"{bundle.history_source} event {last.get('id', '?')}"
            yield Finding(
                "sagemaker.pipeline",
                f"The poll loop knows no way out for a job that is {job.status}.",
                "Let Completed, Failed and Stopped each leave the loop; or use .sync.",
                said("history", source, told),
            )
            return


def _next_before_the_end(bundle: Bundle) -> Iterator[Finding]:
    """A state machine that creates a job and goes on without waiting for it."""
    waiting: tuple[str, dict[str, Any]] | None = None
    for event, kind, details, state in bundle.walk():
        resource = text(details.get("resource"))
        if kind.startswith("WaitState") or re.search(
            r"(?i)describe(training|processing)job", resource
        ):
            waiting = None
        if kind != "TaskScheduled":
            continue
        if (
            waiting
            and waiting[0] != state
            and re.search(r"(?i)create\w*job|invoke|startExecution|runTask", resource)
        ):
            source = f"{bundle.history_source} event {event.get('id', '?')} TaskScheduled"
            yield Finding(
                "sagemaker.pipeline",
                f"{state} starts while the job of {waiting[0]} still runs: nothing waits for it.",
                "Use createTrainingJob.sync, or poll until a terminal status.",
                (
                    Statement(
                        "history",
                        f"{bundle.history_source} event {waiting[1].get('id', '?')}",
                        f"{waiting[0]}: {_details(waiting[1]).get('resource')}, without .sync",
                    ),
                    Statement("history", source, f"{state}: {resource}"),
                ),
            )
            return
        if re.fullmatch(r"create(Training|Processing)Job", resource):
            waiting = (state, event)


def _state_ends_first(bundle: Bundle) -> Iterator[Finding]:
    """A state's timeout that passes before, or together with, the job's own limit."""
    scheduled: dict[str, dict[str, Any]] = {}
    for event, kind, _, state in bundle.walk():
        if kind == "TaskScheduled":
            scheduled[state] = event
        elif kind == "TaskTimedOut" and state in scheduled:
            begun = _details(scheduled[state])
            found = re.search(r'"MaxRuntimeInSeconds":\s*"?(\d+)', text(begun.get("parameters")))
            job = bundle.training
            limit = int(found[1]) if found else job.limit if job else None
            timeout = begun.get("timeoutInSeconds")
            if limit and isinstance(timeout, int) and timeout <= limit + 120:
                source = f"{bundle.history_source} event {event.get('id', '?')} TaskTimedOut"
                told = f"{state}: TimeoutSeconds {timeout}, MaxRuntimeInSeconds {limit}"
                yield Finding(
                    "sagemaker.pipeline",
                    "The state's timeout passes before the job's own limit has ended it.",
                    "Let limits nest: the trainer's own < MaxRuntimeInSeconds < TimeoutSeconds, "
                    "with room for start, stop and upload.",
                    said("history", source, told),
                )


def _hand_over(bundle: Bundle) -> Iterator[Finding]:
    """A stage that reads where the stage before did not write."""
    job = bundle.training
    before = [
        j
        for j in bundle.jobs
        if j.kind == "Processing" and job and (j.ended or 0) <= (job.started or float("inf"))
    ]
    if not job or job.status not in BAD_ENDS or not before:
        return
    outputs = [
        text(mapping(o.get("S3Output")).get("S3Uri"))
        for j in before
        for o in items(mapping(j.raw.get("ProcessingOutputConfig")).get("Outputs"))
    ]
    for name, uri in job.channels.items():
        ours = uri.rstrip("/") + "/"
        theirs = [o.rstrip("/") + "/" for o in outputs if o]
        if uri and theirs and not any(ours.startswith(o) or o.startswith(ours) for o in theirs):
            wrote = f"{before[-1].name} wrote {', '.join(outputs)}"
            told = f"channel {name} reads {uri}; {wrote}"
            yield Finding(
                "sagemaker.pipeline",
                "The training channel's prefix is not where the stage before wrote.",
                "Build both prefixes from one value of the execution.",
                said("status", job.source, told),
            )
