"""Evidence of a state machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from splatgate.evidence.header import Origin


@dataclass(frozen=True)
class Pipeline:
    """A state machine as it was written, or as it is deployed."""

    #: File or ARN.
    source: str
    #: Amazon States Language; empty where the text could not be read.
    definition: dict[str, Any]
    #: What is wrong with it as text: no JSON, a member twice.
    problems: tuple[str, ...] = ()
    #: What the starter sends; None: not given.
    input: Any = None
    #: Name that the starter gives an execution; None: any of up to 80 characters.
    execution_name: str | None = None
    #: IAM policies by role: ``state-machine``, ``jobs``.
    policies: dict[str, Any] = field(default_factory=dict)
    #: What each hand-over between two stages holds, by name.
    contracts: dict[str, Any] = field(default_factory=dict)
    #: The deployed definition, to compare with.
    deployed: dict[str, Any] | None = None
    #: A file is judged as it is: nothing was run. ``live``: read from an account.
    origin: Origin = Origin.EMULATED
