"""Verb ``job``: one training job as SageMaker would run it."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import re
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from splatgate.container import sweep
from splatgate.container.image import see
from splatgate.evidence import BadInput, Job
from splatgate.sagemaker import stages
from splatgate.sagemaker.assumptions import Assumptions, assume
from splatgate.sagemaker.attempt import Mishap
from splatgate.sagemaker.host import KEEP, TrainingHost
from splatgate.sagemaker.request import CHANNEL_NAME, Channel, Request, load
from splatgate.sagemaker.result import job_json, metric_points
from splatgate.sagemaker.s3 import download
from splatgate.sagemaker.validate import validate

#: Beyond MaxRuntimeInSeconds: starting, copying the scene, the 120 s of a stop, reading the files
#: (seconds).
MARGIN = 900.0
#: What this verb fetches and reads lies in a temporary folder of this name and its process.
SCRATCH = "splatgate-job."


def main(argv: Sequence[str] | None = None, client: Callable[[], Any] | None = None) -> int:
    """Run one job and report it: 0 Completed, or its stage done; 1 Failed or Stopped.

    Raises:
        BadInput: the request, the image or the scene is unusable (exit status 3).
        EngineError: no engine, or it failed (exit status 3).
    """
    options = _parser().parse_args(argv)
    if not options.request and not options.stage:
        raise BadInput("give --request FILE: a CreateTrainingJob request, or its description")
    request = load(Path(options.request)) if options.request else None
    assumed = assume(options.assume)
    mishaps = [Mishap(m.kind, _matches(m.option, m.pattern)) for m in options.mishaps]
    stop_when = _matches("--stop", options.stop) if options.stop else None
    if client is None:
        from splatgate.container import engine

        client = engine.client
    reference = options.image or (request.image if request else "")
    if not reference:
        raise BadInput(f"{options.request or 'no request'}: no TrainingImage; give --image REF")
    docker = client()
    sweep.sweep_stale(docker)
    sweep.sweep_folders(Path(tempfile.gettempdir()), SCRATCH)
    image = see(docker, reference)
    run = f"job-{uuid.uuid4().hex[:8]}"
    labels = sweep.labels(run)
    # A stop by the system must tidy up as Ctrl-C does; a shell's background job ignores Ctrl-C.
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, _interrupt) for number in numbers]
    stage = None
    try:
        if options.stage:
            profile = stages.profile(docker, image.image_id, options.subject, labels)
            stage = stages.stage_of(profile, options.stage, options.checkpoints)
            request = stages.request_for(docker, profile, stage, options.steps, request)
            stop_when = _matches("until", stage.until) if stage.until else None
        assert request is not None
        request = _with(request, options.set)
        refused = validate(request)
        for line in refused:
            _say(f"request: {line}")
        prefix = f"{SCRATCH}{sweep.controller()}."
        with tempfile.TemporaryDirectory(prefix=prefix) as scratch:
            folder = Path(options.keep or Path(scratch) / "job")
            job = TrainingHost(docker, labels=labels, say=_say, assumed=assumed).run(
                image.image_id,
                request,
                _channels(request, options.scene, Path(scratch)),
                folder,
                key=request.name,
                deadline=options.deadline or request.max_runtime + MARGIN,
                checkpoints=_checkpoints(request, options.checkpoints, Path(scratch)),
                keep=KEEP if options.keep else (),
                stop_when=stop_when,
                mishaps=mishaps,
            )
    finally:
        # What the engine was making when the interruption came is known by its label alone.
        with contextlib.suppress(Exception):
            sweep.sweep(docker, run)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    staged = stages.outcome(options.stage, stage, job) if stage else None
    _report(job, request, refused, staged, as_json=options.json)
    return 0 if (staged.done if staged else job.status == "Completed") else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="splatgate job",
        description="Run one training job as SageMaker would. "
        "Exit status: 0 Completed (of a stage: done), 1 Failed or Stopped, 3 bad input or no "
        "engine.",
    )
    add = parser.add_argument
    names = ", ".join(one.name for one in fields(Assumptions))
    add("--image", metavar="REF", help="in place of the request's TrainingImage")
    add(
        "--request",
        metavar="FILE",
        help="a CreateTrainingJob request, or what describe-training-job printed; may be left out "
        "with --stage",
    )
    add(
        "--scene",
        metavar="[CHANNEL=]DIR|s3://…",
        action="append",
        default=[],
        help="data of a channel in place of its S3Uri; without a name, of the only channel or of "
        "`training`",
    )
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a hyperparameter")
    add("--keep", metavar="DIR", help="keep the evidence and the artefacts here")
    add("--checkpoints", metavar="DIR|s3://…", help="checkpoints to start with")
    add("--stop", metavar="REGEX", help="StopTrainingJob at the first line of the log that matches")
    for option, kind, text in (
        ("--interrupt", "Interrupted", "take the spot instance away"),
        ("--platform-error", "InternalServerError", "let the platform fail"),
    ):
        add(
            option,
            dest="mishaps",
            metavar="REGEX",
            action="append",
            default=[],
            type=functools.partial(_Befalls, kind, option),
            help=f"{text} at the first matching line; the n-th of --interrupt and "
            "--platform-error befalls the n-th attempt",
        )
    add("--stage", choices=stages.NAMES, help="one part alone, as the subject profile says")
    add("--steps", metavar="N", type=_positive, default=20, help="of stages train and export; 20")
    add("--subject", metavar="FILE", help="subject profile, if the image has none")
    add(
        "--assume",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help=f"what SageMaker does not document, otherwise: {names}",
    )
    add(
        "--deadline",
        metavar="SECONDS",
        type=_positive,
        help=f"give up after this; default: MaxRuntimeInSeconds and {MARGIN:.0f} s",
    )
    add("--json", action="store_true", help="the result on standard output")
    return parser


class _Befalls(NamedTuple):
    """A mishap as it was asked for."""

    kind: str
    option: str
    pattern: str


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def _matches(option: str, pattern: str) -> Callable[[str], bool]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BadInput(f"{option} {pattern}: {error}; give a regular expression") from None
    return lambda line: compiled.search(line) is not None


def _with(request: Request, settings: Sequence[str]) -> Request:
    """The request with hyperparameters set.

    Raises:
        BadInput: a setting is not NAME=VALUE.
    """
    if not settings:
        return request
    given = dict(request.hyperparameters)
    for text in settings:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BadInput(f"--set {text}: give NAME=VALUE")
        given[name] = value
    return replace(request, hyperparameters=given, raw={**request.raw, "HyperParameters": given})


def _checkpoints(request: Request, given: str | None, scratch: Path) -> Path | None:
    """The folder of the checkpoints to start with; what lies in S3 is fetched to ``scratch``.

    Raises:
        BadInput: nothing there.
    """
    if given is None:
        if request.checkpoint_uri:
            _say(f"{request.checkpoint_uri}: not read; give --checkpoints to start from it")
        return None
    if given.startswith("s3://"):
        source = Channel("checkpoints", "File", given, "S3Prefix", "FullyReplicated")
        download(_s3(), source, scratch / "checkpoints", _say)
        return scratch / "checkpoints"
    if not Path(given).is_dir():
        raise BadInput(f"--checkpoints {given}: no such folder; give the folder that holds them")
    return Path(given)


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
            if equals and CHANNEL_NAME.fullmatch(name) and not Path(text).exists():
                known = ", ".join(names) or "none"
                raise BadInput(f"--scene {text}: no channel {name}; the request has {known}")
            if len(names) != 1 and "training" not in names:
                raise BadInput(
                    f"--scene {text}: channels are {', '.join(names) or 'none'}; give CHANNEL=DIR"
                )
            name = names[0] if len(names) == 1 else "training"
        if folder.startswith("s3://"):
            source = next(channel for channel in request.channels if channel.name == name)
            found[name] = _fetch(replace(source, uri=folder), scratch)
            continue
        found[name] = Path(folder)
        if not found[name].exists():
            raise BadInput(f"--scene {folder}: no such folder; give the folder of the scene")
        if found[name].is_dir() and not any(found[name].iterdir()):
            raise BadInput(f"--scene {folder}: nothing in it; give the folder of the scene")
    for channel in request.channels:
        if channel.name in found:
            continue
        if not channel.uri:
            raise BadInput(f"channel {channel.name} has no data; give --scene {channel.name}=DIR")
        found[channel.name] = _fetch(channel, scratch)
    return found


def _fetch(channel: Channel, scratch: Path) -> Path:
    folder = scratch / "channels" / channel.name
    _say(f"channel {channel.name}: fetching {channel.uri}")
    try:
        download(_s3(), channel, folder, _say)
    except BadInput as error:
        raise BadInput(f"{error}; --scene {channel.name}=DIR takes other data") from None
    return folder


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _report(
    job: Job,
    request: Request,
    refused: list[str],
    staged: stages.Staged | None,
    *,
    as_json: bool,
) -> None:
    if as_json:
        document = job_json(job)
        document["stage"] = asdict(staged) if staged else None
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
    if staged:
        when = f"done after {staged.seconds:.1f} s" if staged.done else "not reached"
        lines.insert(0, f"stage {staged.name}: {when}")
    lines += [f"  attempt {n}: {a.ended_by}" for n, a in enumerate(job.attempts[:-1], 1)]
    lines += [f"  {name:<12}{seconds:8.1f} s" for name, seconds in job.phases.items()]
    lines += [f"  {m.bytes:>12,}  {m.path}" for m in job.members]
    lines += [f"  written outside the mounts: {path}" for path in job.writes_outside]
    lines += [f"  unverified: {row}" for row in job.unverified]
    sys.stdout.write("\n".join(lines) + "\n")
