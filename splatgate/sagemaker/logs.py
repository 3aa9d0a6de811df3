"""A job's log: followed while it runs, read whole when it has ended."""

from __future__ import annotations

import calendar
import contextlib
import queue
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from splatgate.evidence import LogLine

#: A line without an end is followed up to here (bytes); the log itself is not cut.
MAX_TEXT = 1024 * 1024
_TIME = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?"
)


def nanoseconds(stamp: str | bytes) -> int:
    """An engine's time stamp (RFC 3339, nine decimals) as nanoseconds since 1970; 0 if none."""
    raw = stamp.encode() if isinstance(stamp, str) else stamp
    match = _TIME.match(raw)
    if not match:
        return 0
    fields = tuple(int(group) for group in match.groups()[:6])
    seconds = calendar.timegm((*fields, 0, 0, 0))
    if match[8] != b"Z":
        hours, minutes = match[8].split(b":")
        seconds -= int(hours) * 3600 + int(hours[:1] + minutes) * 60
    return seconds * 10**9 + int((match[7] or b"").ljust(9, b"0"))


def log_lines(frames: Iterable[bytes], stream: str, start: int) -> Iterator[tuple[int, LogLine]]:
    """Join the engine's frames of one stream to lines: (time in ns, line counted from ``start``).

    Each frame is one time stamp and one piece of output: a line, or 16 KiB of a longer one, which
    goes on in the next frame. A line has the time of its first piece. A carriage return stays in
    the text.
    """
    text, stamp = b"", 0
    for frame in frames:
        match = _TIME.match(frame)
        piece = frame[match.end() :] if match else frame
        stamp = stamp if text else nanoseconds(frame)
        text += piece
        if text.endswith(b"\n"):
            yield stamp, _line(text[:-1], stream, stamp, start)
            text = b""
    if text:
        yield stamp, _line(text, stream, stamp, start)


def _line(text: bytes, stream: str, stamp: int, start: int) -> LogLine:
    seconds = max(0.0, round((stamp - start) / 10**9, 6)) if stamp and start else 0.0
    return LogLine(seconds, stream, text.decode("utf-8", "replace"))


def read_log(api: Any, container: str, start: int) -> tuple[LogLine, ...]:
    """Read an ended container's log in the order of its times, as far as the engine kept it."""
    found: list[tuple[int, LogLine]] = []
    for stream in ("stdout", "stderr"):
        frames = api.logs(
            container,
            stdout=stream == "stdout",
            stderr=stream == "stderr",
            timestamps=True,
            stream=True,
            follow=False,
        )
        found += log_lines(frames, stream, start)
    found.sort(key=lambda item: item[0])
    return tuple(line for _, line in found)


class Follower:
    """Follows a running container's output in a thread and hands over whole lines through a queue.

    It serves progress and conditions on the log only; what is kept is read again when the job has
    ended.
    """

    def __init__(self, api: Any, container: str) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        #: Bytes seen so far: more than the engine keeps means that the log has lost its head.
        self.bytes = 0
        self._stream = api.logs(container, stream=True, follow=True)
        threading.Thread(target=self._follow, daemon=True, name="splatgate-log").start()

    def _follow(self) -> None:
        rest = b""
        # Ends with the container, or when close() takes the stream away under it, whatever that
        # raises.
        with contextlib.suppress(Exception):
            for chunk in self._stream:
                self.bytes += len(chunk)
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    self._lines.put(line.decode("utf-8", "replace"))
                rest = rest[-MAX_TEXT:]

    def next(self, timeout: float) -> str | None:
        """The next line, or None when none came within ``timeout`` seconds."""
        try:
            return self._lines.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Stop following."""
        with contextlib.suppress(Exception):
            self._stream.close()
