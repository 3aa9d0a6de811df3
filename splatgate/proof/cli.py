"""Verb ``faults``: judge every variant of the catalogue, and report."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from splatgate.evidence import BadInput, to_json
from splatgate.paths import BUILD, ROOT, built_image
from splatgate.proof.bench import Bench
from splatgate.proof.catalogue import OF_SOURCE, Fault, excuses, lacking, load
from splatgate.proof.report import (
    ControlOutcome,
    Outcome,
    Report,
    disturbed,
    lists,
    redundant,
    weigh,
    with_mutants,
)
from splatgate.record import Record


def main(argv: Sequence[str]) -> int:
    """Verb ``faults``. Exit status 0: every fault that this machine can judge is caught, no
    control disturbed; 1 otherwise; 3 could not judge.
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
    excused = excuses(folder)
    if unknown := set(options.only or ()) - set(faults):
        raise BadInput(f"--only {', '.join(sorted(unknown))}: not in {folder}")
    chosen = {n: f for n, f in faults.items() if not options.only or n in options.only}
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    engine_missing, image = _good_image(options.image)
    bench = Bench(image, BUILD / "faults", options.workers, say)
    reasons = {
        name: ("" if fault.of_evidence or fault.kind == OF_SOURCE else engine_missing)
        or lacking(fault)
        for name, fault in chosen.items()
    }
    able = {name: fault for name, fault in chosen.items() if not reasons[name]}
    found: dict[str, Outcome | ControlOutcome] = {
        name: _not_run(name, chosen[name], reason) for name, reason in reasons.items() if reason
    }
    alone = threading.Lock()

    def work(name: str) -> None:
        fault, started = able[name], monotonic()
        try:
            record = bench.variant(name, fault, folder / name)
            outcome = _weighed(name, fault, record, bench)
        except BadInput as error:
            outcome = _not_run(name, fault, str(error))
        with alone:
            found[name] = outcome
            _tell(f"{len(found)}/{len(chosen)} {name}", outcome, monotonic() - started)

    for name, outcome in found.items():
        _tell(name, outcome, 0.0)
    with bench.derived(able, folder):
        bench.spread(able, work, lambda name: able[name].of_evidence)

    outcomes = [o for n in chosen if isinstance(o := found[n], Outcome)]
    controls = [o for n in chosen if isinstance(o := found[n], ControlOutcome)]
    report = Report(
        faults=tuple(outcomes),
        controls=tuple(controls),
        redundant=redundant(bench.records, outcomes) if not options.only else (),
        lists=lists(faults, outcomes, excused),
        excused=excused,
    )
    if not options.only:
        report = with_mutants(report, bench.good_evidence(), say)
    if options.json:
        sys.stdout.write(to_json(report).decode())
    return _close(report, {name for name, fault in chosen.items() if lacking(fault)})


def _close(report: Report, beyond: set[str]) -> int:
    """Say how it ended, and give the exit status: 0 too where this machine lacks what a fault asks
    (``beyond``), as a judge's *partial* is.
    """
    every: list[Outcome | ControlOutcome] = [*report.faults, *report.controls]
    ended = [outcome.status for outcome in every]
    for name in report.redundant:
        say(f"redundant: no fault needs {name}")
    not_run = ended.count("not-run")
    stuck = {outcome.name for outcome in every if outcome.status == "not-run"} - beyond
    say(
        f"faults: {ended.count('caught')} of {len(report.faults)} caught; "
        f"controls: {ended.count('undisturbed')} of {len(report.controls)} undisturbed; "
        f"{not_run} not run"
    )
    bad = {"missed", "disturbed"} & set(ended) or any(o.collateral for o in report.faults)
    return 1 if bad else (3 if stuck else 0)


def say(text: str) -> None:
    """One line of progress, on standard error and at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _not_run(name: str, fault: Fault, reason: str) -> Outcome | ControlOutcome:
    if fault.control:
        return ControlOutcome(name, "not-run", reason=reason)
    return Outcome(name, fault.origin, "not-run", fault.item, reason=reason)


def _weighed(name: str, fault: Fault, record: Record, bench: Bench) -> Outcome | ControlOutcome:
    good = bench.good(fault)
    if fault.control:
        changed = disturbed(record, good, fault.kind)
        return ControlOutcome(name, "disturbed" if changed else "undisturbed", changed)
    return weigh(name, fault, record, good)


def _tell(name: str, outcome: Outcome | ControlOutcome, seconds: float) -> None:
    text = f"{name}: {outcome.status}"
    if isinstance(outcome, ControlOutcome):
        text += f" {outcome.reason}{'; '.join(outcome.disturbed)}"
    else:
        text += f" {outcome.reason.partition(chr(10))[0]}"
        text += f" collateral {outcome.collateral}" if outcome.collateral else ""
    say(f"{text.rstrip()} ({seconds:.1f} s)")


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
