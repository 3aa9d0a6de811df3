"""What is judged, and through which door: one list, for the verb ``judge`` and for pytest."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    Option("lock", "FILE", "pip's lock that the image was made from"),
    Option("scene", "DIR", "COLMAP scene for the training jobs (default: the drone scene)"),
    Option("request", "FILE", "CreateTrainingJob request to start from"),
    Option("source", "DIR", "the trainer's sources, for the gpu lane without an image"),
    Option("pipeline", "FILE", "state machine (default: the reference one)"),
    Option("pipeline-input", "FILE", "what the state machine's starter sends"),
    Option("baseline", "RECORD", "record.json of a known good run"),
)


def add(add_option: Callable[..., Any]) -> None:
    """Declare the options, of an argparse parser or of a pytest group."""
    for option in VALUES:
        many: dict[str, Any] = {"action": "append", "default": []} if option.many else {}
        add_option(f"--{option.name}", metavar=option.metavar, help=option.help, **many)
    add_option("--quick", action="store_true", help="static and start-up checks only")
    add_option("--out", metavar="DIR", default="build", help="for record and evidence (build)")


def passed_on(given: Namespace) -> Iterator[str]:
    """The options of a parsed command line as arguments for a process in any folder."""
    for option in VALUES:
        value = getattr(given, option.name.replace("-", "_"))
        for one in value if option.many else [value]:
            if one is not None:
                yield f"--{option.name}={Path(one).resolve() if option.path else one}"
    yield from ["--quick"] if given.quick else []
    yield f"--out={Path(given.out).resolve()}"
