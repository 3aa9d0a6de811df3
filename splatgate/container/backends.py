"""testinfra backends: one that looks into a running container and records, one that replays the
recording.

Both answer the same testinfra modules (``host.file``, ``host.run`` …) with the same bytes.
"""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import msgspec
from filelock import FileLock
from testinfra.backend.base import CommandResult
from testinfra.backend.docker import DockerBackend

from splatgate.evidence import BadInput, Command

#: No look into a container needs longer; imports of torch have the probe's own bound.
TIMEOUT = 120.0
#: Bytes of one answer; the longest honest one, the probe's list of all files, has 2 MB.
ANSWER = 64_000_000


class LookFailed(Exception):
    """The container could not be asked: it died, or did not answer in time. Never a verdict on the
    image.
    """


class NotRecorded(Exception):
    """The recording holds no answer to this question."""


class Recording:
    """Commands and their answers, one JSON line each, shared by all processes of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: dict[str, Command] = {}
        self._offset = 0

    def find(self, command: str) -> Command | None:
        """Look up a command, reading what other processes have added since the last look."""
        if command not in self._seen and self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    try:
                        record = msgspec.json.decode(line, type=Command)
                    except msgspec.DecodeError as error:
                        raise BadInput(f"{self.path}: {error}; record it anew") from None
                    self._seen[record.command] = record
                self._offset = file.tell()
        return self._seen.get(command)

    def add(self, record: Command) -> None:
        """Append one answer."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")


class ReplayBackend(DockerBackend):  # type: ignore[misc]
    """Answers from a recording, without an engine."""

    NAME = "splatgate-replay"

    def __init__(self, name: str, recording: Recording) -> None:
        super().__init__(name)
        self.recording = recording
        # testinfra would ask the container for its encoding; the recording is text already.
        self._encoding = "UTF-8"

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        """Answer ``command``, once for all who ask."""
        text = self.get_command(command, *args)
        answer = self.recording.find(text) or self.ask(text)
        return CommandResult(
            self, answer.status, text.encode(), answer.stdout.encode(), answer.stderr.encode()
        )

    def ask(self, text: str) -> Command:
        """Refuse: what was not recorded is not verified.

        Raises:
            NotRecorded: always.
        """
        raise NotRecorded(f"not recorded: {text}")


class RecordingBackend(ReplayBackend):
    """Asks a running container, each command once, within a time bound, and only while the
    container lives.
    """

    NAME = "splatgate"

    def ask(self, text: str) -> Command:
        """Run ``text`` with the container's /bin/sh and record the answer.

        Raises:
            LookFailed: the container is gone, or the command did not end in time.
        """
        with FileLock(f"{self.recording.path}.lock"):
            if (answer := self.recording.find(text)) is not None:
                return answer
            answer = execute(self.name, ["/bin/sh", "-c", text])
            self.recording.add(answer)
            return answer


def execute(
    container: str, argv: list[str], *, stdin: bytes = b"", timeout: float = TIMEOUT
) -> Command:
    """Run ``argv`` in a running container with `docker exec`.

    Raises:
        LookFailed: the container is gone (then testinfra would answer "does not exist" to
        everything),
            or the command did not end within ``timeout`` seconds.
    """
    started = time.monotonic()
    try:
        status, out, err = bounded(["docker", "exec", "-i", container, *argv], stdin, timeout)
    except subprocess.TimeoutExpired:
        raise LookFailed(f"no answer within {timeout:.0f} s: {' '.join(argv)[:200]}") from None
    if max(len(out), len(err)) > ANSWER:
        raise LookFailed(f"an answer of more than {ANSWER} bytes: {' '.join(argv)[:200]}")
    if status != 0 and not is_running(container):
        raise LookFailed(f"container {container[:12]} is not running any more")
    return Command(
        command=argv[-1],
        status=status,
        stdout=out.decode(errors="backslashreplace"),
        stderr=err.decode(errors="backslashreplace"),
        seconds=round(time.monotonic() - started, 3),
    )


def bounded(argv: list[str], stdin: bytes, timeout: float) -> tuple[int, bytes, bytes]:
    """Run a program; its status, output and errors. It is ended where one of these is longer than
    `ANSWER`, and then that is one byte longer.

    Raises:
        subprocess.TimeoutExpired: it did not end within ``timeout`` seconds.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe)

    def take(stream: IO[bytes]) -> bytes:
        data = stream.read(ANSWER + 1)
        if len(data) > ANSWER:
            process.kill()
        return data

    def feed(stream: IO[bytes]) -> None:
        # Who does not read to the end has said all the same.
        with suppress(BrokenPipeError), stream:
            stream.write(stdin)

    given, *said = (cast(IO[bytes], s) for s in (process.stdin, process.stdout, process.stderr))
    with ThreadPoolExecutor(3) as pool:
        pool.submit(feed, given)
        out, err = (pool.submit(take, stream) for stream in said)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return status, out.result(), err.result()


def is_running(container: str) -> bool:
    """Whether the engine says that the container runs."""
    done = subprocess.run(
        ["docker", "inspect", "-f", "{{.State.Running}}", container],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout.strip() == "true"
