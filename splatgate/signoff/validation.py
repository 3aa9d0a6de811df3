"""Evidence comes in: each folder is taken and judged here, or refused with a code and a way to
mend it.

The checks, the checklist and the policy are those of this checkout. A run record is a summary for
people: nothing that it says is believed. What the image is, the bytes of its configuration tell;
who collected the evidence, only a signature.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from splatgate.container.reference import DIGEST
from splatgate.container.registry import CONFIG, MANIFEST
from splatgate.evidence import BadInput, Header, Image, Job, LayerFiles, T, read
from splatgate.judge.in_process import judged
from splatgate.record import (
    SCHEMA,
    Record,
    State,
    Suite,
    evidence_sha256,
    seal,
)
from splatgate.signoff import attest
from splatgate.signoff.policy import LONGEST, Named

#: Clocks of two machines may differ by this.
CLOCKS = timedelta(minutes=10)
ENVELOPE = "record.intoto.json"


@dataclass(frozen=True)
class Refusal:
    """Why something does not count. ``code`` is stable."""

    file: str
    code: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Signed:
    """A signature over a folder of evidence."""

    key: str
    suite: Suite
    at: str


@dataclass(frozen=True)
class Taken:
    """A folder of evidence, and what this checkout says of it."""

    file: str
    folder: Path
    header: Header
    #: The judgement of this checkout.
    record: Record
    #: One hash of all files of the evidence.
    sha256: str
    #: The record beside it, as it was given.
    told: Record | None = None
    #: Why record or signature do not fit the evidence, or "".
    altered: str = ""
    signed: Signed | None = None

    @property
    def process(self) -> bool:
        """Whether it was seen outside the image: supporting evidence only."""
        return self.header.outside

    @property
    def looker(self) -> Suite | None:
        """The suite that collected the evidence, as far as anything tells."""
        try:
            return msgspec.convert(self.header.extra.get("suite"), Suite)
        except msgspec.ValidationError:
            return self.told.suite if self.told else self.signed.suite if self.signed else None


def find(argument: str) -> tuple[Path, Path | None]:
    """The folder of evidence that an argument names, and the record beside it where there is one.

    Raises:
        BadInput: there is no evidence.
    """
    path = Path(argument)
    record = path / "record.json" if path.is_dir() else path
    beside = [record.parent / "evidence", record.parent]
    if record.is_file():
        told = read(record, Record)
        if told.schema != SCHEMA:
            raise BadInput(f"{record}: {told.schema}, not {SCHEMA}; give a record.json of `judge`")
        beside.insert(1, record.parent / told.evidence_folder)
    for folder in beside:
        if (folder / "evidence.json").is_file():
            return folder, record if record.is_file() else None
    raise BadInput(f"{argument}: no evidence there; give what `judge` left (build/)")


def take(argument: str, scene: Path, keys: Sequence[attest.Public], known: dict[str, Any]) -> Taken:
    """Judge a folder of evidence.

    Args:
        argument: the folder, or a record beside it.
        scene: the scene of its jobs.
        keys: those whose signatures are believed.
        known: what was computed from evidence before (``in_process.judged``).

    Raises:
        BadInput: no evidence, or none that can be read.
    """
    folder, path = find(argument)
    record = judged(folder, scene, known)
    sha256 = evidence_sha256(record.evidence)
    told = read(path, Record) if path else None
    signed, altered = signature(path or folder / "record.json", sha256, keys)
    if path and told:
        altered = altered or _altered(json.loads(path.read_bytes()), told, record.evidence)
    header = read(folder / "evidence.json", Header)
    return Taken(argument, folder, header, record, sha256, told, altered, signed)


def _altered(raw: dict[str, Any], told: Record, files: dict[str, str]) -> str:
    """What shows that evidence is not as it was when its record was written, or ""."""
    if seal(raw) != told.seal:
        return "the record was edited after it was written, or has no seal"
    for name in sorted(told.evidence.keys() | files.keys()):
        if files.get(name) != told.evidence.get(name):
            what = "missing" if name not in files else "new" if name not in told.evidence else ""
            return f"evidence {name} is {what or 'another than the one judged'}"
    return ""


def statement(taken: Taken, record: Path | None, suite: Suite, at: str) -> dict[str, Any]:
    """What ``sign`` signs: the evidence by the hash of each file, the record beside it, and the
    suite of the checkout that signs.
    """
    rests_on = [
        {"name": name, "digest": {"sha256": x}} for name, x in taken.record.evidence.items()
    ]
    if record:
        sha256 = hashlib.sha256(record.read_bytes()).hexdigest()
        rests_on.append({"name": "record.json", "digest": {"sha256": sha256}})
    git = {"gitCommit": suite.commit, "gitTree": suite.tree}
    rests_on.append(
        {
            "name": "suite",
            "digest": {name: value for name, value in git.items() if value},
            "annotations": {**msgspec.to_builtins(suite), "signed": at},
        }
    )
    states = {name: item.state for name, item in taken.record.items.items()}
    predicate = attest.predicate(
        [n for n, s in states.items() if s == State.HELD],
        [],
        [n for n, s in states.items() if s != State.HELD],
        rests_on,
    )
    return attest.statement("evidence", taken.sha256, predicate)


def signature(
    record: Path, sha256: str, keys: Sequence[attest.Public]
) -> tuple[Signed | None, str]:
    """The signature of evidence by one of ``keys``, and why an envelope does not fit, or ""."""
    beside = record.with_name(ENVELOPE)
    if not beside.is_file():
        return None, ""
    envelope = beside.read_bytes()
    try:
        found = attest.unverified(envelope)
        subjects = {s["digest"]["sha256"] for s in found["subject"]}
        rests_on = {x["name"]: x for x in found["predicate"]["configuration"]}
        noted = rests_on["suite"]["annotations"]
        suite, at = msgspec.convert(noted, Suite), str(noted["signed"])
        signed_record = rests_on.get("record.json", {}).get("digest", {}).get("sha256")
    except (attest.BadSignature, msgspec.ValidationError, KeyError, TypeError, AttributeError):
        return None, f"{ENVELOPE} is no signature of `sign`"
    if sha256 not in subjects:
        return None, "the evidence is another than the one signed"
    now = hashlib.sha256(record.read_bytes()).hexdigest() if record.is_file() else None
    if now != signed_record:
        return None, "the record is another than the one signed"
    for key in keys:
        try:
            attest.verify(envelope, key)
        except attest.BadSignature:
            continue
        return Signed(key.id, suite, at), ""
    return None, ""


def refusals(
    taken: Taken, named: Named, config: bytes | None, manifest: str | None
) -> list[Refusal]:
    """Every reason why evidence does not count under a policy, the gravest first.

    Args:
        taken: the evidence.
        named: the policy.
        config: the configuration of the image that is decided on, as bytes; None: not known.
        manifest: the digest of its manifest; None: not known.
    """
    policy, found = named.policy, []

    def refuse(code: str, reason: str, remedy: str) -> None:
        found.append(Refusal(taken.file, code, reason, remedy))

    if taken.altered:
        refuse("altered", taken.altered, "judge the image again")
    for created in times(taken):
        if reason := age(created, policy.max_age_days):
            refuse("stale", reason, "judge the image again")
            break
    if policy.signed:
        _unsigned(taken, named, refuse)
    if taken.process:
        if "gpu" in policy.lanes:
            seen = (taken.header.machine.gpu or "no GPU").partition(",")[0]
            reason = f"it was seen in the process runtime ({seen}), outside the image"
            remedy = f"judge the image, where an engine has a {' or '.join(policy.gpu) or 'GPU'}"
            refuse("supporting-only", reason, remedy)
        return found
    if config is None:
        refuse(
            "no-configuration",
            "no bytes of the image's configuration tell what was judged",
            "push the image and judge it there, or name it: --image HOST/NAME@sha256:…",
        )
    elif reason := another(taken.folder, taken.header, config, manifest):
        refuse("other-image", reason, "judge the image that is to be released")
    suite = taken.looker
    if suite is None or suite.dirty is not False:
        tree = "a dirty tree" if suite and suite.dirty else "a tree of no known commit"
        refuse("dirty-tree", f"the suite that looked was {tree}", "commit, then judge again")
    if reason := other_gpu(taken.record, policy.gpu if "gpu" in policy.lanes else ()):
        refuse("other-gpu", reason, f"run the gpu lane on {' or '.join(policy.gpu)}")
    return found


def _unsigned(taken: Taken, named: Named, refuse: Any) -> None:
    policy, signed = named.policy, taken.signed
    if signed is None or (policy.keys and signed.key not in policy.keys):
        who = f"key {signed.key}, which is not one of its keys" if signed else "nobody trusted"
        name = shlex.quote(taken.file)
        how = f"splatgate sign {name} --key KEY where it was made, gate --trust PUBLIC"
        refuse("unsigned", f"the policy wants it signed; it is signed by {who}", how)
        return
    if signed.suite.dirty is not False:
        refuse("dirty-tree", "the suite that signed was no clean commit", "commit, judge, sign")
    for revoked in policy.revoked:
        if revoked.key == signed.key and max(signed.at, *times(taken))[:10] >= str(revoked.since):
            reason = f"key {signed.key} is revoked since {revoked.since}: {revoked.reason}"
            refuse("revoked-key", reason, "judge again, and sign with another key")


def times(taken: Taken) -> list[str]:
    """When the evidence was collected: as its header says, and as each of its jobs does."""
    started = (_legible(path, Job) for path in sorted(taken.folder.glob("jobs/*/job.json")))
    return [taken.header.created, *(job.started for job in started if job and job.started)]


def configuration(taken: Taken) -> tuple[bytes | None, str | None]:
    """The image's configuration among the evidence, and its manifest's digest where the manifest's
    bytes are there too and both fit the image's id. An engine with the containerd store knows an
    image by its manifest.
    """
    files = [taken.folder / name for name in (CONFIG, MANIFEST)]
    config, manifest = (path.read_bytes() if path.is_file() else b"" for path in files)
    known = [sha256(config)] if config else []
    if config and ((_json(manifest) or {}).get("config") or {}).get("digest") == known[0]:
        known.append(sha256(manifest))
    fits = taken.header.image_id in known
    return config or None, known[1] if fits and known[1:] else None


def sha256(data: bytes) -> str:
    """A digest, as registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def another(folder: Path, header: Header, config: bytes, manifest: str | None) -> str:
    """Where evidence speaks of another image than that of a configuration, or of its manifest's
    digest; "" where nowhere.
    """
    if header.image_id not in (sha256(config), manifest):
        return f"it is of {header.image_id}, and the configuration is {sha256(config)}"
    image, document = _legible(folder / "image.json", Image), _json(config) or {}
    inner, rootfs = document.get("config") or {}, document.get("rootfs") or {}
    said: dict[str, Any] = {
        "os": document.get("os"),
        "architecture": document.get("architecture"),
        "entrypoint": tuple(inner.get("Entrypoint") or ()),
        "cmd": tuple(inner.get("Cmd") or ()),
        "env": dict(entry.partition("=")[::2] for entry in inner.get("Env") or ()),
        "user": inner.get("User") or "",
        "workdir": inner.get("WorkingDir") or "/",
        "labels": inner.get("Labels") or {},
        "digests": tuple(rootfs.get("diff_ids") or ()),
        "image_id": header.image_id,
    }
    for name, value in said.items() if image else ():
        if getattr(image, name) != value:
            return f"its image.json has another {name} than the image's configuration"
    layers = _legible(folder / "layers.json", tuple[LayerFiles, ...]) or ()
    if strange := {layer.digest for layer in layers} - set(said["digests"]):
        return f"its layers.json speaks of {min(strange)}, which is no layer of the image"
    for path in sorted(folder.glob("jobs/*/job.json")):
        job = _legible(path, Job)
        if job and job.image_id != header.image_id:
            return f"its job {path.parent.name} ran {job.image_id or 'no image'}"
    return ""


def _json(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _legible(path: Path, kind: type[T]) -> T | None:
    """A record, or None: of what is missing or damaged, the checks say so."""
    try:
        return read(path, kind)
    except BadInput:
        return None


def valid(digest: str | None, where: str) -> None:
    """Refuse what is no digest, before it is part of a path.

    Raises:
        BadInput: it is none.
    """
    if digest is not None and not DIGEST.fullmatch(digest):
        raise BadInput(f"{where}: {digest!r} is no digest; give sha256: and 64 digits")


def other_gpu(record: Record, accepted: Sequence[str]) -> str:
    """Why what was shown of the gpu lane comes from another GPU than accepted, or ""."""
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


def waivers(named: Named, file: str, today: date) -> list[Refusal]:
    """Waivers of the policy that have ended, or would last too long."""
    found = []
    for w in named.policy.waiver:
        if w.expires < today:
            mend = f"mend {w.item}, or let {w.owner} renew it with a reason"
            reason = f"the waiver of {w.item} ended on {w.expires}"
            found.append(Refusal(file, "expired-waiver", reason, mend))
        elif (w.expires - today).days > LONGEST:
            reason = f"the waiver of {w.item} ends on {w.expires}, in more than {LONGEST} days"
            found.append(Refusal(file, "long-waiver", reason, "let it end sooner"))
    return found
