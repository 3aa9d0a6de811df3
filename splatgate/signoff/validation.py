"""Records come in: each is taken, or refused with a code and a way to mend it.

A record is bound to its evidence by the hash of every file, and to itself by its seal; who made it,
only a signature tells.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from splatgate import verdict
from splatgate.checklist import Checklist
from splatgate.evidence import BadInput, Header, from_json, read
from splatgate.record import SCHEMA, Record, State, fingerprint, seal
from splatgate.signoff import attest
from splatgate.signoff.policy import Named

#: Clocks of two machines may differ by this.
CLOCKS = timedelta(minutes=10)


@dataclass(frozen=True)
class Refusal:
    """Why a file does not count. ``code`` is stable."""

    file: str
    code: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Taken:
    """A record with what was found beside it."""

    file: str
    record: Record
    sha256: str
    #: Its evidence, or None where it is not at hand.
    folder: Path | None
    header: Header | None
    #: Key id of the signature that holds, or None.
    signed_by: str | None = None

    @property
    def process(self) -> bool:
        """Whether it was seen in the process runtime: supporting evidence only."""
        return bool(self.header and self.header.extra.get("runtime") == "process")


def find(argument: str) -> Path:
    """The record that an argument names: a file, or a folder that holds ``record.json``.

    Raises:
        BadInput: there is none.
    """
    path = Path(argument)
    found = path / "record.json" if path.is_dir() else path
    if not found.is_file():
        raise BadInput(f"{argument}: no record.json there; give what `judge` left (build/)")
    return found


def take(path: Path) -> tuple[Taken, dict[str, Any]]:
    """Read a record and locate its evidence; also the record's JSON as it was written.

    Raises:
        BadInput: no run record.
    """
    data = path.read_bytes()
    record = from_json(data, Record, str(path))
    if record.schema != SCHEMA:
        raise BadInput(f"{path}: {record.schema}, not {SCHEMA}; give a record.json of `judge`")
    beside = (path.parent / "evidence", path.parent / record.evidence_folder, path.parent)
    folder = next((p for p in beside if (p / "evidence.json").is_file()), None)
    header = None
    if folder is not None:
        try:
            header = read(folder / "evidence.json", Header)
        except BadInput:
            folder = None
    sha256 = hashlib.sha256(data).hexdigest()
    return Taken(str(path), record, sha256, folder, header), json.loads(data)


def altered(taken: Taken, raw: dict[str, Any], checklist: Checklist) -> str:
    """What shows that a record or its evidence is not as it was written; "" where nothing does."""
    record = taken.record
    if not record.seal:
        return "it has no seal: it was made before records had one, or without `judge`"
    if seal(raw) != record.seal:
        return "the record was edited after it was written: its seal does not fit"
    if taken.folder is None:
        return "its evidence is not beside it"
    now = fingerprint(taken.folder)
    for name in sorted(record.evidence.keys() | now.keys()):
        if now.get(name) != record.evidence.get(name):
            what = "missing" if name not in now else "new" if name not in record.evidence else ""
            return f"evidence {name} is {what or 'another than the one judged'}"
    header = taken.header
    if header is None or header.image_id != record.image.image_id:
        return "its evidence is of another image than the record says"
    if record.suite.checklist_sha256 == checklist.sha256 and record.items != verdict.items(
        checklist, record.checks
    ):
        return "its items do not follow from its checks"
    return ""


def signer(path: Path, sha256: str, keys: Sequence[attest.Public]) -> str | None:
    """Id of the key that signed a record (``record.intoto.json`` beside it), if one of ``keys``."""
    beside = path.with_name("record.intoto.json")
    if not beside.is_file():
        return None
    for key in keys:
        try:
            statement = attest.verify(beside.read_bytes(), key)
        except attest.BadSignature:
            continue
        if sha256 in {s["digest"].get("sha256") for s in statement["subject"]}:
            return key.id
    return None


def refusals(
    taken: Taken, raw: dict[str, Any], named: Named, checklist: Checklist, image_id: str | None
) -> list[Refusal]:
    """Every reason why a record does not count under a policy, the gravest first."""
    policy, record, found = named.policy, taken.record, []

    def refuse(code: str, reason: str, remedy: str) -> None:
        found.append(Refusal(taken.file, code, reason, remedy))

    if reason := altered(taken, raw, checklist):
        refuse("altered", reason, "judge again, or `judge --evidence` what was recorded")
    # The process runtime has no image: it is bound by the hash of the source tree.
    if not taken.process and record.image.image_id != image_id:
        refuse("other-image", f"it is of {record.image.image_id}", f"judge {image_id}")
    if record.suite.checklist_sha256 != checklist.sha256:
        seen = record.suite.checklist_sha256[:12]
        again = f"judge --evidence {taken.folder} --out DIR, under today's"
        refuse("other-checklist", f"it was judged under checklist {seen}", again)
    if reason := age(record.created, policy.max_age_days):
        refuse("stale", reason, "judge the image again")
    if policy.signed and taken.signed_by not in policy.keys:
        who = f"key {taken.signed_by}, which is not one of its keys" if taken.signed_by else ""
        reason = f"the policy wants it signed; it is signed by {who or 'nobody known'}"
        refuse("unsigned", reason, "sign it where it was made: splatgate sign RECORD --key KEY")
    if taken.process:
        if "gpu" in policy.lanes:
            seen = record.machine.gpu.partition(",")[0] if record.machine.gpu else "no GPU"
            reason = f"it was seen in the process runtime ({seen}), outside the image"
            remedy = f"judge the image, where an engine has a {' or '.join(policy.gpu) or 'GPU'}"
            refuse("supporting-only", reason, remedy)
        return found
    if record.suite.dirty is not False:
        tree = "a dirty tree" if record.suite.dirty else "a tree of no known commit"
        refuse("dirty-tree", f"the suite that judged was {tree}", "commit, then judge again")
    if reason := other_gpu(record, policy.gpu if "gpu" in policy.lanes else ()):
        refuse("other-gpu", reason, f"run the gpu lane on {' or '.join(policy.gpu)}")
    return found


def other_gpu(record: Record, accepted: Sequence[str]) -> str:
    """Why what a record shows of the gpu lane comes from another GPU than accepted, or ""."""
    shown = any(c.lane == "gpu" and c.state == State.PASSED for c in record.checks)
    name = record.machine.gpu or "an unnamed GPU"
    if not accepted or not shown or any(re.search(rf"\b{re.escape(f)}\b", name) for f in accepted):
        return ""
    return f"its gpu lane ran on {name}"


def age(created: str, days: float, now: datetime | None = None) -> str:
    """Why evidence collected at ``created`` is of no use, or ""."""
    now = now or datetime.now(UTC)
    try:
        then = datetime.fromisoformat(created)
    except ValueError:
        return "it does not say when its evidence was collected"
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    if then > now + CLOCKS:
        return f"its evidence was collected at {created}, which is yet to come"
    if now - then > timedelta(days=days):
        return f"its evidence was collected at {created}, more than {days:g} days ago"
    return ""


def expired(named: Named, file: str, today: datetime | None = None) -> list[Refusal]:
    """Waivers of the policy that have ended."""
    day = (today or datetime.now(UTC)).date()
    return [
        Refusal(
            file,
            "expired-waiver",
            f"the waiver of {w.item} ended on {w.expires}",
            f"mend {w.item}, or let {w.owner} renew it with a reason",
        )
        for w in named.policy.waiver
        if w.expires < day
    ]
