"""Text that an image printed, made fit to be shown: no sequence in it reaches a terminal."""

from __future__ import annotations

import re

#: Characters of one answer that are shown; the whole stands in the evidence.
SHOWN = 4000
#: Escape sequences as a whole (ECMA-48: CSI; OSC and its like up to their end; others).
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*"
    r"(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]?"
)


def plain(text: str, limit: int = SHOWN) -> str:
    """Text without control characters, escape sequences and what is no UTF-8; tab and newline stay.

    What is longer than ``limit`` characters is cut, and says so.
    """
    cut = text[: limit + 1]
    cut = _ESCAPES.sub("", cut).encode(errors="backslashreplace").decode()
    kept = "".join(
        c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut
    )
    return kept if len(text) <= limit else f"{kept[:limit]} … ({len(text)} characters)"
