"""The incident note, the request, and the command that runs it again where it can run again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from splatgate.diagnose.bundle import BAD_ENDS, Bundle, SeenJob, text
from splatgate.diagnose.explain import Diagnosis
from splatgate.diagnose.redact import prose, shown
from splatgate.diagnose.shapes import moment, short
from splatgate.evidence import to_json, write_bytes
from splatgate.sagemaker.request import MEMBERS

NOTE, REQUEST = "incident.md", "request.json"
#: Lines of the timeline that fit two pages with the rest.
LINES = 30


@dataclass(frozen=True)
class Reproduction:
    """How to see the failure again here."""

    #: The command, or None where something is missing.
    command: str | None
    #: What it needs that is not at hand.
    needs: tuple[str, ...]


def reproduction(
    bundle: Bundle,
    diagnosis: Diagnosis,
    folder: Path,
    image: str | None,
    scene: str | None,
    clean: Callable[[str], str],
) -> Reproduction:
    """Write the failed job's request, and say what runs it here, or what that needs.

    ``image`` stands in for one that cannot be pulled, ``scene`` is the channel's data. A job that
    the training host ran names the very image, which is here.
    """
    job = bundle.training
    if job is None or "AlgorithmSpecification" not in job.raw:
        asked = "the job's request: `aws sagemaker describe-training-job` in JSON"
        return Reproduction(None, (asked,))
    first = diagnosis.ranked[0].stage if diagnosis.ranked else ""
    other = bundle.job(first)
    if (other and other.kind != "Training") or (first and other is None):
        where = f"what failed is {first}, which no training job runs: see it in its own stage"
        return Reproduction(None, (where,))
    request = {key: value for key, value in job.raw.items() if key in MEMBERS}
    path = folder / REQUEST
    write_bytes(path, to_json(shown(request, clean)))
    needs: list[str] = []
    image = image or bundle.image_id
    if image is None:
        named = job.image or "the job's"
        needs.append(f"--image REF: {named}, pulled or built here")
    if scene is None:
        sent = ", ".join(f"{k} from {v}" for k, v in job.channels.items()) or "the channel's data"
        needs.append(f"--scene DIR: a copy of the data ({sent})")
    if needs:
        return Reproduction(None, tuple(needs))
    words = ["python", "-m", "splatgate", "job", "--request", near(path)]
    words += ["--image", str(image), "--scene", str(scene)]
    return Reproduction(shlex.join(words), ())


def near(path: Path) -> str:
    """A path as a person would type it: from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def timeline(bundle: Bundle) -> list[tuple[float, str]]:
    """Each change of state, in order; a poll loop is told once."""
    found: list[tuple[float, str]] = []
    for job in bundle.jobs:
        for step in job.transitions:
            at = moment(step.get("StartTime"))
            if at is not None:
                found.append((at, f"{job.name}: {text(step.get('Status'))}"))
        if job.ended is not None and not job.transitions:
            found.append((job.ended, f"{job.name}: ended {job.status}"))
    entered: set[str] = set()
    for event, kind, details, name in bundle.walk():
        at = moment(event.get("timestamp"))
        if at is None or not kind.endswith(
            ("StateEntered", "Failed", "TimedOut", "Aborted", "Succeeded")
        ):
            continue
        if kind.endswith("StateEntered"):
            if name in entered:
                continue
            entered.add(name)
            found.append((at, f"state {name}"))
        elif not kind.endswith("Succeeded") or kind == "ExecutionSucceeded":
            found.append((at, f"{kind} {text(details.get('error'))}".strip()))
    return sorted(found)


def happened(bundle: Bundle, diagnosis: Diagnosis) -> str:
    """What happened, in two sentences."""
    job = next((j for j in bundle.jobs if j.status in BAD_ENDS), None) or bundle.training
    spent = job.ended - job.started if job and job.started and job.ended else None
    if job:
        on = f" on {job.instance}" if job.instance else ""
        took = f" after {spent / 60:.0f} minutes" if spent and spent > 0 else ""
        first = (
            f"{job.kind} job {job.name or '(no name)'}{on} ended {job.status or 'unknown'}{took}."
        )
    elif bundle.execution:
        name, status = (text(bundle.execution.get(k)) for k in ("name", "status"))
        first = f"Execution {name} ended {status}."
    else:
        first = "A log was handed over, and no service says how its job ended."
    if diagnosis.verdict == "well":
        return f"{first} Nothing contradicts that."
    if diagnosis.verdict == "cause":
        return f"{first} {diagnosis.ranked[0].cause}"
    return f"{first} Its cause is not known; its last words stand below."


def note(
    bundle: Bundle,
    diagnosis: Diagnosis,
    unusual: Sequence[str],
    again: Reproduction,
    clean: Callable[[str], str],
    redacted: bool,
) -> str:
    """The note as Markdown: every text from the bundle goes through ``clean`` and ``prose``."""

    def told(value: str) -> str:
        return prose(clean(value))

    job = bundle.training
    name = job.name if job else text((bundle.execution or {}).get("name")) or "a log"
    last = diagnosis.last_words
    lines = [f"# Incident: {told(name)}", "", told(happened(bundle, diagnosis)), ""]
    if not redacted:
        lines += [
            "**Not redacted: account numbers, addresses and credentials may stand below.**",
            "",
        ]
    lines += ["## Last words", "", f"- ended: {told(last.ending)}"]
    if last.error:
        lines += [f"- error: {told(last.error.source)}: **{told(last.error.line)}**"]
    lines += [f"- in the job's own code: {told(last.frame)}"] if last.frame else []
    if last.first:
        lines += [f"- first error: {told(last.first.source)}: {told(last.first.line)}"]
    lines += [f"- before it: {told(q.line)}" for q in last.context if q.line.strip()]
    title = {"cause": "Cause", "well": "Well", "unknown": "Cause: unknown"}[diagnosis.verdict]
    lines += ["", f"## {title}", ""]
    if diagnosis.verdict == "unknown":
        lines += ["Nothing known names it." + (" Places to look:" if diagnosis.ranked else ""), ""]
    if diagnosis.verdict == "well":
        lines += ["A service says that it ended well, and nothing in the bundle contradicts it."]
    for number, found in enumerate(diagnosis.ranked[:5], 1):
        stage = f" ({told(found.stage)})" if found.stage and len(bundle.jobs) > 1 else ""
        lines += [f"{number}. **{found.item}**{stage} {told(found.cause)}"]
        lines += [f"   - {told(q.source)}: {told(short(q.line, 240))}" for q in found.evidence[:2]]
        lines += [f"   - remedy: {told(found.remedy)}"]
    if unusual:
        lines += [
            "",
            "## Unusual against the last good job",
            "",
            *(f"- {told(u)}" for u in unusual),
        ]
    if moments := timeline(bundle):
        lines += ["", "## Timeline (UTC)", ""]
        dropped = len(moments) - LINES
        shown_ = moments if dropped <= 0 else [*moments[: LINES // 2], *moments[-LINES // 2 :]]
        for at, what in shown_:
            lines.append(f"- {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} {told(what)}")
        lines += [f"- ({dropped} more between)"] if dropped > 0 else []
    lines += ["", "## What was read", "", f"- read: {told(_some(bundle.read))}"]
    lines += [f"- not read: {told(u)}" for u in bundle.unread[:10]]
    lines += [f"- not read: {len(bundle.unread) - 10} more"] if len(bundle.unread) > 10 else []
    lines += [
        f"- not collected: {told(' '.join(text(m.get(k)) for k in ('what', 'why', 'action')))}"
        for m in bundle.missing[:10]
    ]
    lines += ["", "## Next", ""]
    if diagnosis.verdict == "cause":
        lines += [f"- [ ] {told(diagnosis.ranked[0].remedy)}"]
    elif diagnosis.verdict == "unknown":
        lines += [f"- [ ] {told(step)}" for step in _missing_for(bundle, job)]
    if again.command:
        lines += ["- [ ] see it again here:", "", "```", clean(again.command), "```", ""]
    else:
        lines += [f"- [ ] to see it again here: {told('; '.join(again.needs))}"]
    if diagnosis.verdict != "well":
        lines += ["- [ ] record it as a fault (CONTRIBUTING.md), so that the next image is refused"]
    return "\n".join([*lines, ""])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more or "nothing"


def _missing_for(bundle: Bundle, job: SeenJob | None) -> list[str]:
    """What would tell more."""
    steps = []
    if not bundle.ends:
        steps.append("add `aws sagemaker describe-training-job` (or describe-processing-job)")
    elif job is None and not bundle.jobs:
        steps.append("add the description of the job that the failed state started")
    if not bundle.log:
        steps.append("add the job's log streams (`aws logs get-log-events`)")
    return steps or ["read the log around the last words; compare with a good job (--good)"]
