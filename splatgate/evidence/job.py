"""Evidence of a training job, and of what the next stage made of its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from splatgate.evidence.header import Origin


@dataclass(frozen=True)
class Limits:
    """Limits of a training instance on a container. None: not set."""

    memory_bytes: int | None = None
    shm_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True)
class Member:
    """A file of a job: path inside its archive or directory, size, content hash, and kind of
    entry.
    """

    path: str
    bytes: int
    sha256: str
    #: ``file``, ``symlink``, ``link``, ``device``, ``fifo``, ``socket``
    kind: str = "file"
    mode: int = 0o644


@dataclass(frozen=True)
class LogLine:
    """One line of output. ``seconds`` counts from the container's start."""

    seconds: float
    stream: str
    text: str


@dataclass(frozen=True)
class Attempt:
    """One container of a job. A spot interruption or a retry gives the job another one."""

    #: When the container started (ISO 8601); empty when it never did.
    started: str
    exit: int | None
    oom: bool
    #: Why it was ended from outside, or None. ``Interrupted`` and ``InternalServerError`` are what
    #: another attempt may follow.
    ended_by: str | None
    #: Seconds from its start to its end.
    seconds: float
    #: How many lines of the job's log are its own.
    lines: int


@dataclass(frozen=True)
class Job:
    """What SageMaker would have kept of one training job. Names follow DescribeTrainingJob."""

    key: str
    name: str
    image_id: str
    request: dict[str, Any]
    #: Content hash of each channel's data.
    channels: dict[str, str]
    status: str  # TrainingJobStatus: Completed, Failed, Stopped
    secondary_status: str
    failure_reason: str
    #: Exit status of the container; None when it was never created.
    exit: int | None
    oom: bool
    #: Why the host ended it, or None (``splatgate.sagemaker.result.ENDERS``).
    ended_by: str | None
    #: Seconds from SIGTERM to the container's end; None when no stop was sent.
    stop_seconds: float | None
    command: tuple[str, ...]
    limits_asked: Limits
    limits_applied: Limits
    #: Seconds of Starting, Downloading, Training, Uploading.
    phases: dict[str, float]
    log: tuple[LogLine, ...]
    #: Whole text of /opt/ml/output/failure, or None.
    failure: str | None
    env_names: tuple[str, ...]
    members: tuple[Member, ...]
    output_members: tuple[Member, ...]
    checkpoint_members: tuple[Member, ...]
    #: Paths changed outside the mounts.
    writes_outside: tuple[str, ...]
    #: Rows of the contract that SageMaker does not document; emulated as configured here.
    unverified: tuple[str, ...] = ()
    started: str = ""
    origin: Origin = Origin.EMULATED
    #: Its containers, in order; the last one's end is the job's. Empty: recorded before attempts
    #: were, and then there was one.
    attempts: tuple[Attempt, ...] = ()

    @property
    def text(self) -> str:
        """The log as one text."""
        return "\n".join(line.text for line in self.log)


@dataclass(frozen=True)
class Use:
    """Bytes of the GPU's memory in use before a job and after it; None: could not be read."""

    before: int | None
    after: int | None


@dataclass(frozen=True)
class ToolRun:
    """One run of the compressor: from a file to a file, how it ended and what it said."""

    source: str
    target: str
    exit: int
    #: The last lines of its error output, without the stack.
    stderr: str
    seconds: float


@dataclass(frozen=True)
class Compression:
    """What the compression stage's tool made of a job's model."""

    tool: str
    version: str
    #: Version of Node that ran it.
    node: str
    #: Every .ply at the archive's root: the stage's finder takes the only one.
    found: tuple[Member, ...]
    runs: tuple[ToolRun, ...]
    #: What it wrote, below ``compressed/``.
    files: tuple[Member, ...]
    origin: Origin = Origin.EMULATED
