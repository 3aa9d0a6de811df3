"""The log: one event, one line, flushed at once, readable by SageMaker's MetricDefinitions."""

from __future__ import annotations

import contextlib
import sys


def line(text: str) -> None:
    """Write one line to standard output; line breaks inside ``text`` become spaces."""
    block(" ".join(text.splitlines()) + "\n")


def block(text: str) -> None:
    """Write ``text`` as it is. Where the log is closed or full, a line is lost and not the job."""
    with contextlib.suppress(OSError, AttributeError):  # a closed standard output is None
        # Names of files may be in no encoding, and the log in one that lacks their letters.
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def event(**fields: object) -> None:
    """Write ``key=value`` pairs as one line, floats with six significant digits."""
    line(" ".join(f"{key}={_show(value)}" for key, value in fields.items()))


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return repr(text) if not text or any(c.isspace() for c in text) else text
