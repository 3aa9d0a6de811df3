"""One thing that the structure of a bundle gives away."""

from __future__ import annotations

from dataclasses import dataclass

from splatgate.diagnose.bundle import SeenJob, Statement


@dataclass(frozen=True)
class Finding:
    """One thing that the structure gives away."""

    item: str
    cause: str
    remedy: str
    evidence: tuple[Statement, ...]
    strength: str = "names"
    known: str = ""


def said(kind: str, source: str, text: str) -> tuple[Statement, ...]:
    """One statement as the evidence of a finding."""
    return (Statement(kind, source, text),)


def limit_of(job: SeenJob) -> int | None:
    """MaxRuntimeInSeconds of a job, or None."""
    value = (job.raw.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds")
    return int(value) if value else None
