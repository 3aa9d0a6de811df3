"""Verb ``probe``: one short training job that answers what SageMaker does not document."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from splatgate.container.cuda import INSTANCE_TYPES
from splatgate.container.reference import parse
from splatgate.evidence import BadInput, Origin, to_json, write
from splatgate.paths import ROOT
from splatgate.probing.account import Account
from splatgate.probing.asked import ENDS, Asked, affordable, name_of, request
from splatgate.probing.points import Answer, Found, answers, shown
from splatgate.sagemaker.aws import clients

SCHEMA = "splatgate/probe/1"
#: Where to end the wait for an instance, the image and the job itself, seconds.
TIMEOUT = 3600
#: How a job ends that did what it was to do.
WANTED = {
    "stop": ("Stopped", "MaxRuntimeExceeded"),
    "fail": ("Failed", "Failed"),
    "empty": ("Completed", "Completed"),
}


@dataclass(frozen=True)
class Report:
    """``probe --json``; of a dry run only request, cost and the points that it would answer."""

    live: bool
    end: str
    request: dict[str, Any]
    #: USD; ``most`` is None where no price was stated.
    cost: dict[str, float | None]
    points: tuple[Answer, ...] = ()
    #: What the program saw, as it wrote it down.
    saw: dict[str, Any] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    #: What could not be tidied up.
    left: tuple[str, ...] = ()
    problem: str = ""
    folder: str = ""
    origin: Origin = Origin.LIVE
    schema: str = SCHEMA


def main(argv: Sequence[str], client: Callable[[str], Any] | None = None) -> int:
    """Exit status 0: the job ended as it was to, or nothing was started; 1: it ended otherwise; 3:
    none could be started or followed.
    """
    options = _parser().parse_args(argv)
    asked = Asked(
        image=options.image,
        role=options.role,
        output=options.output,
        instance_type=options.instance_type,
        end=options.end,
        seconds=options.max_runtime,
        channel=options.channel,
        python=options.python,
        isolated=not options.network,
        name=name_of(options.end),
        price=options.price_per_hour,
        ceiling=options.ceiling,
    )
    document = request(asked)
    affordable(asked, options.live)
    cost = {"price_per_hour": asked.price, "ceiling": asked.ceiling, "most": asked.most}
    report = Report(False, asked.end, document, cost, origin=Origin.EMULATED)
    if options.live:
        if not parse(asked.image).host:
            raise BadInput(f"--image {asked.image}: names no registry that SageMaker pulls from")
        client = client or clients(options.profile, options.region)
        folder = Path(options.out or ROOT / "build" / "probe" / asked.name)
        report = _live(replace(report, live=True, origin=Origin.LIVE), client, folder, options)
    _tell(report, asked)
    if options.json:
        sys.stdout.write(to_json(report).decode())
    elif not options.live:
        sys.stdout.write(to_json(document).decode())
    ended = (
        report.description.get("TrainingJobStatus"),
        report.description.get("SecondaryStatus"),
    )
    return 1 if options.live and ended != WANTED[asked.end] else 0


def _live(
    report: Report, client: Callable[[str], Any], folder: Path, options: argparse.Namespace
) -> Report:
    """Run the job; what is known of it is in ``folder`` however it ends."""
    account = Account(client, report.request, _say)
    write(folder / "probe.json", replace(report, folder=str(folder)))
    # A stop by the system must stop the job as Ctrl-C does.
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    found, problem = Found(report.end), "interrupted"
    try:
        found = account.run(folder, options.timeout, options.keep)
        problem = ""
    except BadInput as error:
        problem = str(error)
        raise
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        report = replace(
            report,
            points=answers(found),
            saw=found.saw,
            description=found.description,
            left=tuple(account.left),
            problem=problem,
            folder=str(folder),
        )
        write(folder / "probe.json", report)
    return report


def _tell(report: Report, asked: Asked) -> None:
    """Cost, and what is or would be answered."""
    if not report.live:
        _say(f"dry run: nothing was sent; the job {ENDS[asked.end]}")
        told = "not bounded: state --price-per-hour USD"
        if asked.most is not None:
            told = f"at most {asked.most:.2f} USD"
        _say(
            f"cost: {told} ({asked.most_seconds:.0f} s of {asked.instance_type}); --live starts it"
        )
        _say("it would answer:")
        for point in shown(asked.end):
            _say(f"  {point.row}: {point.question}")
        return
    for answer in report.points:
        _say(f"{answer.row}: {answer.question} {answer.answer or f'not verified: {answer.why}'}")
        if answer.answer and answer.assumed:
            _say(f"    assumed here: {answer.assumed}")
    _say(f"record: {report.folder}/probe.json")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no amount in USD")
    return value


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 60 <= int(text) <= 3000:
        raise argparse.ArgumentTypeError(f"{text} is not 60 to 3000 s")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="splatgate probe",
        description="Look at what SageMaker leaves open, by one short training job of your image "
        "in your account. By default nothing is sent: the request, its greatest cost and what it "
        "would answer are printed. Exit status: 0 it ended as it was to, or a dry run; 1 it ended "
        "otherwise; 3 it could not be started or followed.",
    )
    add = parser.add_argument
    add("--image", required=True, metavar="REF", help="the training image, in your ECR")
    add("--role", required=True, metavar="ARN", help="the job's role")
    add("--output", required=True, metavar="s3://…", help="S3OutputPath")
    add("--channel", metavar="s3://…", help="a prefix with an object or two, as input channel")
    add("--instance-type", default=INSTANCE_TYPES[0], help=f"({INSTANCE_TYPES[0]})")
    ways = "; ".join(f"{name}: {what}" for name, what in ENDS.items())
    add("--end", choices=ENDS, default="stop", help=f"how the job ends. {ways}. Default: stop")
    add("--max-runtime", type=_seconds, default=300, metavar="S", help="MaxRuntimeInSeconds (300)")
    add("--python", default="python3", help="the image's interpreter (python3)")
    add("--network", action="store_true", help="without network isolation")
    add("--price-per-hour", type=_amount, metavar="USD", help="of the instance type, for training")
    add("--ceiling", type=_amount, metavar="USD", help="the most that the job may cost")
    add("--live", action="store_true", help="really create the job")
    add(
        "--timeout",
        type=float,
        default=TIMEOUT,
        metavar="S",
        help=f"stop the job that has not ended by then ({TIMEOUT})",
    )
    add("--keep", action="store_true", help="leave the job's objects in S3")
    add("--out", metavar="DIR", help="where record and files go (build/probe/NAME)")
    add("--profile", help="AWS profile")
    add("--region", help="AWS Region")
    add("--json", action="store_true", help="the record on standard output")
    return parser
