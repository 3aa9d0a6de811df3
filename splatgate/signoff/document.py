"""The sign-off as a document: what was decided on an image, on what, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from splatgate import verdict
from splatgate.evidence import Machine
from splatgate.record import Check, ImageFacts, State, Suite
from splatgate.signoff.measures import Measured
from splatgate.signoff.policy import Threshold
from splatgate.signoff.validation import Refusal

SCHEMA = "splatgate/gate/1"


@dataclass(frozen=True)
class Line:
    """One line of the checklist under the policy."""

    id: str
    section: str
    sentence: str
    #: Lanes in which the policy requires it; empty: not required by this policy.
    required: tuple[str, ...]
    state: State
    lanes: dict[str, State]
    remedy: str
    why: str
    cause: str
    ours: bool
    checks: tuple[Check, ...]
    #: Lanes in which the checklist requires it, and this policy does not ask.
    unasked: tuple[str, ...] = ()

    @property
    def without(self) -> str:
        """What a line that holds was not asked: `` without GPU``; "" where all was."""
        if self.state != State.HELD or not self.unasked:
            return ""
        return f" without {', '.join('GPU' if x == 'gpu' else x for x in self.unasked)}"


@dataclass(frozen=True)
class Missing:
    """One required cell without passed evidence, and the command that would verify it."""

    item: str
    lane: str
    reason: str
    command: str


@dataclass(frozen=True)
class Waived:
    """A waiver that was used, or could be."""

    item: str
    reason: str
    owner: str
    expires: date
    days_left: int
    #: State of the item that it waives; ``held``: it is of no use any more.
    state: State
    soon: bool


@dataclass(frozen=True)
class Bound:
    """A threshold of the policy and the value measured, None where nothing was."""

    threshold: Threshold
    value: float | None
    holds: bool | None


@dataclass(frozen=True)
class Source:
    """Evidence that took part. ``suite`` is the one that collected it."""

    file: str
    sha256: str
    run: str
    created: str
    door: str
    machine: Machine
    suite: Suite
    lanes: tuple[str, ...]
    origins: tuple[str, ...]
    supporting: bool
    signed_by: str | None
    seconds: float | None


@dataclass(frozen=True)
class Released:
    """What a registry serves since."""

    repository: str
    tag: str
    digest: str
    media_type: str
    at: str
    #: Digest that the tag named before, or None.
    before: str | None = None
    #: Tags that were moved with it, such as ``latest``.
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Override:
    """A release in spite of the verdict. It stands here for ever."""

    reason: str
    by: str
    at: str


@dataclass(frozen=True)
class Past:
    """An earlier decision on the same digest."""

    created: str
    policy: str
    verdict: str
    approver: str | None
    override: Override | None
    released: Released | None


@dataclass(frozen=True)
class Change:
    """A measure, then and now, and the change in percent of then."""

    measure: str
    before: float
    now: float
    change: float | None


@dataclass(frozen=True)
class Compared:
    """What changed since the last approved digest."""

    digest: str
    created: str
    newly_failing: tuple[str, ...]
    newly_passing: tuple[str, ...]
    measures: tuple[Change, ...]
    #: Package, then, now; "" where it is not installed.
    packages: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Unseen:
    """What no record of any machine has shown."""

    what: str
    why: str
    command: str


@dataclass(frozen=True)
class Signoff:
    """The decision on one image (``splatgate/gate/1``)."""

    verdict: str
    policy: str
    policy_sha256: str
    checklist_sha256: str
    manifest_digest: str | None
    image: ImageFacts
    why: str
    about: str
    created: str
    lines: tuple[Line, ...]
    refused: tuple[Refusal, ...]
    missing: tuple[Missing, ...]
    waived: tuple[Waived, ...]
    bounds: tuple[Bound, ...]
    sources: tuple[Source, ...]
    measured: Measured
    #: Required lines by their state.
    counts: dict[str, int]
    never: tuple[Unseen, ...] = ()
    #: Whether policy.toml stood as it stands when the records were made; None: they do not say.
    policy_known: bool | None = None
    approver: str | None = None
    override: Override | None = None
    released: Released | None = None
    compared: Compared | None = None
    history: tuple[Past, ...] = ()
    #: The suite that judged and decided.
    suite: Suite | None = None
    #: Whether the policy lets an image be promoted.
    may_release: bool = False
    #: Why nothing was promoted though it was asked for.
    not_released: str = ""
    exit: int = 0
    schema: str = SCHEMA

    @property
    def approved(self) -> bool:
        """Whether it stands behind a release."""
        return self.released is not None or bool(
            self.verdict == verdict.CONFORMANT and self.approver
        )

    @property
    def answer(self) -> str:
        """Whether the image may be released, or was."""
        if self.released:
            tags = ", ".join((self.released.tag, *self.released.also))
            return f"Released as {tags}" + (" in spite of the verdict" if self.override else "")
        if self.verdict == verdict.CONFORMANT and not self.may_release:
            return f"Conformant; policy {self.policy} releases nothing"
        words = {verdict.CONFORMANT: "May be released", verdict.PARTIAL: "Not to be released yet"}
        return words.get(self.verdict, "Not to be released")

    @property
    def title(self) -> str:
        """The verdict as people say it."""
        used = sum(1 for w in self.waived if w.state != State.HELD)
        return f"{self.verdict} ({used} waived)" if used else self.verdict
