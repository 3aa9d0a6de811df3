"""Policies: what must hold before an image may be released (``policy.toml``).

A policy is fixed before the run: its hash is part of every verdict, and every run record notes the
hash of the file as it stood.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from splatgate.checklist import LANES, Checklist
from splatgate.container.budget import Budget
from splatgate.evidence import BadInput, strict
from splatgate.paths import ROOT
from splatgate.signoff.measures import MEASURES

FILE = ROOT / "policy.toml"
#: A waiver that ends within so many days is named on the page as ending soon.
SOON_DAYS = 14
#: A waiver lasts no longer than so many days from now.
LONGEST = 180


@dataclass(frozen=True)
class Waiver:
    """An accepted failure, or accepted lack of evidence, of one item until a day."""

    item: str
    reason: str
    owner: str
    expires: date


@dataclass(frozen=True)
class Threshold:
    """A bound on a measure of the image or its training (``measures.MEASURES``)."""

    measure: str
    why: str
    min: float | None = None
    max: float | None = None

    def holds(self, value: float) -> bool:
        """Whether ``value`` keeps to the bound."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


@dataclass(frozen=True)
class Revoked:
    """A key whose signatures, and evidence collected, from a day on do not count."""

    key: str
    since: date
    reason: str


@dataclass(frozen=True)
class Policy:
    """One named policy."""

    about: str
    lanes: tuple[str, ...]
    #: Items that count; None: every item of the checklist that has one of ``lanes``.
    items: tuple[str, ...] | None = None
    #: Days after which evidence no longer counts.
    max_age_days: float = 14.0
    #: GPUs on which evidence of the gpu lane counts, by a word of their names (T4); empty: any.
    gpu: tuple[str, ...] = ()
    #: Whether an image may be promoted under it.
    may_release: bool = False
    #: Whether all evidence must be signed by a key that the gate is told to trust.
    signed: bool = False
    #: Ids of the only keys that may (``python -m splatgate sign`` prints them); empty: any trusted.
    keys: tuple[str, ...] = ()
    #: Keys that are trusted no more.
    revoked: tuple[Revoked, ...] = ()
    #: Checks of level *should* that decide here, by name.
    promotes: tuple[str, ...] = ()
    threshold: tuple[Threshold, ...] = ()
    waiver: tuple[Waiver, ...] = ()


@dataclass(frozen=True)
class _File:
    schema: int
    policy: dict[str, Policy]
    budget: Budget | None = None


@dataclass(frozen=True)
class Named:
    """A policy with its name, and the hash of the file that it stands in."""

    name: str
    sha256: str
    policy: Policy

    def cells(self, checklist: Checklist) -> dict[str, tuple[str, ...]]:
        """The lanes in which each item must hold; items that need none are left out."""
        wanted = {
            item.id: tuple(lane for lane in item.required if lane in self.policy.lanes)
            for item in checklist.item
            if self.policy.items is None or item.id in self.policy.items
        }
        return {item: lanes for item, lanes in wanted.items() if lanes}


def load(path: Path, name: str, checklist: Checklist) -> Named:
    """Read one policy of a file.

    Raises:
        BadInput: broken TOML, no policy of that name, or words that nothing knows.
    """
    found = _read(path)
    if name not in found.policy:
        raise BadInput(f"{path}: no policy {name!r}; one of {', '.join(found.policy)}")
    policy = found.policy[name]
    _check(f"{path}: policy {name}", policy, checklist)
    named = Named(name, hashlib.sha256(path.read_bytes()).hexdigest(), policy)
    if not named.cells(checklist):
        raise BadInput(f"{path}: policy {name}: requires nothing: no item of it needs its lanes")
    return named


def _read(path: Path) -> _File:
    return strict.read(path, _File, hint="; --policies names the file")


def _check(where: str, policy: Policy, checklist: Checklist) -> None:
    """Refuse words that nothing knows: a misspelt item would require nothing."""
    items = set(checklist.by_id)
    for what, given, known in (
        ("lane", set(policy.lanes), set(LANES)),
        ("item", set(policy.items or ()), items),
        ("item of a waiver", {w.item for w in policy.waiver}, items),
        ("measure", {t.measure for t in policy.threshold}, set(MEASURES)),
    ):
        if unknown := given - known:
            words = ", ".join(sorted(unknown))
            raise BadInput(f"{where}: unknown {what} {words}; one of {', '.join(sorted(known))}")
    if not policy.lanes:
        raise BadInput(f"{where}: no lanes; a policy that requires nothing lets everything pass")
    if policy.items == ():
        raise BadInput(f"{where}: no items; leave `items` out to require the whole checklist")
    if policy.may_release and not policy.signed:
        raise BadInput(
            f"{where}: may_release needs signed = true: what nobody signed anybody may have edited"
        )
    if not policy.signed and (policy.keys or policy.revoked):
        raise BadInput(f"{where}: keys and revoked ask for signatures; set signed = true")
    for bound in policy.threshold:
        if bound.min is None and bound.max is None:
            raise BadInput(f"{where}: threshold {bound.measure} has neither min nor max")
    for waiver in policy.waiver:
        if not waiver.reason.strip() or not waiver.owner.strip():
            raise BadInput(f"{where}: the waiver of {waiver.item} needs a reason and an owner")
    if twice := {
        w.item for w in policy.waiver if [x.item for x in policy.waiver].count(w.item) > 1
    }:
        raise BadInput(f"{where}: more than one waiver of {', '.join(sorted(twice))}")
