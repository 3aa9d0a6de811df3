"""One thing that the structure of a bundle gives away, where no message does."""

from __future__ import annotations

from dataclasses import dataclass

from splatgate.diagnose.bundle import Statement


@dataclass(frozen=True)
class Finding:
    """A line of the checklist, what speaks for it, and what to do."""

    item: str
    cause: str
    remedy: str
    #: Statements of the bundle, which place it in time, or made ones.
    evidence: tuple[Statement, ...]
    #: ``names``; ``suspects``: before a failure of which only the class is known; ``points``.
    strength: str = "names"
    stage: str = ""
    #: Lines of the checklist of whose failure it is the cause, and then it names it.
    explains: tuple[str, ...] = ()


def said(kind: str, source: str, text: str) -> tuple[Statement, ...]:
    """One statement as the evidence of a finding."""
    return (Statement(kind, source, text),)
