"""Verb ``checks``: the published catalogue, made from the checks' docstrings.

``docs/checks.md`` is its output; a unit test keeps the two in step.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from splatgate import checklist as checklists
from splatgate.checklist import LANES, SECTIONS, Item
from splatgate.evidence import write_bytes
from splatgate.judge.in_process import Case, cases
from splatgate.paths import ROOT

FILE = ROOT / "docs" / "checks.md"
HEAD = """# The checks

Made from their docstrings by `python -m splatgate checks --write docs/checks.md`; not edited by
hand. Each stands under its line of the checklist. *should*: good practice, printed, never decisive.
"""


def text() -> str:
    """The catalogue as Markdown."""
    every = cases(*LANES)
    lines = [HEAD]
    for section, title in SECTIONS.items():
        lines += [f"## {title}", ""]
        for item in checklists.load().item:
            if item.section == section:
                lines += _item(item, every)
    return "\n".join(lines).rstrip("\n") + "\n"


def _item(item: Item, every: Iterable[Case]) -> Iterator[str]:
    yield f"### {item.sentence}"
    yield ""
    yield f"`{item.id}`: {item.why} **Remedy:** {item.remedy}"
    yield ""
    told = set()
    for case in every:
        if case.check.item == item.id and case.check.name not in told:
            told.add(case.check.name)
            level = ", *should*" if case.check.level == "should" else ""
            yield f"- **{case.check.name}** ({case.check.lane}{level}). {_doc(case)}"
    if not told:
        yield "- no check yet"
    yield ""


def _doc(case: Case) -> str:
    return " ".join((inspect.getdoc(case.function) or "").split())


def main(argv: Sequence[str]) -> int:
    """Verb ``checks``. Exit status 0."""
    parser = argparse.ArgumentParser(
        prog="splatgate checks",
        description="The catalogue of checks, made from their docstrings, on standard output.",
    )
    parser.add_argument("--write", metavar="FILE", help=f"write it there ({FILE.name} is in docs/)")
    options = parser.parse_args(argv)
    if options.write:
        write_bytes(Path(options.write), text().encode())
    else:
        sys.stdout.write(text())
    return 0
