"""The proof that the judge can say no: known-bad variants, each caught by the one item it must
fail.

A fault is a folder with ``fault.toml`` and what makes it: a Dockerfile ``FROM`` the good image
(kind ``image``), or ``make.py``, which is given a copy of the good thing and spoils it in place (a
scene's folder, a request's file, a folder of evidence). A control is a legal oddity that must
change nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from splatgate import checklist as checklists
from splatgate.evidence import BadInput, Job, Member, read, to_json, write
from splatgate.record import Check, Record, State
from splatgate.run import DEFAULT_SCENE, ROOT, built_image

KINDS = ("image", "job", "scene", "pipeline", "artefact", "build", "evidence")
#: Kinds that spoil evidence, and need no engine.
OF_EVIDENCE = ("artefact", "build", "evidence")
RECORDED = ROOT / "tests" / "evidence" / "good"
#: Survivors told on standard error; the report lists all.
TOLD = 20
#: How many known failures and traps of the contract there are to cite.
KNOWN, TRAPS = 50, 33


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


@dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    name: str
    origin: str
    status: str  # caught, missed, open, not-run
    item: str | None
    by: tuple[str, ...] = ()
    reason_matched: bool = False
    collateral: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class ControlOutcome:
    """What a legal oddity changed; ``disturbed`` lists checks, and is empty as it should be."""

    name: str
    status: str  # undisturbed, disturbed, not-run
    disturbed: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """``faults --json``."""

    faults: tuple[Outcome, ...]
    controls: tuple[ControlOutcome, ...]
    #: Checks that no caught fault needs.
    redundant: tuple[str, ...]
    lists: dict[str, dict[str, tuple[str, ...]]]
    #: Edits of the good evidence (`splatgate.mutants`); none are tried with --only.
    mutants: dict[str, int] = field(
        default_factory=lambda: {"tried": 0, "killed": 0, "equivalent": 0}
    )
    #: Edits that no check notices: the to-do list.
    survivors: tuple[dict[str, str], ...] = ()
    schema: str = "splatgate/faults/1"


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


class Bench:
    """Judges variants of one good image, against what the good image itself gives."""

    def __init__(self, image: str, out: Path, workers: str, say: Callable[[str], None]) -> None:
        self.image = image
        self.out = out
        self.workers = workers
        self.say = say
        self._good: dict[str, Record] = {}

    def good(self, kind: str) -> Record:
        """The record of the good image, looked at or judged again from its evidence, to compare
        with.
        """
        door = "recorded" if kind in OF_EVIDENCE else "live"
        if door not in self._good:
            self._good[door] = (
                self.judge("good-evidence", "--evidence", str(self.good_evidence()))
                if door == "recorded"
                else self._good_live()
            )
        return self._good[door]

    def _good_live(self) -> Record:
        path = ROOT / "build" / "record.json"
        if path.exists():
            record = read(path, Record)
            fresh = record.door == "live" and not record.interrupted
            trained = any(j.status == "Completed" for j in record.jobs)
            if fresh and trained and record.image.image_id == self.image:
                return record
        return self.judge("good", "--image", self.image)

    def good_evidence(self) -> Path:
        """Evidence of the good image: what was just seen, else what was recorded with the suite."""
        for folder in (ROOT / "build" / "evidence", self.out / "good" / "evidence"):
            if (folder / "image.json").exists():
                return folder
        return RECORDED

    def judge(self, name: str, *arguments: str) -> Record:
        """Run the verb ``judge`` in a process of its own.

        Raises:
            BadInput: it left no record.
        """
        out = self.out / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        command = [sys.executable, "-m", "splatgate", "judge", "--json", "-n", self.workers]
        with (out / "judge.log").open("wb") as log:
            subprocess.run(
                [*command, "--out", str(out), *arguments],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=log,
                check=False,
            )
        if not (out / "record.json").exists():
            last = (out / "judge.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise BadInput(f"judging {name} left no record: {last}")
        return read(out / "record.json", Record)

    def variant(self, name: str, fault: Fault, folder: Path) -> Record:
        """Make the variant and judge it."""
        work = self.out / f"{name}.work"
        shutil.rmtree(work, ignore_errors=True)
        try:
            if fault.kind == "image":
                with self.built(name, folder) as tag:
                    return self.judge(name, "--image", tag, *(["--quick"] if fault.quick else []))
            if fault.kind in OF_EVIDENCE:
                shutil.copytree(self.good_evidence(), work)
                spoil(folder, work)
                if fault.kind == "artefact":
                    remember(work)
                return self.judge(name, "--evidence", str(work))
            if fault.kind == "scene":
                shutil.copytree(DEFAULT_SCENE, work)
                spoil(folder, work)
                return self.judge(name, "--image", self.image, "--scene", str(work))
            if fault.kind == "job":
                from splatgate.sagemaker.request import smoke_request

                work.mkdir(parents=True)
                request = work / "request.json"
                request.write_text(json.dumps(dict(smoke_request().raw), indent=1))
                spoil(folder, request)
                return self.judge(name, "--image", self.image, "--request", str(request))
            raise BadInput(f"{folder}: kind {fault.kind} cannot be made yet")
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def built(self, name: str, folder: Path) -> Iterator[str]:
        """The variant of an image, there for as long as it is judged; yields its reference."""
        import docker.errors

        from splatgate.container import engine

        tag, client = f"splatgate/fault:{name.lower()}", engine.client()
        try:
            client.images.build(
                path=str(folder), tag=tag, buildargs={"GOOD": self.image}, rm=True, forcerm=True
            )
        except docker.errors.BuildError as error:
            raise BadInput(f"{folder}/Dockerfile: {error.msg}") from None
        try:
            yield tag
        finally:
            client.images.remove(tag, force=True)


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


def remember(evidence: Path) -> None:
    """Let the records of the jobs speak of the artefacts as they are after an edit."""

    def now(member: Member, model: Path) -> Member:
        if member.kind != "file":
            return member
        data = (model / member.path).read_bytes()
        return replace(member, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    for path in evidence.glob("jobs/*/job.json"):
        job = read(path, Job)
        members = tuple(now(member, path.parent / "model") for member in job.members)
        write(path, replace(job, members=members))


def weigh(name: str, fault: Fault, record: Record, good: Record) -> Outcome:
    """Whether a fault was caught by its item, for its reason, and by that item alone."""
    failing = [
        c
        for c in record.checks
        if c.item == fault.item and c.state == State.FAILED and c.level == "must"
    ]
    matched = [c for c in failing if re.search(fault.message, c.reason, re.DOTALL)]
    before = {i for i, s in good.items.items() if s.state == State.FAILED}
    failed = {i for i, s in record.items.items() if s.state == State.FAILED}
    if matched:
        status = "caught"
    else:
        status = "missed" if any(c.item == fault.item for c in record.checks) else "open"
    return Outcome(
        name=name,
        origin=fault.origin,
        status=status,
        item=fault.item,
        by=tuple(c.node for c in failing),
        reason_matched=bool(matched),
        collateral=tuple(sorted(failed - before - {fault.item or ""})),
        reason=(matched or failing)[0].reason if failing else "",
    )


def disturbed(record: Record, good: Record) -> tuple[str, ...]:
    """Checks that a control changed."""
    before = {c.node: c.state for c in good.checks}
    return tuple(
        f"{c.node}: {before.get(c.node, State.NOT_VERIFIED)} → {c.state} {c.reason}"
        for c in record.checks
        if before.get(c.node) != c.state
    )


def lists(
    faults: Mapping[str, Fault], outcomes: Sequence[Outcome]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Which known failures, traps and items have a caught fault, and which are open."""
    caught = [faults[o.name] for o in outcomes if o.status == "caught"]

    def split(names: list[str], cited: Callable[[str, Fault], bool]) -> dict[str, tuple[str, ...]]:
        done = [n for n in names if any(cited(n, fault) for fault in caught)]
        return {
            "caught": tuple(done),
            "open": tuple(n for n in names if n not in done),
            "excused": (),
        }

    def word(name: str, fault: Fault) -> bool:
        return re.search(rf"\b{re.escape(name)}\b", fault.origin) is not None

    return {
        "K": split([f"K{n:02}" for n in range(1, KNOWN + 1)], word),
        "traps": split([f"trap {n}" for n in range(1, TRAPS + 1)], word),
        "items": split(list(checklists.load().by_id), lambda name, fault: fault.item == name),
    }


def redundant(good: Record, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Checks of the good run that no caught fault needed."""

    def name(node: str) -> str:
        return node.partition("[")[0]

    needed = {name(node) for o in outcomes if o.status == "caught" for node in o.by}
    every: Sequence[Check] = good.checks
    return tuple(sorted({name(c.node) for c in every} - needed))


def with_mutants(report: Report, evidence: Path, say: Callable[[str], None]) -> Report:
    """A report to which the mutants of the good evidence are added; survivors decide nothing."""
    from splatgate import mutants

    if not (evidence / "evidence.json").exists():
        say(f"mutants: none tried, there is no good evidence in {evidence}")
        return report
    say(f"mutants of {evidence}")
    tally = mutants.run(evidence)
    for survivor in tally.survivors[:TOLD]:
        say(f"    survives: {survivor['field']} {survivor['mutation']}")
    say(
        f"mutants: {tally.killed} of {tally.tried} killed, {tally.equivalent} equivalent by rule, "
        f"{len(tally.survivors)} survive"
    )
    counts = {"tried": tally.tried, "killed": tally.killed, "equivalent": tally.equivalent}
    return replace(report, mutants=counts, survivors=tally.survivors)


def main(argv: Sequence[str]) -> int:
    """Verb ``faults``. Exit status 0: every fault caught, no control disturbed; 1 otherwise; 3
    could not judge.
    """
    parser = argparse.ArgumentParser(
        prog="splatgate faults",
        description="Judge known-bad variants of the good image: each must fail exactly its item.",
    )
    parser.add_argument("--dir", default=str(ROOT / "tests" / "faults"), help="folder of faults")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this fault")
    parser.add_argument("--image", metavar="REF", help="the good image (default: the one built)")
    parser.add_argument("-n", "--workers", default="0", metavar="N", help="xdist workers per run")
    parser.add_argument("--json", action="store_true", help="the report on standard output")
    options = parser.parse_args(argv)

    folder = Path(options.dir).resolve()
    faults = load(folder)
    if unknown := set(options.only or ()) - set(faults):
        raise BadInput(f"--only {', '.join(sorted(unknown))}: not in {folder}")
    chosen = {n: f for n, f in faults.items() if not options.only or n in options.only}

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    engine_missing, image = _good_image(options.image)
    bench = Bench(image, ROOT / "build" / "faults", options.workers, say)
    outcomes: list[Outcome] = []
    controls: list[ControlOutcome] = []
    for number, (name, fault) in enumerate(chosen.items(), 1):
        say(f"{number}/{len(chosen)} {name}: {fault.story}")
        reason = engine_missing if fault.kind not in OF_EVIDENCE else ""
        reason = reason or lacking(fault)
        if reason:
            outcome = Outcome(name, fault.origin, "not-run", fault.item, reason=reason)
            control = ControlOutcome(name, "not-run", reason=reason)
        else:
            good = bench.good(fault.kind)
            record = bench.variant(name, fault, folder / name)
            outcome = weigh(name, fault, record, good)
            changed = disturbed(record, good)
            control = ControlOutcome(name, "disturbed" if changed else "undisturbed", changed)
        if fault.control:
            controls.append(control)
            say(f"    {control.status} {control.reason}{'; '.join(control.disturbed)}")
        else:
            outcomes.append(outcome)
            extra = f" collateral {outcome.collateral}" if outcome.collateral else ""
            first = outcome.reason.partition("\n")[0]
            say(f"    {outcome.status}: {first}{extra}")
    live = any(f.kind not in OF_EVIDENCE for f in chosen.values()) and not engine_missing
    judged = bool(bench._good)
    report = Report(
        faults=tuple(outcomes),
        controls=tuple(controls),
        redundant=redundant(bench.good("image" if live else "evidence"), outcomes)
        if judged
        else (),
        lists=lists(faults, outcomes),
    )
    if not options.only:
        # What is recorded with the suite is whole; what was just seen may have left jobs out.
        whole = (RECORDED / "evidence.json").exists()
        report = with_mutants(report, RECORDED if whole else bench.good_evidence(), say)
    if options.json:
        sys.stdout.write(to_json(report).decode())
    caught = sum(o.status == "caught" for o in outcomes)
    calm = sum(c.status == "undisturbed" for c in controls)
    ended = [o.status for o in outcomes] + [c.status for c in controls]
    not_run = ended.count("not-run")
    say(
        f"faults: {caught} of {len(outcomes)} caught; "
        f"controls: {calm} of {len(controls)} undisturbed; {not_run} not run"
    )
    bad = {"missed", "disturbed"} & set(ended) or any(o.collateral for o in outcomes)
    return 1 if bad else (3 if not_run else 0)


def _good_image(ref: str | None) -> tuple[str, str]:
    """Why no image can be looked at ("" if one can), and the good image's id."""
    from splatgate.container import engine
    from splatgate.container import image as images

    name = ref or built_image()
    if name is None:
        return "no image: build one (make image) or give --image REF", ""
    try:
        return "", images.see(engine.client(), name).image_id
    except engine.EngineError as error:
        return str(error), name
