"""What is judged, and through which door: one list, for the verb ``judge`` and for pytest."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Where record and evidence go.
OUT = "build"


@dataclass(frozen=True)
class Option:
    """An option that takes a value."""

    name: str
    metavar: str
    help: str
    #: A path is of the caller's folder; a name is passed on as it stands.
    path: bool = True
    many: bool = False


VALUES = (
    Option(
        "image",
        "REF",
        "image, or a file or OCI layout of one (default: what make image built)",
        False,
    ),
    Option("evidence", "DIR", "judge this recorded evidence, look at nothing"),
    Option("pushed", "REF", "where in a registry a local image was pushed to", False),
    Option("subject", "FILE", "subject profile, if the image has none"),
    Option(
        "instance-type",
        "TYPE",
        "instance type that the image is meant for; repeatable (default: the request's)",
        path=False,
        many=True,
    ),
    Option("build-log", "FILE", "log of the build that made the image"),
    Option("dockerfile", "FILE", "Dockerfile of the image"),
    Option("lock", "FILE", "pip's lock that the image was made from; repeatable", many=True),
    Option("scene", "DIR", "COLMAP scene for the training jobs (default: the drone scene)"),
    Option("request", "FILE", "CreateTrainingJob request to start from"),
    Option("source", "DIR", "the trainer's sources, for the gpu lane without an image"),
    Option("pipeline", "FILE", "state machine (default: the reference one)"),
    Option("pipeline-input", "FILE", "what the state machine's starter sends"),
    Option("role", "ARN", "with --live: the training job's role", path=False),
    Option(
        "output", "s3://…", "with --live: S3OutputPath, below which everything lies", path=False
    ),
    Option("ceiling", "USD", "with --live: the most that the job may cost", path=False),
    Option("price-per-hour", "USD", "with --live: what the instance costs you", path=False),
    Option("checks", "DIR", "folder of checks of your own, judged too; repeatable", many=True),
    Option("checklist", "FILE", "lines of your own, behind the suite's checklist"),
    Option("baseline", "RECORD", "record.json of a known good run"),
)


def add(add_option: Callable[..., Any]) -> None:
    """Declare the options, of an argparse parser or of a pytest group."""
    for option in VALUES:
        many: dict[str, Any] = {"action": "append", "default": []} if option.many else {}
        add_option(f"--{option.name}", metavar=option.metavar, help=option.help, **many)
    add_option("--quick", action="store_true", help="static and start-up checks only")
    add_option("--fresh", action="store_true", help="take over no job of a run that was cut short")
    add_option(
        "--live", action="store_true", help="run one job in an AWS account, and judge that alone"
    )
    add_option("--out", metavar="DIR", default=OUT, help=f"for record and evidence ({OUT})")


def passed_on(given: Namespace) -> Iterator[str]:
    """The options of a parsed command line as arguments for a process in any folder."""
    for option in VALUES:
        value = getattr(given, option.name.replace("-", "_"))
        for one in value if option.many else [value]:
            if one is not None:
                yield f"--{option.name}={Path(one).resolve() if option.path else one}"
    yield from ["--quick"] if given.quick else []
    yield from ["--fresh"] if given.fresh else []
    yield from ["--live"] if given.live else []
    if given.out != OUT:
        yield f"--out={Path(given.out).resolve()}"
