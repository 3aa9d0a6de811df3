"""The checklist: its items, their words, and the lanes that each needs for a release
(``checklist.toml``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from splatgate.evidence import BadInput, strict
from splatgate.paths import ROOT

#: Folders under tests/ that hold checks, cheapest first; ``live`` is a real account.
LANES = ("container", "sagemaker", "gpu", "live")
SECTIONS = {
    "build": "Container build",
    "runtime": "Runtime environment",
    "sagemaker": "SageMaker integration",
    "production": "Production readiness",
}
#: The guide's five root causes, by the marker that selects them.
CAUSES = {
    "entry-point": "Entry Point Script Issues",
    "cuda": "CUDA/GPU Library Issues",
    "dependencies": "Python Dependencies Issues",
    "sagemaker": "SageMaker Environment Issues",
    "permissions": "File Permissions/Path Issues",
}
FILE = ROOT / "checklist.toml"


@dataclass(frozen=True)
class Item:
    """One line of the checklist."""

    id: str
    sentence: str
    required: tuple[str, ...]
    cause: str
    why: str
    remedy: str
    extra: tuple[str, ...] = ()
    #: Needs a subject profile: it can only be seen by training.
    profile: bool = False
    #: Not one of the guide's sixteen lines.
    ours: bool = False

    @property
    def section(self) -> str:
        """``build``, ``runtime``, ``sagemaker`` or ``production``."""
        return self.id.partition(".")[0]

    @property
    def marker(self) -> str:
        """The item's pytest marker: ``runtime.entry-point`` is ``runtime_entry_point``."""
        return self.id.replace(".", "_").replace("-", "_")


@dataclass(frozen=True)
class Checklist:
    """All items, in the guide's order within each section."""

    schema: int
    item: tuple[Item, ...]
    open: tuple[str, ...] = ()
    sha256: str = ""

    @cached_property
    def by_marker(self) -> dict[str, Item]:
        """Items by the name of their pytest marker."""
        return {item.marker: item for item in self.item}

    @cached_property
    def by_id(self) -> dict[str, Item]:
        """Items by id."""
        return {item.id: item for item in self.item}


def load(path: Path = FILE) -> Checklist:
    """Read and check a checklist.

    Raises:
        BadInput: broken TOML, an unknown field, section, cause or lane, or an id given twice.
    """
    checklist = strict.read(path, Checklist)
    seen: set[str] = set()
    for item in checklist.item:
        if item.id in seen:
            raise BadInput(f"{path}: item {item.id} is given twice")
        seen.add(item.id)
        wrong = {item.section} - set(SECTIONS) | {item.cause} - set(CAUSES)
        wrong |= {*item.required, *item.extra} - set(LANES)
        if wrong:
            raise BadInput(f"{path}: item {item.id}: unknown {', '.join(sorted(wrong))}")
    return replace(checklist, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
