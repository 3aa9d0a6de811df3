"""Hand-overs: one file says what passes from a stage to the next, and both sides are held to it.

``from`` and ``to`` name states, ``writes`` and ``reads`` where it lies in the container of each,
``layout`` what lies there, as patterns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from splatgate.pipeline.lists import listed, objects
from splatgate.pipeline.paths import Finding, Started

#: Where a training job's channels and model are (contract 2.1).
CHANNELS, MODEL = "/opt/ml/input/data/", "/opt/ml/model"


def kept(contracts: dict[str, Any], started: dict[str, Started]) -> Iterator[Finding]:
    """Stages whose requests have the container read or write elsewhere than was agreed."""
    for name, contract in contracts.items():
        for side, verb in (("from", "writes"), ("to", "reads")):
            if side not in contract:
                continue  # the starter, or whoever takes what the last stage delivers
            state, path = str(contract[side]), str(contract.get(verb))
            if state not in started:
                yield Finding(
                    state, "hand-over", "must", f"contract {name} names it, and it starts no job"
                )
                continue
            places = _places(started[state].job.request, verb)
            if not any(path == p or path.startswith(p + "/") for p in places):
                yield Finding(
                    state,
                    "hand-over",
                    "must",
                    f"contract {name} says that it {verb} {path}; its request has "
                    f"{', '.join(places) or 'no such place'}",
                )
            elif verb == "reads" and not _named(started[state].job.request, path):
                yield Finding(
                    state,
                    "hand-over",
                    "must",
                    f"contract {name} says that it reads {path}; its command names no such file",
                )


def _places(request: dict[str, Any], verb: str) -> list[str]:
    """Folders of the container that a request fills or empties."""
    if verb == "writes":
        outputs = objects(_object(request, "ProcessingOutputConfig").get("Outputs"))
        found = [_object(o, "S3Output").get("LocalPath") for o in outputs]
        found += [MODEL] if "TrainingJobName" in request else []
    else:
        inputs = objects(request.get("ProcessingInputs"))
        found = [_object(i, "S3Input").get("LocalPath") for i in inputs]
        channels = objects(request.get("InputDataConfig"))
        found += [f"{CHANNELS}{c.get('ChannelName')}" for c in channels]
    return [path for path in found if isinstance(path, str) and path]


def _object(parent: dict[str, Any], member: str) -> dict[str, Any]:
    value = parent.get(member)
    return value if isinstance(value, dict) else {}


def _named(request: dict[str, Any], path: str) -> bool:
    """Whether a processing job's command, where it has one, names a file that it is to read."""
    application = _object(request, "AppSpecification")
    command = [
        *listed(application.get("ContainerEntrypoint")),
        *listed(application.get("ContainerArguments")),
    ]
    return not command or path in " ".join(map(str, command))


def lacks(contract: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Patterns of a contract's layout that no file of ``names`` fits."""
    known = list(names)
    return [
        pattern
        for pattern in contract.get("layout", ())
        if not any(fnmatchcase(name, pattern) for name in known)
    ]
