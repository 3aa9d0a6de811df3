"""Imports point down: docs/architecture.md gives each room its level, and the code keeps to it."""

import ast
import re
from collections import defaultdict

from splatgate.paths import ROOT

PACKAGE = ROOT / "splatgate"
LEVELS = {
    room: int(level)
    for level, room in re.findall(
        r"^\| (\d) \| `([\w./]+)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
}
MOST_LEVELS = 8


def room_of(module: str) -> str:
    """The folder, or the file of the top folder, that holds a module."""
    first = module.removeprefix("splatgate.").split(".")[0]
    return f"{first}/" if (PACKAGE / first).is_dir() else f"{first}.py"


def imports():
    """Room → (room that it imports, file and line)."""
    found = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            for name in names:
                if room_of(name) in LEVELS and room_of(name) != room_of(module):
                    found[room_of(module)].add((room_of(name), where))
    return found


def test_every_room_is_in_the_plan():
    rooms = {
        f"{p.name}/" if p.is_dir() else p.name
        for p in PACKAGE.iterdir()
        if (p.is_dir() and any(p.glob("*.py"))) or p.suffix == ".py"
    } - {"__init__.py"}
    assert rooms == set(LEVELS), "give each room a row in docs/architecture.md, and none beside"
    assert max(LEVELS.values()) <= MOST_LEVELS


def test_imports_point_down():
    up = {
        f"{where}: {room} (level {LEVELS[room]}) imports {other} (level {LEVELS[other]})"
        for room, others in imports().items()
        for other, where in others
        if LEVELS[other] >= LEVELS[room]
    }
    assert not up, "\n".join(sorted(up))
