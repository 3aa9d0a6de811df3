#!/usr/bin/env python3
"""Writes the tables of docs/trainer.md anew, from the trainer's own: parameters, recipes, codes.

python image/document.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from trainer import config, errors

PAGE = Path(__file__).resolve().parents[1] / "docs" / "trainer.md"


def parameters() -> str:
    """One row for each parameter."""
    rows = [
        f"| `{p.name}` | {p.default} | {p.domain} | {p.section}: {p.help} |" for p in config.TABLE
    ]
    return "\n".join(["| name | default | values | what |", "|---|---|---|---|", *rows])


def recipes() -> str:
    """One row for each parameter of which some recipe has a value of its own."""
    found = {**config.RECIPES, "many": config.MANY}
    rows = [
        f"| `{p.name}` | "
        + " | ".join(f"{r.get(p.name, p.default)}" for r in found.values())
        + " |"
        for p in config.TABLE
        if any(p.name in r for r in found.values())
    ]
    return "\n".join([f"| | {' | '.join(found)} |", "|---" * (1 + len(found)) + "|", *rows])


def codes() -> str:
    """One row for each class of fault."""
    rows = [
        f"| `{code}` | {kind.exit} | {kind.meaning} | {kind.remedy} |"
        for code, kind in errors.KINDS.items()
    ]
    return "\n".join(["| code | exit | class of fault | what to do |", "|---|---|---|---|", *rows])


def written(page: str) -> str:
    """``page`` with each generated table between its two comments replaced."""
    for name, table in (("parameters", parameters()), ("recipes", recipes()), ("codes", codes())):
        begin, end = f"<!-- {name}: image/document.py -->", f"<!-- end of {name} -->"
        found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not found.search(page):
            raise ValueError(f"docs/trainer.md has no place for {name}: {begin} … {end}")
        page = found.sub(lambda _, t=table, b=begin, e=end: f"{b}\n{t}\n{e}", page)
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
