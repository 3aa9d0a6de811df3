"""A second, instrumented run of the trainer: what Python's audit events tell of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from splatgate.evidence.missing import NotVerified
from splatgate.sagemaker.audit.hook import MARK

HOOK = Path(__file__).with_name("hook.py")
#: Folder of the training channel that holds the hook, and makes the interpreter find it.
FOLDER = ".splatgate"
PYTHONPATH = f"/opt/ml/input/data/training/{FOLDER}"
#: Addresses of the container itself, which no network carries.
_LOCAL = re.compile(r"(127\.|0\.0\.0\.0|localhost\b|::1|ip6-localhost|::ffff:127\.)")
#: Commands that install, download or compile.
_FETCHES = re.compile(
    r"(^|[\s/])((pip[\d.]*|uv|conda|mamba|apt|apt-get)\s(.*\s)?install\b|(curl|wget)\s|ninja\s+-[vCj]|nvcc\s+(?!--version)"
    r"|git\s(.*\s)?(clone|fetch|pull)\b)"
)


@dataclass(frozen=True)
class Event:
    """One thing that the interpreter reached for. ``event`` is start, connect, lookup, process,
    open or error; ``at`` the file and line that led there.
    """

    event: str
    what: str
    at: str

    @property
    def fetches(self) -> bool:
        """Whether it asks a network, installs, downloads or compiles."""
        if self.event == "process":
            return _FETCHES.search(self.what) is not None
        asks = self.event in ("connect", "lookup") and self.what
        return bool(asks) and not _LOCAL.match(self.what)

    @property
    def told(self) -> str:
        """The event for people."""
        return f"{self.event} {self.what} at {self.at or 'no line of Python'}"


def read(lines: Iterable[str]) -> tuple[Event, ...]:
    """The events among the lines of a log.

    Raises:
        NotVerified: the hook was not loaded, or not all that it said is there.
    """
    texts = [line[line.index(MARK) + len(MARK) :] for line in lines if MARK in line]
    try:
        found = tuple(msgspec.json.decode(text, type=Event) for text in texts)
    except msgspec.MsgspecError as error:
        raise NotVerified(f"the log of the instrumented run is not whole: {error}") from None
    if broken := [e.told for e in found if e.event == "error"]:
        raise NotVerified(f"the audit hook failed: {broken[0]}")
    if not any(event.event == "start" for event in found):
        raise NotVerified("the audit hook was not loaded: no Python 3.8, or one started with -I")
    return found
