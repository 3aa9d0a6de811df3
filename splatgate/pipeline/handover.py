"""Hand-overs: what a stage reads is what the one before writes, and what was agreed on.

A contract is one file that says what passes from a stage to the next; both sides are held to it.
``from`` and ``to`` name states, ``writes`` and ``reads`` where it lies in the container of each,
``layout`` what lies there, as patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from splatgate.pipeline.answers import Job
from splatgate.pipeline.findings import Finding
from splatgate.pipeline.json_values import listed, member, objects, texts
from splatgate.pipeline.trace import Started

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
        outputs = objects(member(request, "ProcessingOutputConfig", "Outputs"))
        found = [member(o, "S3Output", "LocalPath") for o in outputs]
        found += [MODEL] if "TrainingJobName" in request else []
    else:
        inputs = objects(request.get("ProcessingInputs"))
        found = [member(i, "S3Input", "LocalPath") for i in inputs]
        channels = objects(request.get("InputDataConfig"))
        found += [f"{CHANNELS}{c.get('ChannelName')}" for c in channels]
    return [path for path in found if isinstance(path, str) and path]


def _named(request: dict[str, Any], path: str) -> bool:
    """Whether a processing job's command, where it has one, names a file that it is to read."""
    application = request.get("AppSpecification")
    command = [
        *listed(member(application, "ContainerEntrypoint")),
        *listed(member(application, "ContainerArguments")),
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


def hand_over(started: dict[str, Started], sent: frozenset[str]) -> Iterator[Finding]:
    """Each stage reads what the one before it writes (K31, K34, K45).

    ``sent``: the texts of the execution's input, which the starter answers for.
    """
    for name, start in started.items():
        earlier = [j for j in start.before if j.writes]
        for job in start.before:
            if not job.observed and set(start.job.reads) & set(job.writes):
                yield Finding(
                    job.state,
                    "waits-for-job",
                    "must",
                    f"{name} reads what its job writes, and starts while it runs; use .sync, or "
                    f"ask for its status in a loop",
                )
        if not earlier or start.after:
            continue
        yield from _unpacked(name, start)
        read = {_plain(u) for j in start.before for u in j.reads}
        known = {_plain(u) for u in sent}
        written = {_plain(u): j for j in earlier for u in j.writes}
        fits = any(_fits(_plain(u), written) for u in start.job.reads)
        for uri in start.job.reads:
            plain = _plain(uri)
            inside = [w for w in written if _inside(plain, w) or _inside(w, plain)]
            if _fits(plain, written) or (plain in read and not inside):
                continue
            literal = plain in str(start.state.arguments)
            beside = [w for w in written if w.rpartition("/")[0] == plain.rpartition("/")[0]]
            if inside or (beside and not fits):
                where = (inside or beside)[-1]
                said = f"{written[where].state} writes {_shown(written[where], where)}"
            elif not fits and plain not in known and not literal:
                where = next(iter(written))
                said = f"{earlier[-1].state} writes {earlier[-1].writes[-1]}, and nobody sends it"
            else:
                continue
            yield Finding(
                name,
                "hand-over",
                "should" if start.between else "must",
                f"reads {uri}, but {said}: {_why(plain, where)}",
            )


def _plain(uri: str) -> str:
    return uri.rstrip("/")


def _fits(uri: str, written: dict[str, Job]) -> bool:
    """Whether a URI is what a stage writes: its prefix; of an archive also the folder it is in."""
    writer = written.get(uri)
    if writer and uri == (_archive(writer) or uri):
        return True
    return any(_archive(j) and uri == _archive(j).rpartition("/")[0] for j in written.values())


def _archive(job: Job) -> str:
    return _plain(job.archive or "")


def _inside(uri: str, folder: str) -> bool:
    return uri.startswith(folder + "/")


def _shown(job: Job, where: str) -> str:
    return job.archive or where


def _why(uri: str, written: str) -> str:
    if _inside(written, uri):
        return "it lies below that, one or more folders down"
    if _inside(uri, written):
        return "a folder that the stage need not have written"
    return "another prefix"


def _unpacked(name: str, start: Started) -> Iterator[Finding]:
    """A stage that unpacks what the training before it did not pack."""
    plain = [
        j
        for j in start.before
        if member(j.request, "OutputDataConfig", "CompressionType") == "NONE"
    ]
    said = " ".join(texts(start.job.request) + texts(start.state.arguments))
    if plain and re.search(r"model\.tar\.gz|\btar\s+-?\w*x|tarfile", said):
        yield Finding(
            name,
            "hand-over",
            "must",
            f"unpacks an archive, but {plain[-1].state} has CompressionType NONE and writes a "
            f"folder model/",
        )
