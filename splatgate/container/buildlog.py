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

#: A line of progress at least this often, in seconds; sooner when another stage runs.
TELL = 30.0
#: Stages of image/Dockerfile in the order in which they begin, and seconds that each takes on two
#: idle cores.
USUAL = {
    "base": 8,
    "tools": 12,
    "compiler": 80,
    "torch": 100,
    "kernels": 25,
    "runtime": 25,
    "gsplat": 120,
    "export": 20,
}
#: Those that run beside another that takes longer.
BESIDE = {"compiler", "kernels", "runtime"}
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

#: A step of BuildKit's plain log: its number, and its stage or that it exports; and a step's end.
_STEP = re.compile(r"^#(?P<number>\d+) (?:\[(?P<stage>[\w-]+) +\d+/\d+\]|exporting )")
_ENDED = re.compile(r"^#(?P<number>\d+) (?:DONE|CACHED|ERROR|CANCELED)")
#: Lines that say nothing of why a build failed: the repeated command, rules, blanks.
_NOISE = re.compile(
    r"^(?:-+|\s*|#\d+ sha256:\w+|executor failed running.*|ERROR: failed to solve.*| > \[.*"
    r"|#\d+ ERROR: .*|View build details.*|Dockerfile:\d+"
    r"|\s*(?:>>>)?\s*\d+ \|.*)$"
)


class Progress:
    """What a build does, from its plain log: the stages that run, those left, and how long they
    usually take.
    """

    def __init__(self) -> None:
        self._running: dict[str, str] = {}
        self._begun: set[str] = set()

    def feed(self, line: str) -> None:
        """Take one line of the log."""
        if begun := _STEP.match(line):
            stage = begun["stage"] or "export"
            self._running[begun["number"]] = stage
            self._begun.add(stage)
        elif ended := _ENDED.match(line):
            self._running.pop(ended["number"], None)

    @property
    def step(self) -> str:
        """Stages that run; then those not begun, and the minutes that all of these usually take."""
        now = [stage for stage in USUAL if stage in self._running.values()]
        left = [stage for stage in USUAL if stage not in self._begun]
        minutes = round(sum(USUAL[stage] for stage in now + left if stage not in BESIDE) / 60)
        # Between two steps the builder reads what the next one is given: gigabytes of packages.
        parts = [", ".join(now) if now or not left else f"preparing {left.pop(0)}"]
        if left:
            parts.append(f"then {', '.join(left)}")
        return f"{'; '.join(parts) or 'ending'} (usually {max(1, minutes)} min)"


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
                # Steps that end within a second of each other are told as one.
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
