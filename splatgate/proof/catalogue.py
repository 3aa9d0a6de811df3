"""The catalogue of faults: ``fault.toml`` beside what makes the variant.

A fault is a folder with ``fault.toml`` and what makes it: a Dockerfile ``FROM`` the good image
(kind ``image``), edits of the good evidence (``[[edit]]`` in fault.toml), or ``make.py``, which is
given a copy of the good thing and spoils it in place (a scene's folder, beside ``evidence`` where
it is ``recorded``; a request's file, a folder of evidence, the trainer's sources: kind ``source``,
judged in the process runtime on a GPU). A control is a legal oddity that must change nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from splatgate import checklist as checklists
from splatgate.checklist import LANES
from splatgate.container import lint
from splatgate.evidence import BadInput, strict
from splatgate.paths import ROOT
from splatgate.proof.edit import Edit
from splatgate.sources.process import gpu

KINDS = ("image", "job", "scene", "pipeline", "artefact", "build", "evidence", "source")
#: Kinds that spoil evidence, and need no engine but where the fault says so: a state machine's
#: request may have to be run.
OF_EVIDENCE = ("artefact", "build", "evidence", "pipeline")
#: Kind that spoils the trainer's sources, and needs a GPU and no engine.
OF_SOURCE = "source"
#: What a machine with a GPU saw of the good trainer.
RECORDED_GPU = ROOT / "tests" / "evidence" / "gpu"
EXCUSED, MOST_EXCUSED = "excused.toml", 5


@dataclass(frozen=True)
class Fault:
    """``fault.toml``."""

    story: str
    #: Where the fault was seen, outside this suite: K01…K50, `trap 13`, a line of the guide, an
    #: upstream issue.
    origin: str
    kind: str
    item: str | None = None
    #: Regular expression that the failing check's reason must match.
    message: str = ""
    remedy: str = ""
    #: Regular expression over log, failure text or exit by which a failed job is known to have this
    #: fault.
    signature: str | None = None
    needs: tuple[str, ...] = ()
    control: bool = False
    #: Judged with --quick: nothing that trains can tell the variant from the good image.
    quick: bool = False
    #: Judged in this lane alone, with --quick: what the fault touches, no other lane looks at. Of
    #: evidence: ``gpu``, what a machine with a GPU recorded.
    lane: str = ""
    #: Judged without --quick, in a lane of its own too: it shows while training.
    trains: bool = False
    #: Of a scene: what is wrong with it shows in its files, and the good image's recorded evidence
    #: is judged beside them. Its jobs are of another scene, and give no answer.
    recorded: bool = False
    #: What it must fail is good practice (*should*), and no item fails with it.
    should: bool = False
    #: What is done to a copy of the good evidence, where make.py does not do it.
    edit: tuple[Edit, ...] = ()

    @property
    def is_quick(self) -> bool:
        """Whether --quick is enough to judge it."""
        return self.quick or (bool(self.lane) and not self.trains)

    @property
    def of_evidence(self) -> bool:
        """Whether it is judged over recorded evidence, with no engine."""
        return self.recorded or (self.kind in OF_EVIDENCE and "engine" not in self.needs)


def load(folder: Path) -> dict[str, Fault]:
    """Read every fault of a folder, by name.

    Raises:
        BadInput: none there, or one that does not fit.
    """
    found = {}
    items = checklists.load().by_id
    for path in sorted(folder.glob("*/fault.toml")):
        fault = strict.read(path, Fault)
        if fault.kind not in KINDS:
            raise BadInput(f"{path}: kind {fault.kind!r}; one of {', '.join(KINDS)}")
        if not fault.control and fault.item not in items:
            raise BadInput(f"{path}: item {fault.item!r} is not on the checklist")
        if not fault.control and not fault.message:
            raise BadInput(f"{path}: no message; a fault must be caught for the right reason")
        if fault.recorded and (fault.kind != "scene" or fault.control):
            raise BadInput(f"{path}: recorded is for faults of a scene")
        if fault.lane and fault.lane not in LANES:
            raise BadInput(f"{path}: lane {fault.lane!r}; one of {', '.join(LANES)}")
        found[path.parent.name] = fault
    if not found:
        raise BadInput(f"{folder}: no */fault.toml in it")
    return found


def excuses(folder: Path) -> dict[str, str]:
    """Names of known failures, traps and items for which no fault can stand, with the reason:
    ``excused.toml`` beside the faults, a line each.

    Raises:
        BadInput: it is no table of lines of text, or has more than five.
    """
    path = folder / EXCUSED
    found = strict.read(path, dict[str, str]) if path.exists() else {}
    if len(found) > MOST_EXCUSED or any("\n" in why.strip() for why in found.values()):
        raise BadInput(f"{path}: more than {MOST_EXCUSED} lines; make the faults")
    return found


def lacking(fault: Fault) -> str:
    """What this machine lacks for a fault, or ""."""
    if "gpu" in fault.needs and gpu() is None:
        return "needs a GPU"
    if fault.of_evidence and fault.lane == "gpu" and not RECORDED_GPU.exists():
        return "needs recorded evidence of a GPU (docs/gpu.md)"
    if "hadolint" in fault.needs and lint.program() is None:
        return "needs hadolint"
    return "needs Node" if "node" in fault.needs and shutil.which("node") is None else ""


def spoil(fault: Fault, folder: Path, target: Path, script_on: str = "") -> None:
    """Make a copy of the good thing bad: by the fault's edits, then by its make.py.

    ``script_on``: the file of ``target`` that make.py is given, where not the whole.

    Raises:
        BadInput: there is neither, or it failed.
    """
    for edit in fault.edit:
        edit.apply(target)
    script = folder / "make.py"
    if not script.exists():
        if fault.edit:
            return
        raise BadInput(f"{folder}: no Dockerfile, no make.py and no [[edit]]")
    done = subprocess.run(
        [sys.executable, str(script), str(target / script_on if script_on else target)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BadInput(f"{script}: {last}")
