"""A definition judged whole: its states, what is wrong with them, the requests that it renders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from splatgate.evidence import Answer, Pipeline
from splatgate.pipeline import contracts, grammar, requests, roles, rules, timeouts
from splatgate.pipeline.definition import Machine, machine_of
from splatgate.pipeline.paths import Finding, Gap, Started
from splatgate.pipeline.tasks import RENDERED
from splatgate.pipeline.template import Open
from splatgate.pipeline.walk import Walk

#: An execution's name may have 80 characters (contract 7.2); a UUID is what it gets without one.
LONGEST = "run-" + "x" * 76
SCHEMA = "splatgate/pipeline/1"


@dataclass(frozen=True)
class Rendered:
    """One job state's request, as far as it is known, and what the service would refuse in it."""

    state: str
    #: ``training``, ``processing`` or ``transform``.
    kind: str
    request: dict[str, Any]
    errors: tuple[str, ...]


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
    if pipeline.problems:
        found = tuple(Finding("", "json", "must", p) for p in pipeline.problems)
        if not pipeline.definition:
            return Verdict((), found, (), (), pipeline.source)
    else:
        found = ()
    machine = machine_of(pipeline.definition)
    say(f"{pipeline.source}: {sum(1 for _ in machine.every())} states")
    findings = [*found, *grammar.grammar(pipeline.definition)]
    findings += [*grammar.expressions(machine), *grammar.members(machine)]
    given = pipeline.input is not None
    sent = pipeline.input if given else Open()
    name = pipeline.execution_name or LONGEST
    walk = Walk(machine, sent, name)
    findings += walk.findings
    findings += rules.outcomes(walk, sound=not findings)
    findings += rules.retries(machine)
    findings += timeouts.nest(machine, walk.started)
    elsewhere = _another(sent, pipeline.definition)
    other = Walk(machine, elsewhere, name[:-1] + "y", faults=False)
    variants = {
        what: Walk(machine, changed, name, faults=False).started
        for what, changed in (
            ("numbers as text", _as_text(sent)),
            ("text as numbers", _as_numbers(sent)),
        )
        if given and changed != sent
    }
    errors = {name: requests.refused(start) for name, start in walk.started.items()}
    findings += requests.accepted(walk.started, errors, variants)
    findings += requests.calls(walk.called)
    findings += requests.images(walk.started)
    findings += requests.names(walk.started, other.started)
    findings += requests.hand_over(walk.started, frozenset(_texts(sent)))
    findings += contracts.kept(pipeline.contracts, walk.started)
    findings += roles.check(machine, walk, pipeline.policies)
    findings += drift(pipeline)
    gaps = list(walk.gaps)
    for told in requests.registered(walk.started, ask):
        (gaps if isinstance(told, Gap) else findings).append(told)  # type: ignore[arg-type]
    if not given:
        gaps.append(Gap("", RENDERED, "no input: what is sent, and what requests hold of it"))
    gaps += [
        Gap("", ("permission",), f"no policy of the {role} role")
        for role in (roles.MACHINE, roles.JOBS)
        if role not in pipeline.policies
    ]
    return Verdict(
        states=tuple(s.name for s in machine.every()),
        findings=tuple(dict.fromkeys(f.line for f in findings)),
        requests=tuple(_rendered(n, s, errors[n]) for n, s in walk.started.items()),
        not_verified=tuple(gaps),
        source=pipeline.source,
    )


def _another(sent: Any, definition: Any) -> Any:
    """Another input, which takes the same ways: words that the definition knows stay."""
    known = frozenset(_texts(definition))
    return _leaves(sent, lambda v: f"{v}-other" if isinstance(v, str) and v not in known else v)


def _rendered(name: str, start: Started, errors: list[str]) -> Rendered:
    request, _ = requests.known_part(start.job.request)
    return Rendered(name, start.job.kind.word, request, tuple(errors))


def drift(pipeline: Pipeline) -> list[Finding]:
    """Where the deployed definition differs from its source."""
    if pipeline.deployed is None:
        return []
    ours, theirs = (_flat(machine_of(d)) for d in (pipeline.definition, pipeline.deployed))
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


def _flat(machine: Machine) -> dict[str, dict[str, Any]]:
    return {s.name: s.body for s in machine.every()}


def _differs(ours: Any, theirs: Any) -> str:
    if ours is None:
        return "and not in the source"
    if theirs is None:
        return "without this state"
    members = [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
    return f"with another {', '.join(members)}"


def _leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {k: _leaves(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [_leaves(v, change) for v in value]
    return change(value)


def _as_text(value: Any) -> Any:
    """An input whose numbers are text, as a starter that formats them sends them."""
    return _leaves(
        value, lambda v: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v
    )


def _as_numbers(value: Any) -> Any:
    """An input whose texts of digits are numbers."""

    def number(v: Any) -> Any:
        try:
            return (float(v) if "." in v else int(v)) if isinstance(v, str) else v
        except ValueError:
            return v

    return _leaves(value, number)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [t for v in value.values() for t in _texts(v)]
    if isinstance(value, list):
        return [t for v in value for t in _texts(v)]
    return [value] if isinstance(value, str) else []
