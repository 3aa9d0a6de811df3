"""The log: one event, one line, flushed at once, readable by SageMaker's MetricDefinitions."""

from __future__ import annotations

import sys


def line(text: str) -> None:
    """Write one line to standard output; line breaks inside ``text`` become spaces."""
    sys.stdout.write(" ".join(text.splitlines()) + "\n")
    sys.stdout.flush()


def event(**fields: object) -> None:
    """Write ``key=value`` pairs as one line, floats with six significant digits."""
    line(" ".join(f"{key}={_show(value)}" for key, value in fields.items()))


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return repr(text) if not text or any(c.isspace() for c in text) else text
