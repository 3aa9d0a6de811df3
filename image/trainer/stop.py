"""Stopping on request: SIGTERM and SIGINT ask, the loop answers at its next step."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainer.errors import TrainerError


class Stop:
    """A request to stop, and when it came.

    As PID 1 the process ignores a signal that it has no handler for, so ``install`` is the first
    thing the program does. SageMaker kills 120 s after SIGTERM.
    """

    def __init__(self) -> None:
        self.asked: float | None = None
        self.name = ""

    def install(self) -> None:
        """Install the handlers; call from the main thread before any slow import."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep our handlers through an import that installs its own; a signal meanwhile waits.

        pycolmap 4.2 brings glog's handlers, which turn SIGTERM and crashes into a stack trace that
        may hang for ever. A crash must end the process, so those go back to the default.
        """
        asking = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, asking)
        try:
            yield
        finally:
            for crash in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"):
                signal.signal(signal.Signals[crash], signal.SIG_DFL)
            self.install()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, asking)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = time.monotonic()
            self.name = signal.Signals(number).name

    def seconds_ago(self) -> float:
        """Seconds since the request, 0 if there was none."""
        return 0.0 if self.asked is None else time.monotonic() - self.asked

    def refuse_if_asked(self, doing: str) -> None:
        """Raise ``E_STOPPED`` if a stop was asked for while there is no model to write yet."""
        if self.asked is not None:
            raise TrainerError(
                "E_STOPPED",
                f"{self.name} came while {doing}, before the first step; no model was written",
            )
