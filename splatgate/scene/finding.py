"""One thing found of a scene."""

from __future__ import annotations

from dataclasses import dataclass

#: Up to this share of photographs may be missing, unreadable or others: the odd file, which
#: trainers leave out. Above it the hand-over is broken.
MAX_MISSING = 0.05


@dataclass(frozen=True)
class Finding:
    """One thing found: ``code`` is stable; ``reason`` is one line: what, where, how to mend it."""

    code: str
    reason: str


def few(names: list[str]) -> str:
    """The first three of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
