"""What is wrong with a state machine whatever it is given: grammar, outcome, waiting, retries.

Each rule yields findings; a *must* rests on a known failure (K…), a trap or a section of the
contract, which its reason names in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from splatgate.pipeline.answers import Job
from splatgate.pipeline.definition import Machine, State
from splatgate.pipeline.paths import End, Fault, Finding, matches
from splatgate.pipeline.template import UNKNOWN, Open, PathError, Scope, evaluate
from splatgate.pipeline.walk import Walk

#: What statelint takes for wrong and Step Functions does not: its grammar is older than `Assign` in
#: JSONPath machines; whole numbers are floats to everyone else (statelint 3.1.0).
_NOT_WRONG = (
    'Field "Assign" not allowed',
    "but should be a Float",
    # Its paths know no quoted steps and no variables; `expressions` looks at these.
    "is not a JSONPath or intrinsic function expression",
)
#: Retries that a retrier asks for when it does not say (Amazon States Language, "Retrying").
DEFAULT_ATTEMPTS = 3


def grammar(document: dict[str, Any]) -> Iterator[Finding]:
    """What the language does not allow: members, types, targets, what is never reached."""
    from statelint.linter import Linter

    try:
        problems = Linter.validate(document)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        problems = [f"not Amazon States Language: {type(error).__name__}: {error}"]
    for problem in problems:
        if any(text in problem for text in _NOT_WRONG) or _sound_all_the_same(problem):
            continue
        yield Finding(_place(problem, document), "asl", "must", problem)


def _sound_all_the_same(problem: str) -> bool:
    """Whether a deployment puts something else in the place of what statelint refuses."""
    return "${" in problem and "A URI" in problem


def _place(problem: str, document: dict[str, Any]) -> str:
    """The innermost state that statelint's complaint names, or ""."""
    names = set(_names(document))
    words = problem.replace('"', "").rpartition("States.")[2]
    words = words.rpartition("to state State Machine.")[2]
    fitting = [n for n in names if words.startswith(n)]
    return max(fitting, key=len, default="")


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("States"), dict):
            yield from value["States"]
        for inner in value.values():
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def expressions(machine: Machine) -> Iterator[Finding]:
    """Members that end in ``.$`` and hold neither a path nor an intrinsic function."""
    for state in machine.every():
        for text in () if state.jsonata else _dynamic(state.body):
            try:
                evaluate(text, UNKNOWN, Scope(Open(), _Any()))
            except PathError as error:
                if "refused" not in str(error):
                    yield Finding(state.name, "asl", "must", f"{text!r}: {error}")


class _Any(dict[str, Any]):
    """Variables of every name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return UNKNOWN


def _dynamic(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key.endswith(".$") and isinstance(inner, str):
                yield inner
            elif key not in ("Branches", "ItemProcessor", "Iterator"):
                yield from _dynamic(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _dynamic(inner)


def outcomes(walk: Walk, *, sound: bool = True) -> Iterator[Finding]:
    """What the executions say, against what became of their jobs.

    ``sound``: nothing else is wrong that would explain why none succeeds.
    """
    succeeded, unheard = False, set()
    for end in walk.ends:
        path = end.path
        if end.error is None and path.fault is None:
            succeeded = True
            yield from _unwaited(end)
        elif end.error is None:
            yield from _hidden(walk, end)
        lost = path.unheard and end.error is not None and path.trail[-1:] == (path.unheard,)
        if path.unheard and lost and path.unheard not in unheard:
            unheard.add(path.unheard)
            told = path.fault.told if path.fault else ""
            yield Finding(
                path.unheard,
                "notifier-masks",
                "must",
                f"when it fails after {told}, the execution ends with its error and the cause is "
                f"lost; catch States.ALL and go on to the same Fail",
            )
        elif (
            path.fault
            and path.fault.state.notifies
            and end.error is not None
            and path.trail[-1:] == (path.fault.state.name,)
        ):
            yield Finding(
                path.fault.state.name,
                "notifier-masks",
                "should",
                "when it fails, so does an execution whose work is done; catch States.ALL",
            )
    if sound and not succeeded and not walk.gaps:
        where = walk.ends[0].path.trail[-1] if walk.ends else walk.machine.start
        yield Finding(
            where,
            "succeeds",
            "must",
            f"no execution succeeds, also when every job is Completed: all end at {where}",
        )


def _unwaited(end: End) -> Iterator[Finding]:
    if end.path.guessed:
        return
    for job in end.path.jobs:
        if not job.observed:
            yield Finding(
                job.state,
                "waits-for-job",
                "must",
                "the execution succeeds while its job still runs; use .sync, or ask for its status "
                "in a loop",
            )


def _instead(walk: Walk, fault: Fault, job: Job) -> bool:
    """Whether a job that follows a fault does the failed one's work, and is not the next stage."""
    if fault.job is None or job.state == fault.job.state:
        return True
    start = walk.started[job.state]
    next_stage = not start.after and any(j.state == fault.job.state for j in start.before)
    return not next_stage and bool(set(job.reads) & set(fault.job.reads))


def _hidden(walk: Walk, end: End) -> Iterator[Finding]:
    """An execution that succeeds although something went wrong in it."""
    path, fault = end.path, end.path.fault
    assert fault is not None
    if path.guessed or fault.state.keeps_house:
        return
    job = fault.job
    if job and not job.observed and any(j.state == job.state and not j.observed for j in path.jobs):
        return  # nobody was told: `waits-for-job` says so
    if any(_instead(walk, fault, job) for job in path.since):
        return
    training = fault.job is not None and fault.job.kind.word == "training"
    undocumented = (
        fault.status == "Stopped" and fault.state.call and (fault.state.call.pattern == "sync")
    )
    after = path.trail[path.trail.index(fault.state.name) :]
    shown = " → ".join(after if len(after) <= 6 else (*after[:3], "…", *after[-2:]))
    yield Finding(
        fault.state.name,
        "failure-ends-in-fail",
        "should" if undocumented and not training else "must",
        f"{fault.told}, and the execution SUCCEEDS ({shown}); "
        + (
            "whether .sync fails on Stopped is not documented: let a Choice on the status follow"
            if undocumented
            else "let that way end in a Fail state"
        ),
    )


def retries(machine: Machine) -> Iterator[Finding]:
    """Retriers that pay for the same failure again, or send a name that is taken."""
    for state in machine.every():
        call = state.call
        if call is None or call.creates is None:
            continue
        if call.pattern == "sync" and (attempts := _attempts(state, "States.TaskFailed")):
            yield Finding(
                state.name,
                "retry-algorithm-error",
                "must",
                f"retries a failed job {attempts} times; an AlgorithmError comes back and costs a "
                f"job each time: retry SageMaker.AmazonSageMakerException, catch the rest",
            )
        varies = "RetryCount" in str(state.arguments) or "States.UUID" in str(state.arguments)
        after = [e for e in ("States.Timeout",) if call.pattern == "sync" and _attempts(state, e)]
        after += [e for e in _AFTER if _attempts(state, e, named=True)]
        if after and not varies:
            yield Finding(
                state.name,
                "name-unique",
                "must",
                f"retries {after[0]} with the same job name, which is then taken; put "
                f"$$.State.RetryCount into it, or do not retry",
            )


#: Errors that mean that a job of this name is there.
_AFTER = ("SageMaker.ResourceInUseException", "SageMaker.ResourceInUse")


def _attempts(state: State, error: str, *, named: bool = False) -> int:
    """How often an error is retried: the first retrier that matches decides."""
    retriers = state.body.get("Retry")
    for retrier in retriers if isinstance(retriers, list) else ():
        equals = retrier.get("ErrorEquals", ()) if isinstance(retrier, dict) else ()
        if error in equals or (not named and any(matches(error, str(e)) for e in equals)):
            attempts = retrier.get("MaxAttempts", DEFAULT_ATTEMPTS)
            return attempts if isinstance(attempts, int) else 1
    return 0
