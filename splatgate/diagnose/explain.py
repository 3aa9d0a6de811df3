"""Ranks what could have made a job fail, the earliest cause first; says what is not known."""

from __future__ import annotations

import functools
import re
import string
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from splatgate.diagnose import checks, histories, symptoms
from splatgate.diagnose.bundle import BAD_ENDS, GOOD_ENDS, ROLES, Bundle, SeenJob, Statement
from splatgate.diagnose.reader import Fault, faults, good_steps
from splatgate.sagemaker.instances import INSTANCES

KINDS = Path(__file__).with_name("kinds.toml")
#: How many lines are quoted for one explanation, and how long.
QUOTED, WIDE = 4, 400
#: "names" a cause before what only "points" to a line of the checklist.
TIERS = {"names": 0, "suspects": 1, "points": 3}
#: Statements between a report and the end of its stage after which it is unlikely to have ended it.
FAR = 200
#: The last of the tiers by which findings are ranked: 0 a cause that is named, 1 the same long
#: before the end, 2 and 3 what only points, 4 the other line that it may be.
OVERCOME = 5
#: Reports of one stage that are looked at, from its beginning and from its end.
MANY = 500


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


@dataclass(frozen=True)
class LastWords:
    """What the job itself said last, whatever explains it."""

    stage: str = ""
    #: The last exception, or the tool's last error, with its type and message.
    error: Quote | None = None
    context: tuple[Quote, ...] = ()
    #: Innermost frame of the job's own code.
    frame: str = ""
    #: The first error after the last good step, where it is another one.
    first: Quote | None = None
    #: How it ended: status, exit, signal, the service's failure text.
    ending: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What happened, as far as the bundle tells."""

    #: ``cause``: one is named; ``unknown``; ``well``: a service says so, and nothing contradicts.
    verdict: str
    ranked: tuple[Explanation, ...]
    last_words: LastWords = field(default_factory=LastWords)


@dataclass
class Stage:
    """What one job, one state or one log said, and how it ended."""

    name: str
    role: str
    job: SeenJob | None
    #: Positions in the bundle's statements.
    places: list[int] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    #: The last good step, and the last line, of each file or stream.
    good: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    @property
    def well(self) -> bool:
        """Whether its service says that it ended well."""
        return self.job is not None and self.job.status in GOOD_ENDS

    def over(self, fault: Fault) -> bool:
        """Whether the program went on working after a fault."""
        return fault.place < self.good.get(fault.statement.origin, -1)

    def ended(self, fault: Fault) -> bool:
        """Whether a fault is what its file or stream ends with, no word of success after it."""
        origin = fault.statement.origin
        rest = [s for s in self.statements[fault.place + 1 :] if s.origin == origin]
        near = fault.level == 3 or self.last[origin] - fault.place < 3
        pattern = r"(?i)^(?!.*toolkit).*\b(?:done|finished|completed?|saved|wrote|success\w*|ok)\b"
        return near and not any(re.search(pattern, s.text) for s in rest)


@functools.cache
def kinds() -> tuple[Kind, ...]:
    """The rows of ``kinds.toml``, in their order."""
    return tuple(msgspec.convert(row, Kind) for row in tomllib.loads(KINDS.read_text())["kind"])


def explain(bundle: Bundle) -> Diagnosis:
    """Rank the lines of the checklist that may explain a bundle.

    What a job said before it went on working weighs less, and what it said in a stage that ended
    well counts only where nothing followed. A cause that is named comes before a line that is only
    pointed to, and the earlier before the later: in a traceback, a log and an execution alike the
    first is the cause of the next.
    """
    statements = bundle.statements()
    stages = _stages(bundle, statements)
    found: list[tuple[int, int, Explanation]] = []
    for stage in stages:
        found += _of_stage(bundle, stage)
    where = {id(s): place for place, s in enumerate(statements)}
    structure = [*histories.findings(bundle), *symptoms.findings(bundle, statements)]
    structure += checks.findings(bundle) if bundle.failed else []
    failures = {told.item for tier, _, told in found if tier <= 1}
    for f in structure:
        places = [where[id(s)] for s in f.evidence if id(s) in where]
        # What the request or the figures give away is the cause of the failure that follows from it.
        strength = "names" if failures & set(f.explains) else f.strength
        shown = "names" if strength == "names" else "points"
        told = Explanation(f.item, f.cause, f.remedy, _quotes(f.evidence), shown, "", f.stage)
        found.append((TIERS[strength], min(places, default=len(statements)), told))
    if any(tier == 0 for tier, _, _ in found):
        # What the job got over explains nothing beside what it did not.
        found = [entry for entry in found if entry[0] != OVERCOME]
    ranked = _ranked(found)
    named = any(e.strength == "names" for e in ranked)
    verdict = "cause" if named else "well" if bundle.well and not ranked else "unknown"
    return Diagnosis(verdict, tuple(ranked), _last_words(bundle, stages))


def _stages(bundle: Bundle, statements: Sequence[Statement]) -> list[Stage]:
    """The statements of each job, state or log apart, with what is wrong in them."""
    by: dict[tuple[str, str], Stage] = {}
    for place, s in enumerate(statements):
        if s.kind == "status":
            continue
        key = (s.stage, s.kind)
        if key not in by:
            job = bundle.job(s.stage)
            role = "service" if s.kind == "history" else job.role if job else ""
            by[key] = Stage(s.stage, role, job)
        by[key].places.append(place)
        by[key].statements.append(s)
    for stage in by.values():
        told = faults(stage.statements)
        stage.faults = told if len(told) <= 2 * MANY else told[:MANY] + told[-MANY:]
        stage.last = {s.origin: number for number, s in enumerate(stage.statements)}
        stage.good = {stage.statements[n].origin: n for n in good_steps(stage.statements)}
        if any(_BUILD.search(s.text) for s in stage.statements[-2_000:]):
            stage.role = "build"
        if not stage.role or stage.role == "other":
            paths = " ".join(f.path for fault in stage.faults for f in fault.frames)
            stage.role = next(
                (r for r, p in ROLES[:1] if p.search(paths)), stage.role or "training"
            )
    return list(by.values())


def _of_stage(bundle: Bundle, stage: Stage) -> list[tuple[int, int, Explanation]]:
    """Tier, position and explanation of each thing wrong in a stage."""
    found = []
    ends = len(stage.statements)
    said_well = stage.well or (bundle.well and stage.job is None)
    told_of = [(fault, *classify(fault, stage.role)) for fault in stage.faults]
    for fault, kind, match in told_of:
        over = stage.over(fault)
        if said_well and (over or fault.level == 1 or not stage.ended(fault)):
            continue
        if kind is None or match is None or not kind.item:
            continue
        weak = kind.points or over or fault.level == 1 or (said_well and fault.level < 3)
        if fault.level == 1 and not over and _library_of(fault, told_of):
            weak = False
        told = _explained(kind, match, fault, stage)
        tier = (2 if weak else 0) + (kind.general or ends - fault.place > FAR)
        tier = OVERCOME if over else tier
        told = replace(told, strength="points") if weak else told
        place = stage.places[fault.begin]
        found.append((tier, place, told))
        if kind.also:
            remedy = f"If it is not {told.item}: {told.remedy}"
            other = replace(told, item=kind.also, remedy=remedy, strength="points")
            found.append((max(tier, OVERCOME - 1), place, other))
    return found + _quiet(stage)


def _library_of(warning: Fault, told_of: Iterable[tuple[Fault, Kind | None, object]]) -> bool:
    """Whether a warning names the library in which something then broke that says no more."""
    text = warning.text.lower()
    for fault, kind, _ in told_of:
        if kind is not None and kind.general and fault.place > warning.place:
            frames = " ".join(frame.path for frame in fault.frames[-3:])
            names = re.findall(r"-packages/(\w{4,})", frames)
            if any(name.lower() in text for name in names):
                return True
    return False


def _quiet(stage: Stage) -> list[tuple[int, int, Explanation]]:
    """What passes in silence."""
    found = []
    rows = [kind for kind in kinds() if kind.quiet]
    smell = (
        "artifact",
        "empty",
        "nothing",
        "nan",
        "cpu",
        "left",
        "errno 28",
        "cuda",
        "raster",
        "fall",
        "synthetic",
        " 0 ",
        "drop",
    )
    lines = [
        (place, s)
        for place, s in zip(stage.places, stage.statements, strict=True)
        if s.kind == "log" and any(word in s.text.lower() for word in smell)
    ]
    cached = any("no work to do" in s.text for s in stage.statements)
    for kind in rows:
        hits = [(place, s, m) for place, s in lines if (m := kind.search.search(s.text))]
        if hits and not (cached and kind.item == "runtime.cuda"):
            place, s, match = hits[0]
            told = _explained(kind, match, Fault(0, 0, s, s.text.strip(), 2), stage)
            found.append((0, place, told))
    return found


def classify(fault: Fault, role: str) -> tuple[Kind | None, re.Match[str] | None]:
    """The first row of the table that fits a fault, and how it fits."""
    frames = " ".join(str(frame) for frame in fault.frames[-8:])
    text = re.sub(r"(?<=\w), exit code: \d+$", "", fault.text)
    for kind in kinds():
        if kind.quiet or (kind.stage and kind.stage != role):
            continue
        if role == "service" and kind.item.startswith("production.") and not kind.stage:
            continue
        if (match := kind.search.search(text)) and (
            not kind.frame or re.search(kind.frame, f"{frames} {fault.text}")
        ):
            return kind, match
    return None, None


#: Lines that the stage decides where what is wrong lies in what it was handed.
_BUILD = re.compile(
    r"^#\d+ \[|failed to solve|##\[error\]|^Step \d+/\d+ :|did not complete successfully"
)
_PUSH = re.compile(
    r"(?i)\bpush|denied|unauthorized|authorization|InitiateLayerUpload|no basic auth"
)
_HANDED = {
    "compression": ("production.compression", "sagemaker.input production.ply production.errors"),
    "sfm": ("sagemaker.input", "production.errors production.ply"),
}
#: Lines that a name sent in the request turns into the hyperparameters'.
_NAMED = ("runtime.dependencies", "sagemaker.hyperparameters", "runtime.entry-point")


def _explained(kind: Kind, match: re.Match[str], fault: Fault, stage: Stage) -> Explanation:
    """The row's sentence and remedy, with the names of this failure in them."""
    every = [match, *kind.search.finditer(fault.text)]
    groups = [v for m in every for k, v in m.groupdict().items() if k[:6] == "object" and v]
    name = groups[0].strip(" '\"`,:") if groups else ""
    job, item = stage.job, kind.item
    into, of = _HANDED.get(stage.role, ("", ""))
    if into and (item in of.split() or "KeyError" in fault.text):
        item = into
    if stage.role == "build" and not item.startswith("build."):
        item = "build.pushed" if _PUSH.search(fault.text) else "build.completed"
    keyword = re.search(r"keyword argument '(\w+)'", fault.text)
    sent = (keyword[1] if keyword else name).lstrip("-").replace("-", "_").lower()
    if job and sent and sent in job.sent and item in _NAMED:
        item = "sagemaker.hyperparameters"
    names = _names(job)
    names["own"] = f"`{fault.own}`" if fault.own else "the place that the last words name"
    names["object"] = name or "what the message names"
    names["text"] = f"`{fault.text[:200]}`"
    fill = string.Formatter()
    cause = fill.vformat(kind.cause, (), names)
    remedy = fill.vformat(kind.remedy, (), names)
    quotes = _quotes([fault.statement])
    return Explanation(item, cause, remedy, quotes, "names", name, stage.name, fault.statement.at)


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
    channels = ", ".join(
        f"{k} from {v}" if v else k for k, v in (job.channels if job else {}).items()
    )
    config = (job.raw.get("ResourceConfig") if job else None) or {}
    volume = config.get("VolumeSizeInGB") if isinstance(config, Mapping) else None
    return {
        "on_instance": f" on {instance}, which has none"
        if no_gpu
        else f" on {instance}"
        if instance
        else "",
        "gpu_remedy": ask if no_gpu else usual,
        "image": (job.image if job else "") or "the image",
        "channels": f"the request sends {channels}"
        if channels
        else "the request's channels are not known",
        "volume": f"{volume} GB asked for" if volume else "its size is not known",
        "program": (
            f"the request's ContainerEntrypoint says {' '.join(job.entrypoint)}"
            if job and job.entrypoint
            else "the image's ENTRYPOINT names it"
        ),
    }


def _quotes(statements: Iterable[Statement]) -> tuple[Quote, ...]:
    return tuple(Quote(s.source, s.text.strip()[:WIDE]) for s in statements)[:QUOTED]


def _ranked(found: list[tuple[int, int, Explanation]]) -> list[Explanation]:
    """Strongest and earliest first, one explanation for each line of the checklist."""
    best: dict[str, Explanation] = {}
    for _, _, told in sorted(found, key=lambda entry: entry[:2]):
        if told.item not in best:
            best[told.item] = told
            continue
        old = best[told.item]
        quotes = tuple(dict.fromkeys((*old.evidence, *told.evidence)))[:QUOTED]
        # The same thing told twice: the line that names its object explains more.
        better = not old.object and told.object and told.strength == old.strength
        best[told.item] = replace(told if better else old, evidence=quotes)
    return list(best.values())


def _last_words(bundle: Bundle, stages: Sequence[Stage]) -> LastWords:
    """The last words of the stage that failed last, or of the last one."""
    logs = [s for s in stages if s.statements and s.statements[0].kind == "log"]
    bad = [s for s in logs if s.job and s.job.status in BAD_ENDS]
    stage = next(reversed([*stages[-1:], *logs[-1:], *bad[-1:]]), None)
    job = (stage.job if stage else None) or bundle.training or next(reversed(bundle.jobs), None)
    ending = _ending(bundle, job)
    if stage is None:
        return LastWords(ending=ending)
    after = [f for f in stage.faults if not stage.over(f)]
    strong = [f for f in after if f.level == 3] or [f for f in after if f.level == 2]
    own = [f for f in strong if (k := classify(f, stage.role)[0]) is None or k.item]
    fault = next(reversed(own or strong), None)
    if fault is None:
        last = stage.statements[-5:] if not bundle.well else []
        return LastWords(stage.name, None, _quotes_all(last), ending=ending)
    context = stage.statements[max(0, fault.place - 5) : fault.place]
    first = next((f for f in after if f.level > 1 and f.begin < fault.begin), None)
    frame = fault.own or next((f.own for f in reversed(after) if f.own), None)
    return LastWords(
        stage.name,
        Quote(fault.statement.source, fault.text[:WIDE]),
        _quotes_all(context),
        str(frame) if frame else "",
        Quote(first.statement.source, first.text[:WIDE]) if first else None,
        ending,
    )


def _quotes_all(statements: Iterable[Statement]) -> tuple[Quote, ...]:
    return tuple(Quote(s.source, s.text.rstrip()[:WIDE]) for s in statements)


_SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


def _ending(bundle: Bundle, job: SeenJob | None) -> str:
    """Status, exit and signal, and that a failure text says no more where it does not."""
    words = []
    if bundle.execution:
        words.append(f"execution {bundle.execution.get('status', '')}".strip())
    if job and job.status:
        words.append(
            f"{job.name or 'job'} {job.status} {job.secondary if job.secondary != job.status else ''}".strip()
        )
    code = re.search(r"exit code:? ?(\d+)", job.reason) if job else None
    number = int(code[1]) if code else bundle.exit
    if number is not None:
        signal = _SIGNALS.get(number - 128) if isinstance(number, int) else None
        words.append(f"exit {number}" + (f" ({signal})" if signal else ""))
    if bundle.oom:
        words.append("killed for want of memory")
    if job and job.status == "Failed":
        if job.mute:
            words.append("the failure text gives no cause (nothing wrote /opt/ml/output/failure)")
        else:
            words.append(f"failure text: {' '.join(job.reason.split())[:WIDE]}")
    return "; ".join(words) or "no service says how it ended"
