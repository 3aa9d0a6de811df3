"""Named points of a run at which a test can make it die. One hook; without it nothing happens."""

from __future__ import annotations

import errno
import os
import signal

#: For tests only: ``NAME[:VISIT][=ACTION]``, such as ``checkpoint.pt.fsync:2=kill``. VISIT counts
#: from 1; ACTION is ``kill`` (SIGKILL to this process, the default), ``oom`` or ``full``.
VARIABLE = "TRAINER_TEST_POINT"

_state: dict[str, object] = {"name": "", "left": 0, "action": ""}


def arm(text: str) -> None:
    """Choose the point, from the text of ``VARIABLE``; empty text disarms."""
    place, _, action = text.partition("=")
    name, _, visit = place.partition(":")
    _state.update(name=name, left=int(visit or 1), action=action or "kill")


def reached(name: str) -> None:
    """Mark a point of the run; die here if a test asked for it."""
    if name != _state["name"]:
        return
    _state["left"] = left = int(str(_state["left"])) - 1
    if left:
        return
    if _state["action"] == "oom":
        raise MemoryError(f"out of memory at {name}, as a test asked")
    if _state["action"] == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.kill(os.getpid(), signal.SIGKILL)
