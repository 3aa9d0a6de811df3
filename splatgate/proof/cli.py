"""Verb ``faults``: judge every variant of the catalogue, and report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from splatgate.evidence import BadInput, to_json
from splatgate.proof.bench import RECORDED, Bench
from splatgate.proof.catalogue import OF_EVIDENCE, lacking, load
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
from splatgate.run import ROOT, built_image


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
