"""What a report means: the row of ``kinds.toml`` that it fits, with the names of this failure."""

from __future__ import annotations

import functools
import re
import string
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from splatgate.diagnose.bundle import SeenJob, Statement, mapping, text
from splatgate.diagnose.reader import Fault
from splatgate.diagnose.shapes import short
from splatgate.instances import INSTANCES

KINDS = Path(__file__).with_name("kinds.toml")
#: How many lines are quoted for one explanation, and how long.
QUOTED, WIDE = 4, 400


@dataclass(frozen=True)
class Kind:
    """A row of ``kinds.toml``."""

    item: str
    match: str
    cause: str
    remedy: str
    also: str = ""
    frame: str = ""
    stage: str = ""
    points: bool = False
    #: Only the class of the failure is known: what is more particular comes first.
    general: bool = False
    quiet: bool = False

    @functools.cached_property
    def search(self) -> re.Pattern[str]:
        """The compiled ``match``."""
        return re.compile(self.match)


@dataclass(frozen=True)
class Quote:
    """A line of the evidence and where it stands."""

    source: str
    line: str


@dataclass(frozen=True)
class Explanation:
    """One line of the checklist that may explain the failure."""

    item: str
    cause: str
    remedy: str
    evidence: tuple[Quote, ...]
    strength: str = "names"
    #: What it is about, where the message names it: a module, a file, a parameter, an action.
    object: str = ""
    #: The job or state whose failure it explains, and when it was said (seconds since 1970).
    stage: str = ""
    at: float | None = None


@functools.cache
def kinds() -> tuple[Kind, ...]:
    """The rows of ``kinds.toml``, in their order."""
    return tuple(msgspec.convert(row, Kind) for row in tomllib.loads(KINDS.read_text())["kind"])


def classify(fault: Fault, role: str) -> tuple[Kind | None, re.Match[str] | None]:
    """The first row of the table that fits a fault, and how it fits."""
    frames = " ".join(str(frame) for frame in fault.frames[-8:])
    text = re.sub(r"(?<=\w), exit code: \d+$", "", fault.text)
    # A command that is quoted is what was tried, and not what was said.
    plain = re.sub(r"Command ['\"\[].{0,2000}?(?=returned|died|timed)", "Command ", text)
    for kind in kinds():
        if kind.quiet or (kind.stage and kind.stage != role):
            continue
        if role == "service" and kind.item.startswith("production.") and not kind.stage:
            continue
        words = plain if kind.item in _WORDED else text
        if (match := kind.search.search(words)) and (
            not kind.frame or re.search(kind.frame, f"{frames} {fault.text}")
        ):
            return kind, match
    return None, None


#: Lines whose words may also stand in a command.
_WORDED = ("sagemaker.input", "production.ply", "production.compression", "production.errors")
_PUSH = re.compile(
    r"(?i)\bpush|denied|unauthorized|authorization|InitiateLayerUpload|no basic auth"
)
#: Lines that the stage decides where what is wrong lies in what it was handed.
_HANDED = {
    "compression": ("production.compression", "sagemaker.input production.ply production.errors"),
    "sfm": ("sagemaker.input", "production.errors production.ply"),
}
#: Lines that a name sent in the request turns into the hyperparameters'.
_NAMED = ("runtime.dependencies", "sagemaker.hyperparameters", "runtime.entry-point")


def explained(
    kind: Kind, match: re.Match[str], fault: Fault, role: str, job: SeenJob | None, stage: str
) -> Explanation:
    """The row's sentence and remedy, with the names of this failure in them."""
    every = [match, *kind.search.finditer(fault.text)]
    groups = [v for m in every for k, v in m.groupdict().items() if k[:6] == "object" and v]
    name = groups[0].strip(" '\"`,:") if groups else ""
    item = kind.item
    into, of = _HANDED.get(role, ("", ""))
    if into and (item in of.split() or "KeyError" in fault.text):
        item = into
    if role == "build" and not item.startswith("build."):
        item = "build.pushed" if _PUSH.search(fault.text) else "build.completed"
    keyword = re.search(r"keyword argument '(\w+)'", fault.text)
    sent = (keyword[1] if keyword else name).lstrip("-").replace("-", "_").lower()
    if job and sent and sent in job.sent and item in _NAMED:
        item = "sagemaker.hyperparameters"
    names = _names(job)
    names["own"] = f"`{fault.own}`" if fault.own else "the place that the last words name"
    names["object"] = name or "what the message names"
    names["text"] = f"`{short(fault.text, 200)}`"
    fill = string.Formatter()
    cause = fill.vformat(kind.cause, (), names)
    remedy = fill.vformat(kind.remedy, (), names)
    evidence = quotes([fault.statement])
    return Explanation(item, cause, remedy, evidence, "names", name, stage, fault.statement.at)


def _names(job: SeenJob | None) -> dict[str, str]:
    """What the request says, as the sentences need it."""
    instance = job.instance if job else ""
    known = INSTANCES.get(instance)
    no_gpu = known.gpu_count == 0 if known else bool(re.match(r"ml\.(m|c|r|t)\d", instance))
    usual = (
        "Leave CUDA_VISIBLE_DEVICES unset (never `all` or empty), set NVIDIA_VISIBLE_DEVICES=all "
        "and NVIDIA_DRIVER_CAPABILITIES=compute,utility, and ask for a GPU instance."
    )
    ask = f"Ask for a GPU instance (ml.g4dn.xlarge): {instance} has none."
    sent = (job.channels if job else {}).items()
    channels = ", ".join(f"{k} from {v}" if v else k for k, v in sent)
    volume = mapping(job.raw.get("ResourceConfig") if job else None).get("VolumeSizeInGB")
    command = " ".join(job.entrypoint) if job else ""
    return {
        "on_instance": f" on {instance}" if instance else "",
        "gpu_remedy": ask if no_gpu else usual,
        "image": _image(job) if job and job.image else "the image",
        "channels": f"the request sends {channels or 'channels that are not known'}",
        "volume": f"{volume} GB asked for" if volume else "its size is not known",
        "program": f"the request's ContainerEntrypoint says {command}"
        if command
        else "the image's ENTRYPOINT names it",
    }


def _image(job: SeenJob) -> str:
    """The image's reference, and that its Region is not the job's where that is so."""
    theirs = re.search(r"\.ecr\.([\w-]+)\.", job.image)
    ours = re.match(r"arn:[\w-]+:sagemaker:([\w-]+):", text(job.raw.get(f"{job.kind}JobArn")))
    if theirs and ours and theirs[1] != ours[1]:
        return f"{job.image} (in {theirs[1]}, while the job runs in {ours[1]})"
    return job.image


def quotes(statements: Iterable[Statement], most: int = QUOTED) -> tuple[Quote, ...]:
    """Statements as they are quoted."""
    return tuple(Quote(s.source, short(s.text.strip(), WIDE)) for s in statements)[:most]
