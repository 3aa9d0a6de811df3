"""The incident note: what happened, why, the evidence, what to do, and how to see it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from splatgate.diagnose.bundle import Bundle
from splatgate.diagnose.explain import Diagnosis
from splatgate.diagnose.shapes import moment
from splatgate.evidence import write_bytes
from splatgate.sagemaker.request import MEMBERS

NOTE, REQUEST = "incident.md", "request.json"


def reproduction(bundle: Bundle, folder: Path, image: str | None, scene: str | None) -> str | None:
    """Write the failed job's request, and return the command that runs it here; None without one.

    ``image`` stands in for one that cannot be pulled, ``scene`` for the channel's data. A job that
    the training host ran names the very image.
    """
    job = bundle.training
    if job is None or "AlgorithmSpecification" not in job.raw:
        return None
    request = {key: value for key, value in job.raw.items() if key in MEMBERS}
    path = folder / REQUEST
    write_bytes(path, json.dumps(request, indent=1, default=str).encode() + b"\n")
    words = ["python", "-m", "splatgate", "job", "--request", shown(path)]
    named = str(job.raw["AlgorithmSpecification"].get("TrainingImage", ""))
    words += ["--image", image or bundle.image_id or named]
    words += ["--scene", scene or "tests/scenes/brighton_beach"]
    return shlex.join(words)


def shown(path: Path) -> str:
    """A path as a person would type it: from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def timeline(bundle: Bundle) -> list[tuple[float, str]]:
    """What happened when, in order."""
    found: list[tuple[float, str]] = []
    for job in bundle.jobs:
        for step in job.raw.get("SecondaryStatusTransitions") or ():
            at = moment(step.get("StartTime"))
            if at is not None:
                text = f"{job.name}: {step.get('Status', '')} {step.get('StatusMessage', '')}"
                found.append((at, text.strip()))
        if job.ended is not None:
            found.append((job.ended, f"{job.name}: ended {job.status}"))
    for event in bundle.history:
        kind = str(event.get("type", ""))
        at = moment(event.get("timestamp"))
        if at is not None and (kind.endswith(("StateEntered", "Failed", "TimedOut", "Aborted"))):
            details = next((v for k, v in event.items() if k.endswith("EventDetails")), None) or {}
            what = details.get("name") or details.get("error") or ""
            found.append((at, f"{kind} {what}".strip()))
    return sorted(found)


def note(
    bundle: Bundle,
    diagnosis: Diagnosis,
    unusual: Sequence[str],
    command: str | None,
) -> str:
    """The note as Markdown."""
    job = bundle.training
    name = job.name if job else str((bundle.execution or {}).get("name", "an execution"))
    lines = [f"# Incident: {name}", ""]
    if job:
        lines += [f"- status: {job.status} {job.secondary}".rstrip()]
        image = (job.raw.get("AlgorithmSpecification") or {}).get("TrainingImage")
        lines += [f"- image: `{image}`"] if image else []
        lines += [f"- failure: {job.reason}"] if job.reason else []
    if bundle.execution:
        lines += [f"- execution: {bundle.execution.get('status')}"]
    lines += ["", "## Cause", ""]
    if not diagnosis.ranked:
        told = "nothing known explains it" if diagnosis.failed else "nothing that is known failed"
        lines.append(f"Unknown: {told}.")
        lines += [f"- `{quote.source}`: {quote.line}" for quote in diagnosis.last_words]
    for number, found in enumerate(diagnosis.ranked, 1):
        lines += [f"{number}. **{found.item}** {found.cause}"]
        lines += [f"   - `{quote.source}`: `{quote.line}`" for quote in found.evidence]
        lines += [f"   - remedy: {found.remedy}"]
        lines += [f"   - known from: {found.known}"] if found.known else []
    if unusual:
        lines += ["", "## Unusual against the last good job", "", *(f"- {u}" for u in unusual)]
    if command:
        lines += ["", "## See it again", "", "```", command, "```"]
    lines += ["", "## Timeline (UTC)", ""]
    for at, text in timeline(bundle)[:200]:
        lines.append(f"- {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} {text}")
    if bundle.missing:
        lines += ["", "## Not collected", ""]
        lines += [f"- {m.get('what')}: {m.get('why')} ({m.get('action')})" for m in bundle.missing]
    lines += ["", "## Follow-ups", "", "- [ ] the fix, and the check that would have caught it", ""]
    return "\n".join(lines)
