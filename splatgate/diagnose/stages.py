"""What each job, state or log said, and how it ended: stages, and the last words of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from splatgate.diagnose.bundle import BAD_ENDS, GOOD_ENDS, ROLES, Bundle, SeenJob, Statement
from splatgate.diagnose.kinds import WIDE, Quote, classify, quotes
from splatgate.diagnose.reader import Fault, faults, good_steps
from splatgate.diagnose.shapes import short

#: Reports of one stage that are looked at, from its beginning and from its end.
MANY = 500
_BUILD = re.compile(
    r"^#\d+ \[|failed to solve|##\[error\]|^Step \d+/\d+ :|did not complete successfully"
)
_DONE = re.compile(
    r"(?i)^(?!.*toolkit).*\b(?:done|finished|completed?|saved|wrote|success\w*|ok)\b"
)


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
    #: The last good step, word of success and line of each file or stream.
    good: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
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
        near = fault.level == 3 or self.last[origin] - fault.place < 3
        return near and fault.place > self.done.get(origin, -1)


def stages_of(bundle: Bundle, statements: Sequence[Statement]) -> list[Stage]:
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
        stage.done = {s.origin: n for n, s in enumerate(stage.statements) if _DONE.search(s.text)}
        if any(_BUILD.search(s.text) for s in stage.statements[-2_000:]):
            stage.role = "build"
        if not stage.role or stage.role == "other":
            paths = " ".join(f.path for fault in stage.faults for f in fault.frames)
            said = " ".join(s.text for s in stage.statements[-40:]) if not stage.good else ""
            role, pattern = ROLES[0]
            stage.role = role if pattern.search(f"{paths} {said}") else stage.role or "training"
    return list(by.values())


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


def last_words(bundle: Bundle, stages: Sequence[Stage]) -> LastWords:
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
        return LastWords(stage.name, None, quotes(last, 5), ending=ending)
    context = stage.statements[max(0, fault.place - 5) : fault.place]
    first = next((f for f in after if f.level > 1 and f.begin < fault.begin), None)
    frame = fault.own or next((f.own for f in reversed(after) if f.own), None)
    return LastWords(
        stage.name,
        Quote(fault.statement.source, short(fault.text, WIDE)),
        quotes(context, 5),
        str(frame) if frame else "",
        Quote(first.statement.source, short(first.text, WIDE)) if first else None,
        ending,
    )


_SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


def _ending(bundle: Bundle, job: SeenJob | None) -> str:
    """Status, exit and signal, and that a failure text says no more where it does not."""
    words = []
    if bundle.execution:
        words.append(f"execution {bundle.execution.get('status', '')}".strip())
    if job and job.status:
        more = job.secondary if job.secondary != job.status else ""
        words.append(f"{job.name or 'job'} {job.status} {more}".strip())
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
            words.append(f"failure text: {short(' '.join(job.reason.split()), WIDE)}")
    return "; ".join(words) or "no service says how it ended"
