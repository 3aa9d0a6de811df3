"""Named points of a run at which a test can make it die. One hook; without it nothing happens."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass

#: For tests only: ``NAME[:VISIT][=ACTION]``, such as ``checkpoint.pt.fsync:2=kill``. VISIT counts
#: from 1, ``2-`` means this and all later ones; ACTION is ``kill`` (SIGKILL to this process, the
#: default), ``oom`` or ``full``.
VARIABLE = "TRAINER_TEST_POINT"


@dataclass
class _Armed:
    name: str = ""
    visit: int = 1
    onwards: bool = False
    action: str = "kill"
    seen: int = 0


_armed = _Armed()


def arm(text: str) -> None:
    """Choose the point, from the text of ``VARIABLE``; empty text disarms."""
    global _armed
    place, _, action = text.partition("=")
    name, _, visit = place.partition(":")
    onwards = visit.endswith("-")
    _armed = _Armed(name, int(visit.rstrip("-") or 1), onwards, action or "kill")


def reached(name: str) -> None:
    """Mark a point of the run; die here if a test asked for it."""
    if name != _armed.name:
        return
    _armed.seen += 1
    if _armed.seen < _armed.visit or (_armed.seen > _armed.visit and not _armed.onwards):
        return
    if _armed.action == "oom":
        raise MemoryError(f"out of memory at {name}, as a test asked")
    if _armed.action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.kill(os.getpid(), signal.SIGKILL)
