"""Ctrl-C and SIGTERM: the first ends the run, once, and further ones do not disturb its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """What this process was told."""

    def __init__(self) -> None:
        self.seen = False
        #: While a run ends, an interrupt is noted and breaks nothing off.
        self.ending = False

    def install(self) -> None:
        """Take the signals over; a shell's background job starts with SIGINT ignored."""
        for number in STOPS:
            signal.signal(number, self._take)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def release(self) -> None:
        """Leave the signals to what comes after, once the end is over."""
        for number in STOPS:
            signal.signal(number, signal.default_int_handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        first, self.seen = not self.seen, True
        if first and not self.ending:
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()


@contextmanager
def held() -> Iterator[None]:
    """Hold the signals back, from this process and from those started in the block."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
