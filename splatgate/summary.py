"""The terminal summary: the guide's four sections, each line with its state, reason, remedy and way
to repeat.
"""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from splatgate import baseline
from splatgate.checklist import SECTIONS, Checklist, Item
from splatgate.evidence.text import plain
from splatgate.record import Check, ItemState, Record, State

WORDS = {
    State.HELD: ("held", {"green": True}),
    State.FAILED: ("FAILED", {"red": True, "bold": True}),
    State.BLOCKED: ("blocked", {"yellow": True}),
    State.NOT_VERIFIED: ("not verified", {}),
}
VERDICTS = {
    "conformant": {"green": True, "bold": True},
    "partial": {"yellow": True, "bold": True},
    "non-conformant": {"red": True, "bold": True},
}


def write(out: Any, record: Record, checklist: Checklist, folder: Path) -> None:
    """Write the summary of ``record`` to a pytest terminal writer."""
    out.section("Splatgate", sep="=", bold=True)
    image = record.image
    size = f", {image.bytes / 1e9:.1f} GB" if image.bytes else ""
    out.write_line(f"image    {plain(image.ref or 'none')}{size}")
    out.write_line(f"image id {plain(image.image_id or 'unknown')}")
    if record.door == "recorded":
        out.write_line(
            "NOTHING ON THIS MACHINE WAS JUDGED: this is recorded evidence, judged again.",
            yellow=True,
            bold=True,
        )
    if record.interrupted:
        out.write_line(
            "The run was interrupted: what it did not reach is not verified.", yellow=True
        )
    for section, title in SECTIONS.items():
        out.write_line("")
        out.write_line(title, bold=True)
        for item in checklist.item:
            if item.section == section:
                _item(out, item, record.items[item.id], record)
    _end(out, record, folder)


def _item(out: Any, item: Item, state: ItemState, record: Record) -> None:
    word, colour = WORDS[state.state]
    out.write(f"  {word:<13}", **colour)
    out.write_line(f" {item.sentence}  [{item.id}]")
    checks = [c for c in record.checks if c.item == item.id]
    first: dict[str, Check] = {}
    for check in record.checks:
        if check.state == State.NOT_VERIFIED:
            first.setdefault(check.reason, check)
    repeats: Counter[str] = Counter()
    for check in checks:
        said = first.get(check.reason, check)
        if check.state == State.NOT_VERIFIED and said is not check:
            # One cause, as an image without Python, is told once and by the name of one check.
            repeats[said.name] += 1
        else:
            _check(out, check)
    for cause, count in repeats.items():
        out.write_line(f"{'':16}{count} not verified, as {cause}")
    if state.state == State.FAILED:
        failed = next(c for c in checks if c.state == State.FAILED and c.level == "must")
        name = (record.image.image_id or "").removeprefix("sha256:")[:12] or record.image.ref
        out.write_line(f"{'':16}remedy: {item.remedy}", bold=True)
        which = f"--image {shlex.quote(plain(name))}" if name else "--process"
        node = shlex.quote(failed.node)
        out.write_line(f"{'':16}again:  .tox/suite/bin/pytest {node} {which}")
    if state.state == State.NOT_VERIFIED:
        seen = {check.lane for check in checks}
        for lane in item.required:
            if lane in state.open:
                out.write_line(f"{'':16}lane {lane}: no check yet")
            elif lane not in seen:
                out.write_line(f"{'':16}lane {lane}: not run")


def _check(out: Any, check: Check) -> None:
    if check.state == State.PASSED:
        if check.supporting:
            out.write_line(f"{'':16}{check.name}: passed in the process runtime (supporting only)")
        return
    label = {State.FAILED: "failed", State.BLOCKED: "blocked"}.get(check.state, "not verified")
    if check.level == "should" and check.state == State.FAILED:
        label = "advice"
    case = check.node.rpartition("::")[2]
    if check.state == State.BLOCKED:
        cause = (check.blocked_by or "").rpartition("::")[2]
        out.write_line(f"{'':16}{case}: blocked by {cause}")
        return
    lines = check.reason.splitlines() or [""]
    out.write_line(f"{'':16}{case}: {label}: {lines[0]}")
    if check.state == State.FAILED:
        for line in lines[1:6]:
            out.write_line(f"{'':18}{line}")


def _end(out: Any, record: Record, folder: Path) -> None:
    counts = {s: sum(i.state == s for i in record.items.values()) for s in WORDS}
    out.write_line("")
    out.write_line(
        f"{len(record.items)} lines: {counts[State.HELD]} held, {counts[State.FAILED]} failed, "
        f"{counts[State.BLOCKED]} blocked, {counts[State.NOT_VERIFIED]} not verified"
    )
    jobs = ", ".join(f"{j.key} {j.status} {j.seconds:.0f} s" for j in record.jobs)
    if jobs:
        out.write_line(f"jobs: {jobs}")
    if record.baseline is not None:
        for line, bad in baseline.lines(record.baseline):
            out.write_line(line, red=bad)
    left = record.leftovers
    if left.containers or left.volumes or left.networks or left.files:
        out.write_line(f"left behind: {left}", red=True)
    out.write_line(f"record: {folder / 'record.json'}")
    out.write(f"verdict: {record.verdict}", **VERDICTS[record.verdict])
    out.write_line("")
