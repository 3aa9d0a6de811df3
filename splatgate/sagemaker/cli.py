"""Verb ``job``: one training job as SageMaker would run it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from splatgate.container import sweep
from splatgate.container.image import see
from splatgate.evidence import BadInput, Job
from splatgate.sagemaker.host import KEEP, TrainingHost
from splatgate.sagemaker.request import Request, load
from splatgate.sagemaker.result import job_json, metric_points
from splatgate.sagemaker.s3 import download, upload
from splatgate.sagemaker.validate import validate

#: Beyond MaxRuntimeInSeconds: starting, copying the scene, the 120 s of a stop, reading the files
#: (seconds).
MARGIN = 900.0


def main(argv: Sequence[str] | None = None, client: Callable[[], Any] | None = None) -> int:
    """Run one job and report it: 0 Completed, 1 Failed or Stopped.

    Raises:
        BadInput: the request, the image or the scene is unusable (exit status 3).
        EngineError: no engine, or it failed (exit status 3).
    """
    options = _parser().parse_args(argv)
    request = load(Path(options.request))
    refused = validate(request)
    for line in refused:
        _say(f"request: {line}")
    if client is None:
        from splatgate.container import engine

        client = engine.client
    reference = options.image or request.image
    if not reference:
        raise BadInput(f"{options.request}: names no TrainingImage; give --image REF")
    docker = client()
    sweep.sweep_stale(docker)
    image = see(docker, reference)
    run = f"job-{uuid.uuid4().hex[:8]}"
    # A stop by the system must tidy up as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="splatgate-job-") as scratch:
            folder = Path(options.keep or Path(scratch) / "job")
            channels = _channels(request, options.scene, Path(scratch))
            job = TrainingHost(docker, labels=sweep.labels(run), say=_say).run(
                image.image_id,
                request,
                channels,
                folder,
                key=request.name,
                deadline=options.deadline or request.max_runtime + MARGIN,
                checkpoints=Path(options.checkpoints) if options.checkpoints else None,
                keep=KEEP if options.keep or options.upload else (),
            )
            if options.upload:
                for uri in upload(_s3(), request, folder):
                    _say(f"{request.name}: uploaded {uri}")
    finally:
        signal.signal(signal.SIGTERM, before)
    _report(job, request, refused, as_json=options.json)
    return 0 if job.status == "Completed" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="splatgate job",
        description="Run one training job as SageMaker would. "
        "Exit status: 0 Completed, 1 Failed or Stopped, 3 bad input or no engine.",
    )
    parser.add_argument("--image", metavar="REF", help="in place of the request's TrainingImage")
    parser.add_argument(
        "--request",
        metavar="FILE",
        required=True,
        help="a CreateTrainingJob request, or what describe-training-job printed",
    )
    parser.add_argument(
        "--scene",
        metavar="[CHANNEL=]DIR|s3://…",
        action="append",
        default=[],
        help="data of a channel; without a name, of the only one or of `training`; "
        "s3://… replaces the channel's S3Uri",
    )
    parser.add_argument("--upload", action="store_true", help="send the archives to S3OutputPath")
    parser.add_argument("--keep", metavar="DIR", help="keep the evidence and the artefacts here")
    parser.add_argument("--checkpoints", metavar="DIR", help="checkpoints to start with")
    parser.add_argument(
        "--deadline",
        metavar="SECONDS",
        type=float,
        help=f"give up after this; default: MaxRuntimeInSeconds and {MARGIN:.0f} s",
    )
    parser.add_argument("--json", action="store_true", help="the result on standard output")
    return parser


def _s3() -> Any:
    import boto3

    return boto3.client("s3")


def _channels(request: Request, given: Sequence[str], scratch: Path) -> dict[str, Path]:
    """Give each channel its data; what lies in S3 is fetched to ``scratch``.

    Raises:
        BadInput: a channel has none, or several would fit, or the folder is empty.
    """
    names = [channel.name for channel in request.channels]
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or name not in names:
            folder = text
            if len(names) != 1 and "training" not in names:
                raise BadInput(
                    f"--scene {text}: channels are {', '.join(names) or 'none'}; give CHANNEL=DIR"
                )
            name = names[0] if len(names) == 1 else "training"
        if folder.startswith("s3://"):
            source = next(channel for channel in request.channels if channel.name == name)
            found[name] = scratch / "channels" / name
            _say(f"channel {name}: fetching {folder}")
            download(_s3(), replace(source, uri=folder), found[name])
            continue
        found[name] = Path(folder)
        if not found[name].exists():
            raise BadInput(f"--scene {folder}: no such folder; give the folder of the scene")
        if found[name].is_dir() and not any(found[name].iterdir()):
            raise BadInput(f"--scene {folder}: nothing in it; give the folder of the scene")
    if missing := [name for name in names if name not in found]:
        raise BadInput(f"channel {missing[0]} has no data; give --scene {missing[0]}=DIR")
    return found


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _report(job: Job, request: Request, refused: list[str], *, as_json: bool) -> None:
    if as_json:
        document = job_json(job)
        document["request_errors"] = refused
        points = metric_points(job.log, request.metrics)
        document["metrics"] = [asdict(point) for point in points]
        json.dump(document, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    lines = [f"{job.name}: {job.status} ({job.secondary_status}), exit {job.exit}"]
    if job.failure_reason:
        lines.append(f"  {job.failure_reason}")
    if job.oom:
        lines.append("  killed for memory")
    lines += [f"  {name:<12}{seconds:8.1f} s" for name, seconds in job.phases.items()]
    lines += [f"  {m.bytes:>12,}  {m.path}" for m in job.members]
    lines += [f"  written outside the mounts: {path}" for path in job.writes_outside]
    lines += [f"  unverified: {row}" for row in job.unverified]
    sys.stdout.write("\n".join(lines) + "\n")
