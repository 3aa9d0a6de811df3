"""From checks to items, from items to a verdict and an exit status. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from splatgate.checklist import Checklist, Item
from splatgate.record import Check, ItemState, Record, State

CONFORMANT, PARTIAL, NON_CONFORMANT = "conformant", "partial", "non-conformant"
#: How the reason of a check begins that ended in an exception of its own.
BROKE = ("error in setup: ", "error in call: ")
#: Exit statuses of every verb (design, "Verdict"); 2 is the gate's alone.
EXIT_OK, EXIT_FAILED, EXIT_NO_JUDGEMENT = 0, 1, 3


def settle(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Tell causes from consequences: a failed check whose need failed too is blocked by the
    earliest cause. So is one that broke on what its failed need explains: of an image without torch
    there is no version to compare.

    A check names the checks that it needs; a need that was not run explains nothing. So one fault
    gives one failed item, whatever the order of execution.
    """
    checks = tuple(checks)
    by_name: dict[str, list[Check]] = {}
    for check in checks:
        by_name.setdefault(check.name, []).append(check)

    def root(names: Sequence[str], path: frozenset[str]) -> str | None:
        for name in names:
            if name in path:
                continue
            cases = by_name.get(name, ())
            needs = tuple(n for case in cases for n in case.needs)
            if any(c.state in (State.FAILED, State.BLOCKED) or broke(c) for c in cases):
                if deeper := root(needs, path | {name}):
                    return deeper
                if failed := [c.node for c in cases if c.state == State.FAILED]:
                    return min(failed)
        return None

    settled = []
    for check in checks:
        if (check.state in (State.FAILED, State.BLOCKED) or broke(check)) and not (
            check.state == State.FAILED and check.level != "must"
        ):
            needs = (*check.needs, *((check.blocked_by,) if check.blocked_by else ()))
            cause = root(needs, frozenset({check.name}))
            if cause is not None:
                check = replace(check, state=State.BLOCKED, blocked_by=cause, error=False)
            elif check.state == State.BLOCKED:
                missing = f"{check.reason} ({check.blocked_by} gave no answer)"
                check = replace(check, state=State.NOT_VERIFIED, reason=missing)
        settled.append(check)
    return tuple(settled)


def broke(check: Check) -> bool:
    """Whether a check ended in an exception of its own, over evidence that it had."""
    return check.error and check.reason.startswith(BROKE)


def lane_state(checks: Sequence[Check]) -> State:
    """State of one item in one lane: its worst must check; no check is no evidence."""
    must = [c for c in checks if c.level == "must"]
    if any(c.state == State.FAILED for c in must):
        return State.FAILED
    if any(c.state == State.BLOCKED for c in must):
        return State.BLOCKED
    counted = [c for c in must if not c.supporting]
    if counted and all(c.state == State.PASSED for c in counted):
        return State.HELD
    return State.NOT_VERIFIED


def item_state(item: Item, checks: Sequence[Check], open_cells: Sequence[str] = ()) -> ItemState:
    """State of an item: failed in any lane, or held in every lane that it requires."""
    lanes = {
        lane: lane_state([c for c in checks if c.lane == lane])
        for lane in (*item.required, *item.extra)
    }
    required = [lanes[lane] for lane in item.required]
    if State.FAILED in lanes.values():
        state = State.FAILED
    elif State.BLOCKED in required:
        state = State.BLOCKED
    elif all(s == State.HELD for s in required):
        state = State.HELD
    else:
        state = State.NOT_VERIFIED
    return ItemState(
        state=state,
        lanes=lanes,
        remedy=item.remedy,
        open=tuple(lane for lane in item.required if f"{item.id}/{lane}" in open_cells),
    )


def items(checklist: Checklist, checks: Iterable[Check]) -> dict[str, ItemState]:
    """State of every item of the checklist, also of those without a check."""
    checks = tuple(checks)
    return {
        item.id: item_state(item, [c for c in checks if c.item == item.id], checklist.open)
        for item in checklist.item
    }


def verdict(states: dict[str, ItemState]) -> str:
    """``non-conformant``, ``partial`` or ``conformant``, counted from the whole list."""
    values = [s.state for s in states.values()]
    if State.FAILED in values:
        return NON_CONFORMANT
    return CONFORMANT if all(v == State.HELD for v in values) else PARTIAL


def exit_status(record: Record) -> int:
    """Exit status of a run: 3 interrupted, 1 an item failed, 3 nothing was or could be judged, else
    0.
    """
    if record.interrupted:
        return EXIT_NO_JUDGEMENT
    if record.verdict == NON_CONFORMANT:
        return EXIT_FAILED
    nothing = not any(c.state == State.PASSED for c in record.checks)
    if record.door == "recorded" or record.errors or nothing:
        return EXIT_NO_JUDGEMENT
    if any(c.error for c in record.checks):
        return EXIT_NO_JUDGEMENT
    return EXIT_OK
