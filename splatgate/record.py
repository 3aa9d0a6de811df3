"""The run record: what one run judged, as JSON (``splatgate/judge/1``; fields are stable, see
docs/cli.md).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from splatgate import __version__
from splatgate.evidence import Machine, to_json
from splatgate.paths import CHECKOUT, PACKAGE, ROOT

SCHEMA = "splatgate/judge/1"


class State(StrEnum):
    """What became of a check, a lane of an item, or an item.

    ``HELD`` is an item's or lane's word, ``PASSED`` a check's. ``NOT_VERIFIED`` is everything that
    gives no answer: skipped, deselected, errored, not run.
    """

    PASSED = "passed"
    HELD = "held"
    FAILED = "failed"
    BLOCKED = "blocked"
    NOT_VERIFIED = "not-verified"


@dataclass(frozen=True)
class Check:
    """One check (one case of it) and its outcome. ``seconds`` is its whole time, evidence
    included.
    """

    node: str
    item: str
    level: str  # must, should
    lane: str
    state: State = State.NOT_VERIFIED
    origin: str = "image"
    reason: str = ""
    #: The check whose subject's failure kept this one from an answer.
    blocked_by: str | None = None
    #: Names of checks (functions) whose failure explains this one's.
    needs: tuple[str, ...] = ()
    #: Seeing or judging broke: never a verdict on the image.
    error: bool = False
    #: Evidence from the process runtime: shown, never counted.
    supporting: bool = False
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The check's function, without its file and case."""
        return self.node.rpartition("::")[2].partition("[")[0]


@dataclass(frozen=True)
class ItemState:
    """An item's state over its lanes. ``open`` lists required lanes that have no check yet."""

    state: State
    lanes: dict[str, State]
    remedy: str
    open: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageFacts:
    """Which image was judged."""

    ref: str | None = None
    image_id: str | None = None
    manifest_digest: str | None = None
    archs: tuple[str, ...] = ()
    driver_floor: str | None = None
    bytes: int | None = None
    #: Hash of the trainer's sources and compiled kernels, where they ran without an image.
    source_sha256: str | None = None


@dataclass(frozen=True)
class Suite:
    """Which suite judged."""

    version: str
    commit: str | None
    dirty: bool | None
    checklist_sha256: str
    #: Hash of policy.toml as it stood when the run ended, so that a later bar is seen as later.
    policy_sha256: str = ""
    #: Hash of the suite's own files, which names an installed suite as a commit names a checkout.
    files_sha256: str = ""
    #: Hash of the commit's tree, as git counts it.
    tree: str | None = None


@dataclass(frozen=True)
class JobFacts:
    """One training job of the run."""

    key: str
    status: str
    exit: int | None
    seconds: float
    #: Size of its model: the files of the archive, before compression.
    bytes: int = 0


@dataclass(frozen=True)
class Leftovers:
    """What the run left behind; empty lists are the promise."""

    containers: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """Something whose figure rose: seconds or bytes, before and now."""

    name: str
    before: float
    now: float

    @property
    def ratio(self) -> float:
        """How many times as much it is now."""
        return self.now / self.before


@dataclass(frozen=True)
class Baseline:
    """What changed since a known good run. Checks are named by their node."""

    run: str
    image_id: str | None
    newly_failing: tuple[str, ...] = ()
    newly_passing: tuple[str, ...] = ()
    #: Passed then, and gives no answer now.
    lost: tuple[str, ...] = ()
    slower: tuple[Change, ...] = ()
    larger: tuple[Change, ...] = ()
    #: What could not be compared, and why.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """One run."""

    image: ImageFacts
    suite: Suite
    machine: Machine
    items: dict[str, ItemState]
    checks: tuple[Check, ...]
    jobs: tuple[JobFacts, ...]
    timings: dict[str, float]
    leftovers: Leftovers
    verdict: str
    run: str = ""
    #: ``live``: looked and judged here. ``recorded``: judged again, nothing on this machine was
    #: looked at.
    door: str = "live"
    interrupted: bool = False
    #: What alone was judged, where the run was asked for less than the whole; empty: for the whole.
    part: str = ""
    schema: str = SCHEMA
    errors: tuple[str, ...] = field(default=())
    #: Against the run that --baseline named; None: none was named.
    baseline: Baseline | None = None
    #: When the evidence was collected (ISO 8601, UTC): judged again, it is no younger.
    created: str = ""
    #: Folder of the evidence, relative to the record's own, and sha256 of each file in it.
    evidence_folder: str = "evidence"
    evidence: dict[str, str] = field(default_factory=dict)
    #: `seal` of all else in the record: tells an edited record from the original. Who made it, only
    #: a signature tells.
    seal: str = ""


#: Lanes whose checks lie in folders of their own under tests/.
CHECKS = ("container", "sagemaker", "gpu")
#: What looks and judges, in a checkout. The policy is known by a hash of its own.
DECIDES = (
    "splatgate",
    *(f"tests/{lane}" for lane in CHECKS),
    "tests/scenes",
    "pipeline",
    "checklist.toml",
    "conftest.py",
    "pytest.ini",
)
#: Lies in a folder of evidence and is none.
NO_EVIDENCE = ("record.json", "record.intoto.json")


def fingerprint(folder: Path) -> dict[str, str]:
    """sha256 of each file of a folder of evidence, by its path there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in NO_EVIDENCE:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def seal(record: dict[str, Any]) -> str:
    """sha256 of a record's JSON without its seal, keys sorted."""
    rest = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def junit(record: Record) -> bytes:
    """The record's checks as JUnit."""
    root = ET.Element("testsuites", name=f"splatgate {record.verdict}")
    for lane in sorted({check.lane for check in record.checks}):
        mine = [check for check in record.checks if check.lane == lane]
        suite = ET.SubElement(root, "testsuite", name=lane, tests=str(len(mine)))
        for kind, found in (
            ("failures", [c for c in mine if c.state == State.FAILED]),
            ("skipped", [c for c in mine if c.state not in (State.PASSED, State.FAILED)]),
        ):
            suite.set(kind, str(len(found)))
        for check in mine:
            name = check.node.rpartition("::")[2]
            case = ET.SubElement(suite, "testcase", classname=check.item, name=name)
            case.set("time", f"{check.seconds:.3f}")
            if check.state != State.PASSED:
                kind = "failure" if check.state == State.FAILED else "skipped"
                said = "".join(c for c in check.reason if c in "\n\t" or c.isprintable())
                ET.SubElement(case, kind, message=f"{check.state}: {said}")
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data


def sealed(record: Record) -> Record:
    """The record with its seal."""
    return replace(record, seal=seal(json.loads(to_json(record))))


def evidence_sha256(files: dict[str, str]) -> str:
    """One hash of a folder of evidence, over the hashes of its files (`fingerprint`)."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


@cache
def suite(checklist_sha256: str) -> Suite:
    """Which suite this is: its version, the hash of its files and, of a checkout, the commit and
    whether what looks and judges differs from it.
    """

    def git(*args: str) -> str | None:
        if CHECKOUT is None or not shutil.which("git"):
            return None
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *args], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    policy, status = ROOT / "policy.toml", git("status", "--porcelain", "--", *DECIDES)
    return Suite(
        version=__version__,
        commit=git("rev-parse", "HEAD"),
        dirty=None if status is None else bool(status),
        checklist_sha256=checklist_sha256,
        policy_sha256=hashlib.sha256(policy.read_bytes()).hexdigest() if policy.exists() else "",
        files_sha256=files_sha256(),
        tree=git("rev-parse", "HEAD^{tree}"),
    )


def files_sha256() -> str:
    """Content hash of what judges: the package, the checks, the checklist. The same for a checkout
    and for the wheel built from it.
    """
    total, lanes = hashlib.sha256(), ROOT / "tests"
    parts = [(PACKAGE, p) for p in PACKAGE.rglob("*.py") if not p.is_relative_to(PACKAGE / "suite")]
    parts += [(lanes, p) for lane in CHECKS for p in (lanes / lane).rglob("*.py")]
    for base, path in sorted(parts):
        total.update(f"{path.relative_to(base)} ".encode() + path.read_bytes())
    total.update((ROOT / "checklist.toml").read_bytes())
    return total.hexdigest()
