"""A definition judged whole: its states, what is wrong with them, the requests that it renders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from splatgate.evidence import Answer, Pipeline
from splatgate.pipeline import (
    grammar,
    handover,
    outcomes,
    polling,
    requests,
    roles,
    timeouts,
)
from splatgate.pipeline.definition import Machine, machine_of
from splatgate.pipeline.expressions import UNKNOWN
from splatgate.pipeline.findings import Finding, Gap, grouped
from splatgate.pipeline.json_values import changed, texts
from splatgate.pipeline.simulator import Simulator
from splatgate.pipeline.trace import Started

#: An execution's name may have 80 characters (contract 7.2); a UUID is what it gets without one.
LONGEST = "run-" + "x" * 76
SCHEMA = "splatgate/pipeline/1"
#: Rules that rest on what a request holds.
RENDERED = ("request", "image", "name-unique", "hand-over", "timeout", "reference")


@dataclass(frozen=True)
class Rendered:
    """One job state's request, as far as it is known, and what the service would refuse in it."""

    state: str
    #: ``training``, ``processing``, ``batch``, …
    kind: str
    request: dict[str, Any]
    errors: tuple[str, ...]
    #: Paths of what is not known before an execution.
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """``pipeline --json``."""

    states: tuple[str, ...]
    findings: tuple[Finding, ...]
    requests: tuple[Rendered, ...]
    #: What could not be judged, and why.
    not_verified: tuple[Gap, ...]
    source: str = ""
    schema: str = SCHEMA

    @property
    def ok(self) -> bool:
        """Whether no *must* is broken."""
        return not any(f.level == "must" for f in self.findings)

    def unknown(self, *wanted: str) -> tuple[Gap, ...]:
        """What keeps some rules from an answer."""
        return tuple(g for g in self.not_verified if set(g.rules) & set(wanted))

    def of(self, *wanted: str) -> tuple[Finding, ...]:
        """The broken *must*s of some rules."""
        return tuple(f for f in self.findings if f.rule in wanted and f.level == "must")


def judge(
    pipeline: Pipeline,
    say: Callable[[str], None] = lambda line: None,
    ask: Callable[[str], Answer] | None = None,
) -> Verdict:
    """Judge a state machine; ``ask`` says what a registry serves under an image's name."""
    machine = machine_of(pipeline.definition)
    findings = [Finding(_where(p, machine), "json", "must", p) for p in pipeline.problems]
    if pipeline.problems and not pipeline.definition:
        return Verdict((), tuple(findings), (), (), pipeline.source)
    lines = {s.name: s.line for s in machine.every()}
    say(f"{pipeline.source}: {len(lines)} states")
    findings += grammar.grammar(pipeline.definition)
    findings += requests.integrations(machine)
    well_formed = not findings
    findings += [*grammar.paths_as_text(machine), *polling.error_names(machine)]
    walk = _Walks(pipeline, machine, well_formed)
    findings += walk.findings
    gaps = list(walk.gaps)
    for told in polling.polls(machine):
        (gaps if isinstance(told, Gap) else findings).append(told)  # type: ignore[arg-type]
    findings += outcomes.retries(machine)
    findings += timeouts.nest(machine, walk.started)
    errors = {name: requests.refused(start) for name, start in walk.started.items()}
    findings += requests.accepted(walk.started, errors, walk.variants)
    findings += requests.calls(walk.first.called)
    findings += requests.networks(walk.started)
    findings += requests.environment(walk.started, pipeline.definition)
    findings += requests.images(walk.started)
    findings += requests.names(walk.started, walk.other)
    findings += handover.hand_over(walk.started, frozenset(texts(walk.sent)))
    findings += handover.kept(pipeline.contracts, walk.started)
    findings += roles.check(machine, walk.first, pipeline.policies)
    findings += drift(pipeline)
    for told in requests.registered(walk.started, ask):
        (gaps if isinstance(told, Gap) else findings).append(told)  # type: ignore[arg-type]
    gaps += requests.not_read(machine, walk.started, walk.first.started)
    if pipeline.input is None:
        gaps.append(Gap("", RENDERED, "no input: what is sent, and what requests hold of it"))
    gaps += [
        Gap("", ("permission",), f"no policy of the {role} role")
        for role in (roles.MACHINE, roles.JOBS)
        if role not in pipeline.policies
    ]
    return Verdict(
        states=tuple(lines),
        findings=_placed(findings, lines),
        requests=tuple(_rendered(n, s, errors[n]) for n, s in walk.started.items()),
        not_verified=tuple(dict.fromkeys(gaps)),
        source=pipeline.source,
    )


def _where(problem: str, machine: Machine) -> str:
    """The state in which a placeholder stands that a problem is about, or ""."""
    name = problem.partition("}")[0] + "}" if problem.startswith("${") else ""
    inside = [s.name for s in machine.every() if name and name in str(s.body)]
    return inside[-1] if inside else ""


def _placed(findings: Iterable[Finding], lines: dict[str, int]) -> tuple[Finding, ...]:
    return tuple(replace(f, line=lines.get(f.state, 0)) for f in grouped(findings))


class _Walks:
    """The walks of one machine: on its input, on others like it, and where its input leads past."""

    def __init__(self, pipeline: Pipeline, machine: Machine, sound: bool) -> None:
        given = pipeline.input is not None
        name = pipeline.execution_name or LONGEST
        self.sent = pipeline.input if given else UNKNOWN
        self.first = Simulator(machine, self.sent, name)
        self.findings: list[Finding] = [*self.first.findings]
        self.findings += outcomes.outcomes(self.first, sound=sound and not self.findings)
        self.gaps = list(self.first.gaps)
        self.started = dict(self.first.started)
        elsewhere = _another(self.sent, pipeline.definition)
        others = {"": (elsewhere, name[:-1] + "y")}
        if given:
            others |= {
                "numbers as text": (_as_text(self.sent), name),
                "text as numbers": (_as_numbers(self.sent), name),
            }
        walked = {
            what: Simulator(machine, sent, called, faults=False).started
            for what, (sent, called) in others.items()
            if what == "" or sent != self.sent
        }
        self.other, self.variants = walked.pop(""), walked
        passed = {s.name for s in machine.every()} - self.first.entered
        if given and passed:
            # What this input leads past is judged on one of which nothing is known.
            more = Simulator(machine, UNKNOWN, name)
            self.started |= {n: s for n, s in more.started.items() if n in passed}
            self.findings += [
                f
                for f in (*more.findings, *outcomes.outcomes(more, sound=False))
                if f.state in passed
            ]


def _another(sent: Any, definition: Any) -> Any:
    """Another input, which takes the same ways: words that the definition knows stay."""
    known = frozenset(texts(definition))
    return changed(sent, lambda v: f"{v}-other" if isinstance(v, str) and v not in known else v)


def _rendered(name: str, start: Started, errors: list[str]) -> Rendered:
    request, left_out = requests.known_part(start.job.request)
    return Rendered(name, start.job.kind.word, request, tuple(errors), tuple(left_out))


def drift(pipeline: Pipeline) -> list[Finding]:
    """Where the deployed definition differs from its source."""
    if pipeline.deployed is None:
        return []
    ours, theirs = (
        {s.name: s.body for s in machine_of(d).every()}
        for d in (pipeline.definition, pipeline.deployed)
    )
    names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
    found = [
        Finding(n, "drift", "must", "deployed " + _differs(ours.get(n), theirs.get(n)))
        for n in names
    ]
    top = {"Comment", "Version", "States"}
    outer = [
        {k: v for k, v in d.items() if k not in top}
        for d in (pipeline.definition, pipeline.deployed)
    ]
    if outer[0] != outer[1]:
        found.append(Finding("", "drift", "must", "deployed " + _differs(*outer)))
    return found


def _differs(ours: Any, theirs: Any) -> str:
    if ours is None:
        return "and not in the source"
    if theirs is None:
        return "without this state"
    members = [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
    return f"with another {', '.join(members)}"


def _as_text(value: Any) -> Any:
    """An input whose numbers are text, as a starter that formats them sends them."""
    return changed(
        value, lambda v: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v
    )


def _as_numbers(value: Any) -> Any:
    """An input whose texts of digits are numbers."""

    def number(v: Any) -> Any:
        try:
            return (float(v) if "." in v else int(v)) if isinstance(v, str) else v
        except ValueError:
            return v

    return changed(value, number)
