"""Runs a build, keeps its log with times, tells how it goes, and says in a line why it failed."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from splatgate.container.engine import EngineError, say

#: A line of progress at least this often, in seconds.
TELL = 10.0
#: Seconds that the builder gets to end after an interrupt, before it is killed.
GRACE = 10.0


@dataclass(frozen=True)
class Cause:
    """A reason outside image/ why builds fail: what the log says, what it means, what helps."""

    pattern: str
    what: str
    how: str


NO_NAMES = Cause(
    r"Temporary failure in name resolution|Temporary failure resolving|Name or service not known"
    r"|Network is unreachable|\[Errno -[235]\]",
    "names do not resolve inside the build",
    "mend the engine's DNS (/etc/docker/daemon.json), or give mirrors: APT_MIRROR, PIP_INDEX_URL",
)
CAUSES = (
    Cause(
        r"CERTIFICATE_VERIFY_FAILED|(?i:certificate verif(?:y|ication) failed)",
        "the package index's or mirror's certificate is not trusted inside the build",
        "where the network inspects TLS, add its CA to this machine's store, or give it: "
        "EXTRA_CA=/path/to/bundle.pem make image",
    ),
    Cause(
        r"No space left on device",
        "the engine's disk is full",
        "docker system prune, or move the engine's data-root",
    ),
    Cause(
        r"DO NOT MATCH THE HASHES",
        "a package differs from the hash in its lock",
        "use the index that the locks were made from, or make them again: "
        "image/requirements/lock.sh",
    ),
    NO_NAMES,
    Cause(
        r"Could not find a version that satisfies|No matching distribution found",
        "the package index lacks a locked package",
        "give a complete index: PIP_INDEX_URL=https://... make image",
    ),
    Cause(
        r"Unable to locate package|has no installation candidate",
        "the base or its mirror lacks a Debian package",
        "use a base of Debian trixie (BASE) and a complete mirror (APT_MIRROR)",
    ),
    Cause(
        r"(?m)(?:^|\s)Killed$|[Kk]illed signal|signal 9",
        "the compiler was killed, most likely for want of memory",
        "free some: one compiler takes up to 3 GB",
    ),
)

#: A step of BuildKit's plain log: number, stage and place, instruction.
_STEP = re.compile(r"^#(\d+) (\[[^\]]+\] .+|exporting .+|importing .+)")
_OUTPUT = re.compile(r"^#(\d+) ")
#: Lines that say nothing of why a build failed: the repeated command, rules, blanks.
_NOISE = re.compile(
    r"^(?:-+|\s*|#\d+ sha256:\w+|executor failed running.*|ERROR: failed to solve.*| > \[.*"
    r"|#\d+ ERROR: .*|View build details.*|Dockerfile:\d+"
    r"|\s*(?:>>>)?\s*\d+ \|.*)$"
)


class Progress:
    """What a build does, from its plain log: the steps begun and not done."""

    def __init__(self) -> None:
        self._running: dict[str, str] = {}
        self._latest = "starting"

    def feed(self, line: str) -> None:
        """Take one line of the log."""
        begun = _STEP.match(line)
        if begun:
            self._running[begun.group(1)] = short(begun.group(2))
        found = _OUTPUT.match(line)
        if not found:
            return
        number = found.group(1)
        if re.match(r"^#\d+ (?:DONE|CACHED|ERROR|CANCELED)", line):
            self._running.pop(number, None)
        elif number in self._running:
            self._latest = self._running[number]

    @property
    def step(self) -> str:
        """The step that spoke last, or another that runs."""
        if self._latest not in self._running.values() and self._running:
            self._latest = list(self._running.values())[-1]
        return self._latest


def short(step: str) -> str:
    """A step in a few words: its stage, and the instruction without its mounts."""
    words = re.sub(r"--mount=\S+\s*", "", step)
    words = re.sub(r"\s+", " ", words)
    return words if len(words) <= 72 else f"{words[:71]}…"


def run_logged(argv: Sequence[str], env: dict[str, str], log: Path, tell: float = TELL) -> int:
    """Run a build to its end. Returns its exit status.

    Each line of output goes to ``log`` behind the seconds since the start, so that a lost build can
    be read as far as it came. Interrupted, it ends the builder before it raises.

    Args:
        argv: the command.
        env: its environment.
        log: where the output goes.
        tell: seconds between two lines of progress.
    """
    begun = time.monotonic()
    lines: queue.Queue[str | None] = queue.Queue()
    progress = Progress()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            # Its own group: a Ctrl-C reaches us, and we end it in order.
            start_new_session=True,
        )
        if process.stdout is None:
            raise AssertionError("stdout is a pipe")
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        told, said = begun, ""
        try:
            while True:
                try:
                    line = lines.get(timeout=1.0)
                except queue.Empty:
                    line = ""
                if line is None:
                    return process.wait()
                if line:
                    file.write(f"{time.monotonic() - begun:8.2f} {line}")
                    file.flush()
                    progress.feed(line)
                now = time.monotonic()
                step = progress.step
                if now - told >= tell or (step != said and now - told >= 1.0):
                    say(f"image: {now - begun:4.0f} s  {step}")
                    told, said = now, step
        finally:
            if process.poll() is None:
                end(process)


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def end(process: subprocess.Popen[str]) -> None:
    """End a builder: ask first, so that it takes its build back from the engine."""
    process.terminate()
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def failure(text: str, status: int, log: Path) -> EngineError:
    """Why a build failed: one line, then the last lines that say something.

    Args:
        text: the build's log.
        status: the builder's exit status.
        log: where the log is kept.
    """
    plain = [re.sub(r"^ *\d+\.\d\d ", "", line) for line in text.splitlines()]
    last = [line for line in plain if line.strip() and not _NOISE.match(line)][-6:]
    shown = "".join(f"\n  {line[:200]}" for line in last)
    for cause in CAUSES:
        if re.search(cause.pattern, "\n".join(plain)):
            return EngineError(f"the build failed: {cause.what}", f"{cause.how}; log {log}{shown}")
    return EngineError(f"the build failed with {status}", f"see {log}{shown}")
