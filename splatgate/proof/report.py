"""What became of each fault, control and mutant, and which known failures are covered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from splatgate import checklist as checklists
from splatgate.evidence.missing import QUICK
from splatgate.paths import ROOT
from splatgate.proof.catalogue import Fault
from splatgate.record import Record, State

#: Survivors told on standard error; the report lists all.
TOLD = 20
EMPTY: Mapping[str, str] = {}


@dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    name: str
    origin: str
    status: str  # caught, missed, open, not-run
    item: str | None
    by: tuple[str, ...] = ()
    reason_matched: bool = False
    collateral: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class ControlOutcome:
    """What a legal oddity changed; ``disturbed`` lists checks, and is empty as it should be."""

    name: str
    status: str  # undisturbed, disturbed, not-run
    disturbed: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """``faults --json``."""

    faults: tuple[Outcome, ...]
    controls: tuple[ControlOutcome, ...]
    #: Checks that no caught fault needs.
    redundant: tuple[str, ...]
    lists: dict[str, dict[str, tuple[str, ...]]]
    #: What of the lists no fault can stand for, by name, with the reason.
    excused: dict[str, str] = field(default_factory=dict)
    #: Edits of the good evidence (`splatgate.proof.mutants`); none are tried with --only.
    mutants: dict[str, int] = field(
        default_factory=lambda: {"tried": 0, "killed": 0, "equivalent": 0}
    )
    #: Edits that no check notices: the to-do list.
    survivors: tuple[dict[str, str], ...] = ()
    schema: str = "splatgate/faults/1"


def weigh(name: str, fault: Fault, record: Record, good: Record) -> Outcome:
    """Whether a fault was caught by its item, for its reason, and by that item alone."""
    failing = [
        c
        for c in record.checks
        if c.item == fault.item
        and c.state == State.FAILED
        and c.level == ("should" if fault.should else "must")
    ]
    matched = [c for c in failing if re.search(fault.message, c.reason, re.DOTALL)]
    before = {i for i, s in good.items.items() if s.state == State.FAILED}
    failed = {i for i, s in record.items.items() if s.state == State.FAILED}
    expected = set() if fault.should else {fault.item}
    if matched:
        status = "caught"
    else:
        status = "missed" if any(c.item == fault.item for c in record.checks) else "open"
    return Outcome(
        name=name,
        origin=fault.origin,
        status=status,
        item=fault.item,
        by=tuple(c.node for c in (matched or failing)),
        reason_matched=bool(matched),
        collateral=tuple(sorted(failed - before - expected)),
        reason=(matched or failing)[0].reason if failing else "",
    )


def disturbed(record: Record, good: Record, kind: str = "") -> tuple[str, ...]:
    """Checks that a control changed; what ``--quick`` leaves out gave no answer.

    Of a derived image (kind ``image``) nobody knows the build: only a verdict disturbs.
    """
    silent = State.NOT_VERIFIED if kind == "image" else None
    before = {c.node: c.state for c in good.checks if not c.reason.startswith(QUICK)}
    return tuple(
        f"{c.node}: {before.get(c.node, State.NOT_VERIFIED)} → {c.state} {c.reason}"
        for c in record.checks
        if before.get(c.node, c.state) != c.state
        and not c.reason.startswith(QUICK)
        and (c.state != silent or c.error)
    )


def lists(
    faults: Mapping[str, Fault], outcomes: Sequence[Outcome], excused: Mapping[str, str] = EMPTY
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Which known failures, traps and items have a caught fault, and which are open."""
    caught = [faults[o.name] for o in outcomes if o.status == "caught"]

    def split(names: list[str], cited: Callable[[str, Fault], bool]) -> dict[str, tuple[str, ...]]:
        done = [n for n in names if any(cited(n, fault) for fault in caught)]
        rest = [n for n in names if n not in done]
        return {
            "caught": tuple(done),
            "open": tuple(n for n in rest if n not in excused),
            "excused": tuple(n for n in rest if n in excused),
        }

    def word(name: str, fault: Fault) -> bool:
        return re.search(rf"\b{re.escape(name)}\b", fault.origin) is not None

    return {
        "K": split(anchors("known-failures.md", r"K\d\d"), word),
        "traps": split(
            [name.replace("-", " ") for name in anchors("sagemaker-contract.md", r"trap-\d+")], word
        ),
        "items": split(list(checklists.load().by_id), lambda name, fault: fault.item == name),
    }


def anchors(page: str, pattern: str) -> list[str]:
    """What a page of docs/ gives a name to that can be cited, in its order."""
    return re.findall(rf'<a id="({pattern})">', (ROOT / "docs" / page).read_text())


def redundant(good: Iterable[Record], outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Checks that the good image passes and no caught fault needs.

    A check of an item whose fault was not run here may be the one that it needs.
    """

    def name(node: str) -> str:
        return node.partition("[")[0]

    needed = {name(node) for o in outcomes if o.status == "caught" for node in o.by}
    unknown = {o.item for o in outcomes if o.status == "not-run"}
    passed = {
        name(c.node)
        for record in good
        for c in record.checks
        if c.state == State.PASSED and c.item not in unknown
    }
    return tuple(sorted(passed - needed))


def with_mutants(report: Report, evidence: Path, say: Callable[[str], None]) -> Report:
    """A report to which the mutants of the good evidence are added; survivors decide nothing."""
    from splatgate.proof import mutants

    if not (evidence / "evidence.json").exists():
        say(f"mutants: none tried, there is no good evidence in {evidence}")
        return report
    say(f"mutants of {evidence}")
    tally = mutants.run(evidence)
    for survivor in tally.survivors[:TOLD]:
        say(f"    survives: {survivor['field']} {survivor['mutation']}")
    say(
        f"mutants: {tally.killed} of {tally.tried} killed, {tally.equivalent} equivalent by rule, "
        f"{len(tally.survivors)} survive"
    )
    counts = {"tried": tally.tried, "killed": tally.killed, "equivalent": tally.equivalent}
    return replace(report, mutants=counts, survivors=tally.survivors)
