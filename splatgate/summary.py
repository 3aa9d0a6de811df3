"""The terminal summary: the guide's four sections, each line with its state, reason, remedy and way
to repeat; and at its end the verdict and the next command.
"""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from splatgate import baseline
from splatgate.checklist import SECTIONS, Checklist, Item
from splatgate.container.reference import host
from splatgate.evidence.text import plain
from splatgate.paths import ROOT, built_image
from splatgate.record import Check, ItemState, Record, State
from splatgate.verdict import CONFORMANT, EXIT_NO_JUDGEMENT, exit_status

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
#: Where the words of a line begin, and what is said of it.
COLUMN = 16


class Writer:
    """Writes lines to a pytest terminal writer, folded at words to the terminal's width."""

    def __init__(self, out: Any) -> None:
        self.out = out
        self.width = max(getattr(getattr(out, "_tw", out), "fullwidth", 80), 40)

    def line(
        self, text: str = "", indent: int = 0, hang: int = 0, lead: str = "", **colour: bool
    ) -> None:
        """One line; what does not fit stands below it, further in. A long word is not broken: it
        may be a path. No-break spaces become spaces. With ``lead``, that alone is coloured.
        """
        first, *rest = textwrap.wrap(
            lead + text,
            self.width,
            initial_indent=" " * indent,
            subsequent_indent=" " * (hang or indent + 2),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
        if lead:
            self.out.write(first[: indent + len(lead)], **colour)
            first, colour = first[indent + len(lead) :], {}
        for one in (first, *rest):
            self.out.write_line(one.replace("\xa0", " "), **colour)


def write(out: Any, record: Record, checklist: Checklist, folder: Path, given: str = "") -> None:
    """Write the summary of ``record`` to a pytest terminal writer.

    ``folder`` holds the record, ``given`` are the options that the run had.
    """
    out.section("Splatgate", sep="=", bold=True)
    to = Writer(out)
    image = record.image
    size = f", {image.bytes / 1e9:.1f} GB" if image.bytes else ""
    to.line(f"image    {plain(image.ref or 'none')}{size}")
    to.line(f"image id {plain(image.image_id or 'unknown')}")
    if record.door == "recorded":
        to.line(
            "NOTHING ON THIS MACHINE WAS JUDGED: this is recorded evidence, judged again.",
            yellow=True,
            bold=True,
        )
    if record.door == "layers":
        to.line(
            "Read from its layers: nothing of it was run. What needs a running container is not "
            "verified.",
            yellow=True,
        )
    for section, title in SECTIONS.items():
        to.line()
        to.line(title, bold=True)
        for item in checklist.item:
            if item.section == section:
                _item(to, item, record.items[item.id], record, given)
    _end(to, record, checklist, folder, given)


def _item(to: Writer, item: Item, state: ItemState, record: Record, given: str) -> None:
    word, colour = WORDS[state.state]
    text = f" {item.sentence}  [{item.id}]"
    to.line(text, 2, COLUMN, lead=f"{word:<{COLUMN - 3}}", **colour)
    checks = [c for c in record.checks if c.item == item.id]
    same: dict[str, list[Check]] = defaultdict(list)
    for check in checks:
        if check.state == State.NOT_VERIFIED:
            same[check.reason.partition("\n")[0]].append(check)
        else:
            _check(to, check)
    for reason, those in same.items():
        # One cause, as a machine without a GPU, is told once in each line that it touches.
        who = _case(those[0]) if len(those) == 1 else f"{len(those)} checks"
        to.line(f"{who} not verified: {reason}", COLUMN)
    if state.state == State.FAILED:
        failed = next(c for c in checks if c.state == State.FAILED and c.level == "must")
        to.line(f"remedy: {item.remedy}", COLUMN, COLUMN + 8, bold=True)
        # In one piece, to be copied: the terminal itself folds it.
        again = f"{_python()} -m pytest {shlex.quote(failed.node)} {given}"
        to.out.write_line(f"{'':{COLUMN}}again:  {again}".rstrip())
    if state.state == State.NOT_VERIFIED:
        seen = {check.lane for check in checks}
        for lane in item.required:
            if lane in state.open:
                to.line(f"lane {lane}: no check yet", COLUMN)
            elif lane not in seen:
                to.line(f"lane {lane}: not run", COLUMN)


def _python() -> str:
    """This interpreter as a person calls it from the checkout."""
    path = Path(sys.executable)
    return os.path.relpath(path, ROOT) if path.is_relative_to(ROOT) else str(path)


def _case(check: Check) -> str:
    return check.node.rpartition("::")[2]


def _check(to: Writer, check: Check) -> None:
    if check.state == State.PASSED:
        if check.supporting:
            to.line(f"{check.name}: passed in the process runtime (supporting only)", COLUMN)
        return
    if check.state == State.BLOCKED:
        cause = (check.blocked_by or "").rpartition("::")[2]
        to.line(f"{_case(check)}: blocked by {cause}", COLUMN)
        return
    label = "advice" if check.level == "should" else "failed"
    lines = check.reason.splitlines() or [""]
    to.line(f"{_case(check)}: {label}: {lines[0]}", COLUMN)
    for line in lines[1:6]:
        to.line(line, COLUMN + 2)


def _end(to: Writer, record: Record, checklist: Checklist, folder: Path, given: str) -> None:
    counts = {s: sum(i.state == s for i in record.items.values()) for s in WORDS}
    to.line()
    to.line(
        f"{len(record.items)} lines: {counts[State.HELD]} held, {counts[State.FAILED]} failed, "
        f"{counts[State.BLOCKED]} blocked, {counts[State.NOT_VERIFIED]} not verified"
    )
    ended: dict[str, list[str]] = defaultdict(list)
    for job in record.jobs:
        ended[job.status].append(f"{job.key.rpartition('-')[0]}\xa0{job.seconds:.0f}\xa0s")
    if ended:
        to.line(f"{len(record.jobs)} jobs; whether an end was meant, the lines above say:")
    for status, jobs in sorted(ended.items()):
        to.line(f"{status:<{COLUMN - 3}} {', '.join(jobs)}", 2, COLUMN)
    if record.baseline is not None:
        for line, bad in baseline.lines(record.baseline):
            to.line(line, red=bad)
    left = record.leftovers
    if left.containers or left.volumes or left.networks or left.files:
        to.line(f"left behind: {left}", red=True)
    to.out.write_line(f"record:  {folder / 'record.json'}")
    why, then = next_step(record, checklist, given)
    last = f"verdict: {record.verdict}. {why}; {then}"
    to.out.write_line(last, **VERDICTS[record.verdict])


def next_step(record: Record, checklist: Checklist, given: str = "") -> tuple[str, str]:
    """Why the verdict is not better, and the command that comes next."""
    own = record.image.image_id in (None, built_image())
    image, digest = plain(record.image.ref or ""), record.image.manifest_digest
    whole = "make test-image" if own else f"make test-image IMAGE={shlex.quote(image)}"
    ran = [c for c in record.checks if c.reason != "not run"]
    again = f"{_python()} -m splatgate judge {given}" if given else "make test-image"
    failed = [name for name, state in record.items.items() if state.state == State.FAILED]
    if record.interrupted:
        live = record.jobs and record.door != "recorded"
        kept = f"goes on from the {len(record.jobs)} jobs recorded" if live else "judges anew"
        why = f"Interrupted after {len(ran)} of {len(record.checks)} checks"
        return why, f"the same command {kept}"
    if failed:
        return f"{_some(failed)} failed", f"mend it as said above, then: {again}"
    broken = [check.reason for check in record.checks if check.error]
    if broken or exit_status(replace(record, door="live")) == EXIT_NO_JUDGEMENT:
        why = " ".join((broken or [c.reason for c in ran] or ["nothing ran"])[0].split())
        return f"It could not be judged: {why[:200]}", f"then: {again}"
    if record.door == "recorded":
        return "Recorded evidence, judged again", "to judge an image here: make test-image"
    if record.verdict == CONFORMANT:
        return "Every line holds", "to decide on a release: make gate"
    if record.part:
        return f"Only a part was judged ({record.part})", f"for the whole: {whole}"
    missing = [
        (item.id, lane)
        for item in checklist.item
        for lane in item.required
        if record.items[item.id].lanes[lane] != State.HELD
    ]
    others = sorted({name for name, lane in missing if lane != "gpu"})
    if any(lane == "gpu" for _, lane in missing):
        more = f"; not verified: {_some(others)}" if others else ""
        if digest and host(image) and "@" not in image:
            image = f"{image.rpartition(':')[0]}@{digest}"
        judge = f"python -m splatgate judge --lane gpu --image {shlex.quote(image)}"
        command = "make test-gpu" if own else judge
        return f"The gpu lane is missing{more}", f"on a GPU machine: {command}"
    return f"Not verified: {_some(others)}", "what a release needs: make gate"


def _some(names: Iterable[str]) -> str:
    first, *more = names
    return f"{first} and {len(more)} more" if len(more) > 1 else " and ".join([first, *more])
