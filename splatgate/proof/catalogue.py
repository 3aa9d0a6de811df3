"""The catalogue of faults: ``fault.toml`` beside what makes the variant.

A fault is a folder with ``fault.toml`` and what makes it: a Dockerfile ``FROM`` the good image
(kind ``image``), or ``make.py``, which is given a copy of the good thing and spoils it in place (a
scene's folder, a request's file, a folder of evidence). A control is a legal oddity that must
change nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from splatgate import checklist as checklists
from splatgate.evidence import BadInput
from splatgate.run import ROOT

KINDS = ("image", "job", "scene", "pipeline", "artefact", "build", "evidence")
#: Kinds that spoil evidence, and need no engine.
OF_EVIDENCE = ("artefact", "build", "evidence")


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


def load(folder: Path) -> dict[str, Fault]:
    """Read every fault of a folder, by name.

    Raises:
        BadInput: none there, or one that does not fit.
    """
    found = {}
    items = checklists.load().by_id
    for path in sorted(folder.glob("*/fault.toml")):
        try:
            fault = msgspec.convert(tomllib.loads(path.read_text()), Fault)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise BadInput(f"{path}: {error}") from None
        if fault.kind not in KINDS:
            raise BadInput(f"{path}: kind {fault.kind!r}; one of {', '.join(KINDS)}")
        if not fault.control and fault.item not in items:
            raise BadInput(f"{path}: item {fault.item!r} is not on the checklist")
        if not fault.control and not fault.message:
            raise BadInput(f"{path}: no message; a fault must be caught for the right reason")
        found[path.parent.name] = fault
    if not found:
        raise BadInput(f"{folder}: no */fault.toml in it")
    return found


def lacking(fault: Fault) -> str:
    """What this machine lacks for a fault, or ""."""
    if "gpu" in fault.needs:
        return "needs a GPU"
    return "needs Node" if "node" in fault.needs and shutil.which("node") is None else ""


def spoil(folder: Path, target: Path) -> None:
    """Run the fault's make.py on a copy of the good thing.

    Raises:
        BadInput: there is none, or it failed.
    """
    script = folder / "make.py"
    if not script.exists():
        raise BadInput(f"{folder}: neither Dockerfile nor make.py")
    done = subprocess.run(
        [sys.executable, str(script), str(target)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BadInput(f"{script}: {last}")
