"""One container of a job: watched to its end, and what the engine says of it then."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from splatgate import evidence
from splatgate.evidence import Attempt
from splatgate.sagemaker.assumptions import MIB
from splatgate.sagemaker.logs import Follower, nanoseconds, read_log
from splatgate.sagemaker.resources import LOG_LIMIT, HostFailed

#: How often the engine is asked whether the container still runs (seconds).
POLL = 0.3
SIGKILL_EXIT = 137
#: An engine reports an event this long after the container's end at the latest (ns).
EVENT_LAG = 500_000_000
#: Ends with SIGTERM and a time to save; whatever else ends a container kills it at once.
STOPS = ("StopTrainingJob", "MaxRuntimeExceeded", "MaxWaitTimeExceeded")


@dataclass(frozen=True)
class Mishap:
    """What befalls the instance during one attempt, at the first line of the log for which ``when``
    is true. ``kind`` is ``Interrupted`` (spot capacity taken away) or ``InternalServerError``.
    """

    kind: str
    when: Callable[[str], bool]


@dataclass(frozen=True)
class Terms:
    """What may end one attempt from outside. ``until`` (this host's own deadline), ``runtime``
    (MaxRuntimeInSeconds) and ``wait`` (MaxWaitTimeInSeconds) are monotonic times in seconds,
    ``grace`` the seconds from SIGTERM to SIGKILL.
    """

    until: float
    runtime: float
    wait: float | None
    grace: float
    stop_when: Callable[[str], bool] | None = None
    mishap: Mishap | None = None
    #: A spot interruption is told with SIGTERM (not documented).
    spot_sigterm: bool = False

    def asked(self, now: float, line: str | None) -> str | None:
        """Why the attempt has to end, or None."""
        if line is not None:
            if self.mishap is not None and self.mishap.when(line):
                return self.mishap.kind
            if self.stop_when is not None and self.stop_when(line):
                return "StopTrainingJob"
        if now > self.runtime:
            return "MaxRuntimeExceeded"
        return "MaxWaitTimeExceeded" if self.wait is not None and now > self.wait else None

    def gently(self, why: str) -> bool:
        """Whether the program hears SIGTERM first."""
        return why in STOPS or (why == "Interrupted" and self.spot_sigterm)


@dataclass
class Watched:
    """What one attempt came to."""

    attempt: Attempt
    start: int = 0
    stop_seconds: float | None = None
    log: tuple[evidence.LogLine, ...] = ()
    notes: list[str] = field(default_factory=list)


def watch(
    client: Any, container: Any, terms: Terms, say: Callable[[str], None], every: float, first: int
) -> Watched:
    """Wait for a running container's end, or bring it about where ``terms`` ask.

    ``first`` is when the job's first container started (ns), from which its log is timed; 0 for the
    first. ``every`` is how often ``say`` gets the last line of the log, in seconds.
    """
    began = time.monotonic()
    follower = Follower(client.api, container.id)
    ended_by: str | None = None
    sent: float | None = None
    looked = said = began
    last, running = "", True
    try:
        while running:
            line = follower.next(POLL)
            now = time.monotonic()
            last = line if line is not None else last
            why = ended_by or terms.asked(now, line)
            if now > terms.until and why != "Deadline":
                why, sent = "Deadline", None
            if why is not None and sent is None:
                gently = terms.gently(why)
                say(f"{why}, {'SIGTERM' if gently else 'SIGKILL'}")
                if not signal(container, "SIGTERM" if gently else "SIGKILL"):
                    break  # It ended by itself before the stop reached it.
                ended_by, sent = why, now
            elif sent is not None and now > sent + terms.grace:
                say(f"still there {terms.grace:g} s after {ended_by}, SIGKILL")
                signal(container, "SIGKILL")
                sent = min(sent, now - terms.grace)
            if now - said >= every:
                said = now
                say(f"{now - began:.0f} s  {last.rpartition(chr(13))[2][-120:]}")
            if line is None or now - looked >= POLL:
                looked = now
                container.reload()
                running = container.attrs["State"]["Running"]
    finally:
        follower.close()
    container.reload()
    stopped_after = sent - began if sent is not None and ended_by in STOPS else None
    return _ended(client, container, ended_by, stopped_after, follower.bytes, first)


def _ended(
    client: Any,
    container: Any,
    ended_by: str | None,
    stopped_after: float | None,
    logged: int,
    first: int,
) -> Watched:
    """Read what the engine says of the ended container, before anything is removed."""
    state = container.attrs["State"]
    start, end = nanoseconds(state["StartedAt"]), nanoseconds(state["FinishedAt"])
    seconds = max(0.0, (end - start) / 10**9)
    oom = bool(state.get("OOMKilled"))
    log = read_log(client.api, container.id, first or start)
    if ended_by is None:
        events = _events(client, container.id, start, end)
        if "kill" in events:
            # `docker kill` or `docker stop` of somebody else: it says nothing of the image.
            raise HostFailed("the job's container was ended by another hand", "run it again")
        # Two events of the engine race to write OOMKilled.
        oom = oom or (state["ExitCode"] == SIGKILL_EXIT and "oom" in events)
    started = datetime.datetime.fromtimestamp(start / 10**9, datetime.UTC).isoformat()
    found = Watched(
        Attempt(started, state["ExitCode"], oom, ended_by, round(seconds, 3), len(log)), start
    )
    found.log = log
    if stopped_after is not None:
        found.stop_seconds = round(max(0.0, seconds - stopped_after), 3)
    if logged > LOG_LIMIT // 2:
        found.notes.append(f"log: {logged // MIB} MiB were printed; the engine kept the end only")
    return found


def _events(client: Any, container: str, start: int, end: int) -> set[str]:
    """Which of ``oom`` and ``kill`` the engine reports of a container (times in ns)."""
    until = end + EVENT_LAG
    events = client.events(
        since=f"{start // 10**9}.{start % 10**9:09d}",
        until=f"{until // 10**9}.{until % 10**9:09d}",
        filters={"container": container, "event": ["oom", "kill"]},
        decode=True,
    )
    return {str(event.get("Action") or event.get("status")) for event in events}


def signal(container: Any, name: str) -> bool:
    """Send a signal; False if the container has already ended."""
    import docker.errors

    try:
        container.kill(name)
    except docker.errors.NotFound:
        raise
    except docker.errors.APIError as error:
        if error.status_code == 409 or "is not running" in str(error.explanation):
            return False
        raise
    return True
