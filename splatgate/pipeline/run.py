"""Runs a state machine's training state here: from an execution's input to what the next delivers.

The request is the one that the machine renders. The job runs on the training host, as SageMaker
would run it; its archive goes to the compression stage's own tool.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tarfile
import time
import uuid
from pathlib import Path

from splatgate import subject
from splatgate.container import engine, sweep
from splatgate.container.image import see
from splatgate.evidence import BadInput, ToolRun
from splatgate.evidence.missing import NotVerified
from splatgate.paths import DEFAULT_SCENE, ROOT, built_image
from splatgate.pipeline import source
from splatgate.pipeline.judge import Verdict, judge
from splatgate.sagemaker import compression
from splatgate.sagemaker.guards import whole
from splatgate.sagemaker.host import TrainingHost
from splatgate.sagemaker.request import Request, parse

MODEL, DELIVERY = (ROOT / "pipeline" / "contracts" / n for n in ("model.json", "delivery.json"))
PROFILE = ROOT / "image" / "subject.toml"


def main(options: argparse.Namespace) -> int:
    """Run it. Returns 0 delivered, 1 not sound or not delivered.

    Raises:
        BadInput: no request, image or scene to run with.
        EngineError: no engine.
    """
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"  {time.monotonic() - began:4.0f} s  {text}\n")
        sys.stderr.flush()

    pipeline = source.beside(Path(options.definition[0]), options.input)
    verdict = judge(pipeline, say)
    if not verdict.ok:
        for finding in verdict.of(*{f.rule for f in verdict.findings}):
            say(f"{finding.state}: {finding.reason}")
        return 1
    request = _request(verdict, full=options.full)
    reference = options.image or built_image()
    if reference is None:
        raise BadInput("no image to run: build one (make image) or give --image REF")
    # A stop by the system must tidy up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = Path(options.out).resolve()
    client = engine.client()
    sweep.sweep_stale(client)
    say(f"{request.name}: training {Path(options.scene or DEFAULT_SCENE).name} with {reference}")
    channel = next(iter(request.channels)).name
    job = TrainingHost(client, labels=sweep.labels(f"run-{uuid.uuid4().hex[:8]}"), say=say).run(
        see(client, reference).image_id,
        request,
        {channel: Path(options.scene or DEFAULT_SCENE)},
        out / "job",
        key=request.name,
        deadline=request.max_runtime,
        keep={"archive"},
    )
    if job.status != "Completed":
        say(f"{job.status}: {job.failure_reason or job.secondary_status}")
        return 1
    runs = deliver(out / "job" / "model.tar.gz", out / "delivery", say)
    for run in (r for r in runs if r.exit):
        say(f"{run.target}: exit {run.exit}: {run.stderr}")
    delivered = [out / "delivery" / r.target for r in runs if not r.exit]
    for path in delivered:
        sys.stdout.write(f"{path.stat().st_size:>12,}  {path}\n")
    say("delivered" if len(delivered) == len(runs) else "not delivered")
    return 0 if len(delivered) == len(runs) else 1


def _request(verdict: Verdict, *, full: bool) -> Request:
    """The training state's request; cut to the profile's CPU run unless it is to run in full."""
    found = [r.request for r in verdict.requests if r.kind == "training"]
    if not found:
        raise BadInput(f"{verdict.source}: renders no training request")
    raw = dict(found[0])
    if not full:
        run = subject.parse(PROFILE.read_text(), str(PROFILE)).run
        if run is None or run.cpu is None:
            raise BadInput(f"{PROFILE}: no [run] without a GPU; give --full on a machine with one")
        raw["HyperParameters"] = {**raw.get("HyperParameters", {}), **run.truth, **run.cpu}
    return parse(raw, "the training state's request")


def _layout(contract: Path) -> list[str]:
    found: list[str] = json.loads(contract.read_text())["layout"]
    return found


def deliver(archive: Path, folder: Path, say: compression.Say) -> list[ToolRun]:
    """What the compression stage does with a model's archive, by the contract of their hand-over.

    Raises:
        BadInput: the archive lacks what the contract promises, or the tool cannot be had.
    """
    (name,), targets = (_layout(contract) for contract in (MODEL, DELIVERY))
    try:
        tool = compression.install(say)
    except NotVerified as error:
        raise BadInput(f"no compressor: {error}") from None
    with whole(folder) as temp:
        with tarfile.open(archive) as tar:
            if name not in tar.getnames():
                raise BadInput(f"{archive}: holds no {name}, as {MODEL.name} promises")
            tar.extract(name, temp, filter="data")
        runs = []
        for target in targets:
            say(f"{name} to {target}")
            runs.append(compression.run(tool, temp, temp / name, target))
        (temp / name).unlink()
    return runs
