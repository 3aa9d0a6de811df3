"""Text that an image printed, made fit to be shown: no sequence in it reaches a terminal. And the
patterns that others wrote, searched for in time that grows with the text alone.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from splatgate.evidence.files import BadInput

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


@cache
def pattern(expression: str) -> Any:
    """A regular expression that a profile or a request holds, compiled by RE2, which never goes
    back over a text: (.|.)*$ would keep Python's own engine for ever.

    Raises:
        BadInput: it is none, or needs to look ahead or back.
    """
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        said = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        how = "write it in RE2's syntax, without looking ahead or back"
        raise BadInput(f"regular expression {expression[:200]!r}: {said}; {how}") from None
