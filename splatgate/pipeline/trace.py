"""One walk through a state machine as it stands, what went wrong in it, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from splatgate.pipeline.answers import Job
from splatgate.pipeline.definition import State
from splatgate.pipeline.expressions import UNKNOWN


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a walk."""

    state: State
    #: In words: "ends Failed", "is refused".
    what: str
    #: The status a job ended with, or None where a call failed.
    status: str | None = None
    job: Job | None = None

    @property
    def told(self) -> str:
        """The fault in words."""
        return f"{self.state.name} {self.what}"


@dataclass(frozen=True)
class Path:
    """One walk as it stands."""

    at: str
    data: Any
    fault: Fault | None = None
    jobs: tuple[Job, ...] = ()
    #: Jobs started since the fault.
    since: tuple[Job, ...] = ()
    trail: tuple[str, ...] = ()
    #: How long the trail was when the fault came.
    began: int = 0
    #: A choice was made since the fault that only an execution can make.
    guessed: bool = False
    #: A Choice named the fault's own status on the way.
    named: bool = False
    #: After the fault it came to a state of the faultless way, before any such choice.
    rejoined: bool = False
    #: The fault is in an item's result.
    noted: bool = False
    #: The notifier that failed on the way.
    unheard: str | None = None
    #: Tasks since the last job whose effect is not known (a function that may move files).
    between: tuple[str, ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)
    visits: dict[str, int] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()

    def to(self, **changes: Any) -> Path:
        """The same with other members; `dataclasses.replace` is thirty times slower, and most of
        a walk.
        """
        other = object.__new__(Path)
        other.__dict__.update(self.__dict__)
        other.__dict__.update(changes)
        return other

    @property
    def after(self) -> tuple[str, ...]:
        """The states since the fault."""
        return self.trail[self.began :]


@dataclass(frozen=True)
class End:
    """The end of a machine's or a branch's walk."""

    path: Path
    error: str | None = None
    cause: Any = UNKNOWN


@dataclass(frozen=True)
class Started:
    """A job that the faultless walk started, and what had been started and done before it."""

    state: State
    job: Job
    before: tuple[Job, ...]
    between: tuple[str, ...]
    #: Whether it is started only after something else went wrong.
    after: bool = False

    @cached_property
    def follows(self) -> frozenset[str]:
        """States whose jobs were started before."""
        return frozenset(job.state for job in self.before)


def matches(error: str, pattern: str) -> bool:
    """Whether a catcher or retrier of ``pattern`` takes an error (contract 7.4)."""
    if pattern == "States.ALL":
        return error not in ("States.Runtime", "States.DataLimitExceeded")
    if pattern == "States.TaskFailed":
        return error not in ("States.Timeout", "States.Runtime", "States.DataLimitExceeded")
    return error == pattern
