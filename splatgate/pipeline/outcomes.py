"""What is wrong with the way that executions go: outcome, waiting, notifiers, retries.

Each rule yields findings; a *must* rests on a known failure (K…), a trap or a section of the
contract, which its reason names in words.
"""

from __future__ import annotations

from collections.abc import Iterator

from splatgate.pipeline.choice import comparisons
from splatgate.pipeline.definition import Machine, State
from splatgate.pipeline.findings import Finding
from splatgate.pipeline.json_values import listed, objects
from splatgate.pipeline.polling import may_start
from splatgate.pipeline.services import asks_about, starts
from splatgate.pipeline.simulator import Simulator
from splatgate.pipeline.trace import End, Fault, Path, matches

#: Retries that a retrier asks for when it does not say (Amazon States Language, "Retrying").
DEFAULT_ATTEMPTS = 3


def outcomes(walk: Simulator, *, sound: bool = True) -> Iterator[Finding]:
    """What the executions say, against what became of their jobs.

    ``sound``: nothing else is wrong that would explain why none succeeds.
    """
    states = {s.name: s for s in walk.machine.every()}
    waited = {s.name for s in states.values() if s.call and s.call.pattern == "sync"}
    succeeded, unheard = False, set()
    for end in walk.ends:
        path = end.path
        if end.error is None and path.fault is None:
            succeeded = True
            yield from _unwaited(end, bool(waited))
        elif end.error is None:
            yield from _hidden(walk, end, states)
        lost = path.unheard and end.error is not None and path.trail[-1:] == (path.unheard,)
        if path.unheard and lost and path.unheard not in unheard:
            unheard.add(path.unheard)
            told = path.fault.told if path.fault else ""
            yield Finding(
                path.unheard,
                "notifier-masks",
                "must" if _tells(states, path.unheard) else "should",
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
        plain = [e.path for e in walk.ends if e.path.fault is None and e.path.trail]
        trail = plain[0].trail if plain else (walk.machine.start,)
        choices = (n for n in reversed(trail) if n in walk.choices)
        where = next(choices, trail[-1])
        # One that has no end in success is meant to end so.
        can = any(
            s.type == "Succeed" or s.body.get("End") is True for s in walk.machine.states.values()
        )
        yield Finding(
            where,
            "succeeds",
            "must" if can else "should",
            f"no execution succeeds, also when every job is Completed: all end at {trail[-1]}"
            + (_compared(states[where]) if where in states else ""),
        )
    for state in states.values():
        if state.type == "Map" and state.body.get("ToleratedFailurePercentage") == 100:
            told = "ToleratedFailurePercentage 100: when every item fails, the execution SUCCEEDS"
            yield Finding(state.name, "failure-ends-in-fail", "must", told)


def _tells(states: dict[str, State], name: str) -> bool:
    """Whether the Fail state that follows a notifier tells the cause, which is then lost."""
    for _ in states:
        state = states.get(str(states[name].body.get("Next")))
        if state is None:
            return False
        if state.type == "Fail":
            return bool({"CausePath", "ErrorPath"} & state.body.keys()) or "{%" in str(state.body)
        name = state.name
    return False


def _compared(state: State) -> str:
    """What a Choice compares, in words."""
    if state.type != "Choice":
        return ""
    if state.jsonata:
        tests = [str(r.get("Condition")) for r in objects(state.body.get("Choices"))]
    else:
        rules = comparisons(listed(state.body.get("Choices")))
        tests = [" ".join(str(v) for k, v in r.items() if k != "Next") for r in rules]
    return f"; what {state.name} looks for is not there ({', '.join(tests)})"


def _unwaited(end: End, others_wait: bool) -> Iterator[Finding]:
    """Jobs of which nobody knows how they end, when the next one starts or the execution ends."""
    jobs = end.path.jobs
    for number, job in enumerate(jobs):
        if job.observed or (end.path.guessed and (job.asked or job.kind.sagemaker)):
            continue
        later = next((j for j in jobs[number + 1 :] if j.state != job.state), None)
        later = None if job.kind.sagemaker else later  # `hand_over` looks at what it reads
        told = f"{later.state} starts" if later else "the execution succeeds"
        yield Finding(
            job.state,
            "waits-for-job",
            # One that nobody waits for at the end of a machine may be meant so.
            "must" if job.kind.sagemaker or later or others_wait else "should",
            f"{told} while its job still runs; use .sync, or ask for its status in a loop",
        )


def _instead(walk: Simulator, fault: Fault, path: Path, states: dict[str, State]) -> bool:
    """Whether something that follows a fault does the failed one's work, and is no next stage."""
    if fault.state.name in path.after:
        return True  # it is tried again
    for job in path.since:
        start = walk.started[job.state]
        if fault.job and job.state == fault.job.state:
            return True
        next_stage = not start.after and (fault.job is None or fault.job.state in start.follows)
        both = fault.job and bool(set(job.reads) & set(fault.job.reads))
        if not next_stage and (both or start.after):
            return True
    call = fault.state.call
    for name in path.after:
        other = states.get(name)
        if other is None or other.name in walk.plain or other.keeps_house:
            continue
        # Another state of the same call, to which only a fault leads: unless it tells of it.
        if call and other.call == call and not starts(call):
            named = f"{other.name} {other.function}".lower()
            return not any(w in named for w in ("fail", "error", "handle", "report", "abort"))
    return False


def _hidden(walk: Simulator, end: End, states: dict[str, State]) -> Iterator[Finding]:
    """An execution that succeeds although something went wrong in it."""
    path, fault = end.path, end.path.fault
    assert fault is not None
    state, job = fault.state, fault.job
    caught = _caught(path, state)
    if state.keeps_house or (job is None and state.looks_up):
        yield from _asked_in_vain(end, states)
        return
    if path.guessed and not (caught and path.rejoined):
        return
    if job and not job.observed and any(j.state == job.state and not j.observed for j in path.jobs):
        return  # nobody was told: `waits-for-job` says so
    if _instead(walk, fault, path, states):
        return
    # What .sync makes of a stopped job is not documented: unless a Choice lets Stopped pass.
    sync = state.call and state.call.pattern == "sync"
    undocumented = fault.status == "Stopped" and sync and not caught
    undocumented = undocumented and not path.named
    jobs_after = [j for s, j in walk.started.items() if state.name in _before(walk, s)]
    # After the last job, or where there is none, what fails costs no model.
    heavy = walk.started or any(may_start(s) for s in states.values())
    side = (
        job is None and not starts(state.call) and (not heavy or (walk.started and not jobs_after))
    )
    # What is looked at later may find it.
    looks = path.guessed and any(states[n].looks_up for n in path.after if n in states)
    after = (state.name, *path.after)
    last = after[-1]
    shown = " → ".join(after if len(after) <= 6 else (*after[:3], "…", *after[-2:]))
    yield Finding(
        state.name,
        "failure-ends-in-fail",
        "should" if side or undocumented or path.noted or looks else "must",
        f"{fault.told}, and the execution SUCCEEDS ({shown}); "
        + (
            "whether .sync fails on Stopped is not documented: let a Choice on the status follow"
            if undocumented
            else "let that way end in a Fail state"
        ),
        # Stages whose errors end at one state to which nothing else leads, or which begin at one,
        # have one cause.
        root=last if last not in walk.plain else after[1] if path.after else state.name,
    )


def _asked_in_vain(end: End, states: dict[str, State]) -> Iterator[Finding]:
    """A job's status that could not be asked for, and is taken for success."""
    path, fault = end.path, end.path.fault
    assert fault is not None
    state = fault.state
    asks = asks_about(state.call) or (state.function and state.looks_up)
    before = [states[n] for n in path.trail[: path.began] if n in states]
    open_ = any(not j.observed for j in path.jobs) or any(may_start(s) for s in before)
    if asks and open_ and not path.guessed and state.name not in path.after:
        yield Finding(
            state.name,
            "failure-ends-in-fail",
            "must",
            f"{fault.told}, and the execution SUCCEEDS ({' → '.join((state.name, *path.after))}): "
            f"nobody knows how the job ended; ask again, or let that way end in a Fail state",
        )


def _before(walk: Simulator, name: str) -> frozenset[str]:
    """The states that the faultless walk entered before it started a job."""
    for end in walk.ends:
        if end.path.fault is None and name in end.path.trail:
            return frozenset(end.path.trail[: end.path.trail.index(name)])
    return frozenset()


def _caught(path: Path, state: State) -> bool:
    """Whether a walk left a state by one of its catchers."""
    return bool(path.after) and path.after[0] in {
        str(c.get("Next")) for c in objects(state.body.get("Catch"))
    }


def retries(machine: Machine) -> Iterator[Finding]:
    """Retriers that pay for the same failure again, or send a name that is taken."""
    for state in machine.every():
        call = state.call
        kind = starts(call)
        if call is None or kind is None or not kind.sagemaker:
            continue
        if call.pattern == "sync" and (attempts := _attempts(state, "States.TaskFailed")):
            yield Finding(
                state.name,
                "retry-algorithm-error",
                "must",
                f"retries a failed job {attempts} times; an AlgorithmError comes back and costs a "
                f"job each time: retry SageMaker.AmazonSageMakerException, catch the rest",
            )
        text = str(state.arguments)
        varies = any(w in text for w in ("RetryCount", "States.UUID", "$uuid", "EnteredTime"))
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
