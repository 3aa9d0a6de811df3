"""What is wrong with the way that executions go: outcome, waiting, notifiers, retries.

Each rule yields findings; a *must* rests on a known failure (K…), a trap or a section of the
contract, which its reason names in words.
"""

from __future__ import annotations

from collections.abc import Iterator

from splatgate.pipeline.answers import Job
from splatgate.pipeline.definition import Machine, State
from splatgate.pipeline.lists import listed, objects
from splatgate.pipeline.paths import End, Fault, Finding, matches
from splatgate.pipeline.walk import Walk

#: Retries that a retrier asks for when it does not say (Amazon States Language, "Retrying").
DEFAULT_ATTEMPTS = 3


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
    next_stage = not start.after and fault.job.state in start.follows
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
    for retrier in objects(state.body.get("Retry")):
        equals = listed(retrier.get("ErrorEquals"))
        if error in equals or (not named and any(matches(error, str(e)) for e in equals)):
            attempts = retrier.get("MaxAttempts", DEFAULT_ATTEMPTS)
            return attempts if isinstance(attempts, int) else 1
    return 0
