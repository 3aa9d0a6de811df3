"""The contract's open points, and what a probe job says about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from splatgate.sagemaker.assumptions import Assumptions

#: What is documented below /opt/ml (contract 2.1).
DOCUMENTED = (
    *(
        "/opt/ml/input",
        "/opt/ml/input/config",
        "/opt/ml/input/data",
        "/opt/ml/model",
        "/opt/ml/code",
    ),
    *("/opt/ml/output", "/opt/ml/output/data", "/opt/ml/output/failure", "/opt/ml/checkpoints"),
    *(
        f"/opt/ml/input/config/{name}.json"
        for name in ("hyperparameters", "inputdataconfig", "resourceconfig")
    ),
)


@dataclass(frozen=True)
class Found:
    """What a probe job left. Empty parts: it did not come so far.

    ``saw`` is what its program wrote down, ``description`` DescribeTrainingJob's last answer,
    ``archive`` the kinds of the members of model.tar.gz by name (None: there is no archive),
    ``stopped`` the program's own note at SIGTERM, ``streams`` the names of its log streams.
    """

    end: str
    saw: dict[str, Any] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    archive: dict[str, str] | None = None
    stopped: dict[str, Any] | None = None
    streams: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """An open point: row of the contract, question, and what answers it.

    ``answer`` gives None where this job does not tell. ``ends``: the ways of ending that show it.
    """

    row: str
    question: str
    answer: Callable[[Found], str | None] | None
    ends: tuple[str, ...] = ("stop", "fail", "empty")
    #: What would show it, where no probe job does.
    otherwise: str = ""

    @property
    def assumed(self) -> str | None:
        """What the training host here does about it; None: it need not do anything."""
        rows = (row for row in Assumptions().rows() if row.startswith(self.row))
        return next((row.removeprefix(self.row).strip(": ") for row in rows), None) or None


@dataclass(frozen=True)
class Answer:
    """What became of an open point: ``state`` is ``answered`` or ``not-verified``."""

    row: str
    question: str
    state: str
    answer: str = ""
    why: str = ""
    assumed: str | None = None


def answers(found: Found) -> tuple[Answer, ...]:
    """Every open point with its answer, or why there is none: what is probed, and whatever else
    the training host assumes.
    """
    known = tuple(point.row for point in POINTS)
    rest = [row.partition(": ") for row in Assumptions().rows() if not row.startswith(known)]
    others = [
        Answer(row, "", "not-verified", why="no probe job shows it", assumed=assumed or None)
        for row, _, assumed in rest
    ]
    return (*(_answer(point, found) for point in POINTS), *others)


def shown(end: str) -> list[Point]:
    """The points that a job ending this way can answer."""
    return [point for point in POINTS if point.answer and end in point.ends]


def _answer(point: Point, found: Found) -> Answer:
    said, why = None, point.otherwise
    if point.answer and found.end not in point.ends:
        why = f"shown by --end {' or '.join(point.ends)}"
    elif point.answer:
        said = point.answer(found)
        why = why or "the job did not come so far"
    state = "answered" if said is not None else "not-verified"
    told = {"answer": said} if said is not None else {"why": why}
    return Answer(point.row, point.question, state, assumed=point.assumed, **told)


def _of(
    name: str, say: Callable[[Any, dict[str, Any]], str | None]
) -> Callable[[Found], str | None]:
    """An answer from one thing that the program saw; None where it saw nothing."""
    return lambda found: say(found.saw[name], found.saw) if name in found.saw else None


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _rooms(places: dict[str, Any], _: dict[str, Any]) -> str:
    told = (f"{path} {_gb(size[0])}, {_gb(size[1])} free" for path, size in places.items() if size)
    return "; ".join(told)


def _written(writes: dict[str, str], saw: dict[str, Any]) -> str | None:
    found = {path: writes.get(path) for path in saw["channels"]}
    return "; ".join(f"{path}: {said}" for path, said in found.items()) or None


def _undocumented(tree: dict[str, Any], saw: dict[str, Any]) -> str:
    inside = tuple(f"{path}/" for path in (*saw["channels"], "/opt/ml/model"))
    known = {*DOCUMENTED, *saw["channels"]}
    found = [path for path in sorted(tree) if path not in known and not path.startswith(inside)]
    return ", ".join(found) or "none"


def _limits(cgroup: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {cgroup[name]}" for name in names if cgroup.get(name)) or "none seen"


def _ended(found: Found) -> str | None:
    if not found.description.get("TrainingJobStatus"):
        return None
    return f"{found.description['TrainingJobStatus']} ({found.description.get('SecondaryStatus')})"


def _stopped(found: Found) -> str | None:
    """Only where the time limit ended the job."""
    return (
        _ended(found) if found.description.get("SecondaryStatus") == "MaxRuntimeExceeded" else None
    )


def _counted(found: Found) -> str | None:
    if not _stopped(found) or not found.stopped:
        return None
    counted = found.description.get("TrainingTimeInSeconds")
    limit = found.description.get("StoppingCondition", {}).get("MaxRuntimeInSeconds")
    return (
        f"SIGTERM {found.stopped['seconds']:.0f} s after the program started, of {limit} s; "
        f"TrainingTimeInSeconds {counted}"
    )


def _reason(found: Found) -> str | None:
    text = found.description.get("FailureReason", "")
    if "probe xxx" not in text:
        return None
    return f"{len(text)} characters, {text.count('x')} of 1200 x: {text[:40]}…{text[-40:]}"


def _links(found: Found) -> str | None:
    if found.archive is None:
        return None
    return f"packed as {found.archive['link']}" if "link" in found.archive else "left out"


def _uploaded(found: Found) -> str | None:
    if not _stopped(found):
        return None
    return f"model.tar.gz holds {', '.join(sorted(found.archive))}" if found.archive else "none"


POINTS = (
    Point(
        "1.1 --init",
        "is a signal-forwarding init PID 1?",
        _of("pid", lambda pid, saw: "not given" if pid == 1 else f"PID 1 is {saw['init']!r}"),
    ),
    Point(
        "1.1 user",
        "which user runs the container?",
        _of("uid", lambda uid, saw: f"uid {uid}, gid {saw['gid']}"),
    ),
    Point("1.1 working directory", "where does it start?", _of("cwd", lambda cwd, _: str(cwd))),
    Point(
        "1.1 no privileges, capabilities or devices beyond the engine's defaults",
        "which capabilities and GPU devices has it?",
        _of(
            "capabilities", lambda mask, saw: f"{mask}; {', '.join(saw['devices']) or 'no device'}"
        ),
    ),
    Point("1.3 FailureReason", "do prefix and suffix count?", _reason, ("fail",)),
    Point("1.3 exit 0 with an empty model", "how does such a job end?", _ended, ("empty",)),
    Point("1.4 a job that was stopped", "its status after exit 7?", _stopped, ("stop",)),
    Point("1.4 MaxRuntimeInSeconds counts", "from when?", _counted, ("stop",)),
    Point("1.4 artifacts after SIGTERM", "what is uploaded?", _uploaded, ("stop",)),
    Point(
        "1.5 log streams",
        "how are they named?",
        lambda found: ", ".join(found.streams) or None,
    ),
    Point("2.1 undocumented files and folders below /opt/ml", "which?", _of("tree", _undocumented)),
    Point(
        "2.4 File channels",
        "may they be written to?",
        _of("write", _written),
        otherwise="give --channel s3://BUCKET/PREFIX",
    ),
    Point("2.5 links and devices in /opt/ml/model", "are they packed?", _links, ("stop", "fail")),
    Point(
        "2.6 /dev/shm",
        "how large is it?",
        _of("room", lambda room, _: _gb(room["/dev/shm"][0]) if room.get("/dev/shm") else None),
    ),
    Point("2.6 a limited disk", "which disks of which size?", _of("room", _rooms)),
    Point(
        "2.6 memory for the host itself",
        "what memory has the container?",
        _of(
            "cgroup",
            lambda of, saw: (
                f"{_gb(saw['memory'])} in all; limit: "
                + _limits(of, "memory.max", "memory/memory.limit_in_bytes")
            ),
        ),
    ),
    Point(
        "2.6 pids limit",
        "how many processes?",
        _of("cgroup", lambda of, _: _limits(of, "pids.max", "pids/pids.max")),
    ),
    Point(
        "3.1 variables beyond the documented two and Environment",
        "which variables are set?",
        _of("environment", lambda names, _: ", ".join(names)),
    ),
    Point(
        "5.1 driver of the training host",
        "which driver?",
        _of("driver", lambda text, _: text.splitlines()[0] if text else "none"),
    ),
    Point(
        "5.3 variables of the container runtime",
        "what do they say?",
        _of("values", lambda of, _: ", ".join(f"{n}={v}" for n, v in sorted(of.items()))),
    ),
    Point(
        "1.5 spot interruption",
        "does the container hear of it?",
        None,
        otherwise="needs an interruption, which nobody can order",
    ),
    Point(
        "4 an image index",
        "is it refused?",
        None,
        otherwise="needs --image with the digest of an index: that the job starts is the answer",
    ),
    Point(
        "7.4 .sync of a job that was stopped",
        "success or failure?",
        None,
        otherwise="needs an execution of the state machine",
    ),
)
