"""Definitions in other people's styles, and NAME.mutants.toml: mutants of each, one defect apiece.

`expect.state` and `expect.about` are regular expressions, searched without regard to case: where
the finding may stand, what a right reason speaks of. As a script, checks that every edit applies.
"""

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def edited(text: str, edit: dict[str, Any]) -> str:
    """The text after `replace = [old, new]`, or `path` with `value` or `delete = true`.

    ValueError where the old text does not occur exactly once, or the edit changes nothing.
    """
    if "replace" in edit:
        old, new = edit["replace"]
        if text.count(old) != 1:
            raise ValueError(f"{old!r} occurs {text.count(old)} times, not once")
        return text.replace(old, new)
    document = json.loads(text)
    *parents, last = edit["path"]
    there = document
    for key in parents:
        there = there[key]
    if edit.get("delete"):
        del there[last]
    else:
        there[last] = edit["value"]
    if document == json.loads(text):
        raise ValueError(f"{edit['path']} has this value already")
    return json.dumps(document, indent=1)


def mutants() -> Iterator[tuple[Path, dict[str, Any], str]]:
    """(the original, or the `file` beside it that is edited; the mutant; the text after edits)."""
    for toml in sorted(HERE.glob("*.mutants.toml")):
        table = tomllib.loads(toml.read_text())
        for mutant in table["mutant"]:
            path = HERE / mutant.get("file", table["original"])
            text = path.read_text()
            for edit in mutant["edits"]:
                text = edited(text, edit)
            if path.suffix == ".json":
                json.loads(text)
            yield path, mutant, text


if __name__ == "__main__":
    for path, mutant, text in mutants():
        sys.stdout.write(f"{path.name}\t{mutant['id']}\t{mutant['expect']['level']}\t{len(text)}\n")
