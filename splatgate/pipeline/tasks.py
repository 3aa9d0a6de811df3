"""What becomes of a walk in a Task: jobs that start, end and are asked about; calls refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from splatgate.pipeline import answers
from splatgate.pipeline.answers import Job
from splatgate.pipeline.definition import State
from splatgate.pipeline.lists import listed, objects
from splatgate.pipeline.paths import End, Fault, Path, Started
from splatgate.pipeline.template import UNKNOWN, Open, Scope, render
from splatgate.pipeline.template import evaluate as value_of

if TYPE_CHECKING:
    from splatgate.pipeline.walk import Walk

#: Errors that stand for any: what a catcher of all is tried with.
ANY = ("States.ALL", "States.TaskFailed")


#: Rules that rest on what a request holds.
RENDERED = ("request", "image", "name-unique", "hand-over", "timeout", "reference")


class Tasks:
    """The Tasks of one walk."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        #: Of each state's first job: it as it ended well, and what is then answered.
        self._done: dict[str, tuple[Job, Any]] = {}

    def run(self, state: State, path: Path, data: Any, scope: Scope) -> Iterator[Path | End]:
        """Every way on from a Task."""
        for member in ("TimeoutSecondsPath", "HeartbeatSecondsPath"):
            if member in state.body and not state.jsonata:
                value_of(str(state.body[member]), data, scope)
        call = state.call
        if call and call.creates:
            yield from self._job(state, path, data, scope)
            return
        sent = self._sent(state, path, data, scope)
        if path.fault is None or state.name not in self.walk.called:
            self.walk.called[state.name] = state, sent
        on, answer = path, answers.other(call)
        if call and call.describes:
            self.walk.own = True
            name = sent.get(call.describes.name) if isinstance(sent, dict) else None
            same = [n for n, j in enumerate(path.jobs) if j.kind == call.describes]
            mine = [n for n in same if path.jobs[n].name == name] or same
            if mine:
                on, job = self._asked(path, mine[-1])
                answer = answers.describe(job, job.status)
        elif not state.keeps_house:
            on = path.to(between=(*path.between, state.name))
            if path.jobs and answer is UNKNOWN:
                # It may ask for the job's status, and answer in words of its own.
                on, _ = self._asked(on, len(path.jobs) - 1, told=False)
        yield self.walk.leave(state, on, data, answer, scope)
        yield from self._refused(state, on, data, scope)

    def _asked(self, path: Path, number: int, *, told: bool = True) -> tuple[Path, Job]:
        """A walk on which a job's status has been asked for once more."""
        job = path.jobs[number]
        if not (job.observed and job.asked == 0):
            job = replace(job, asked=job.asked + 1)
            job = replace(job, observed=job.observed or (told and job.asked > 1))
        return path.to(jobs=(*path.jobs[:number], job, *path.jobs[number + 1 :])), job

    def _sent(self, state: State, path: Path, data: Any, scope: Scope) -> Any:
        if state.jsonata:
            return UNKNOWN
        token = scope.within(Task={"Token": "token"})
        token.variables = scope.variables
        return render(state.arguments, data, token) if "Parameters" in state.body else data

    def _refused(self, state: State, path: Path, data: Any, scope: Scope) -> Iterator[Path | End]:
        """What becomes of the execution when a call is refused, for each catcher that waits."""
        if path.fault is not None:
            self.walk.own |= state.notifies
            if state.notifies and path.unheard is None:
                on = path.to(unheard=state.name)
                yield self.walk.handle(state, on, data, "States.TaskFailed", UNKNOWN, scope)
            return
        if not self.walk.faults:
            return
        errors = [listed(c.get("ErrorEquals"))[:1] for c in objects(state.body.get("Catch"))]
        for error in [str(e[0]) for e in errors if e] or ["States.TaskFailed"]:
            name = "States.TaskFailed" if error in ANY else error
            on = self._fault(path, Fault(state, f"is refused ({name})"))
            yield self.walk.handle(state, on, data, name, "refused", scope)

    def _fault(self, path: Path, fault: Fault, **changes: Any) -> Path:
        return path.to(fault=fault, guessed=False, since=(), **changes)

    def _job(self, state: State, path: Path, data: Any, scope: Scope) -> Iterator[Path | End]:
        call = state.call
        assert call is not None
        assert call.creates is not None
        kind = call.creates
        known = self.walk.started.get(state.name)
        sent = self._sent(state, path, data, scope)
        if path.fault and known and not known.after and path.visits[state.name] == 1:
            # A later stage, which the fault did not keep from running: as in the faultless walk.
            job = known.job
        else:
            self.walk.own = True
            request = sent if isinstance(sent, dict) else {}
            name = request.get(kind.name)
            named = name if isinstance(name, str) else None
            job = Job(kind, state.name, named, "Completed", request)
            self.named(job, path)
        if known is None or (known.after and path.fault is None):
            # The faultless walk's request counts, where it comes here.
            self.walk.started[state.name] = Started(
                state, job, path.jobs, path.between, path.fault is not None
            )
        if state.jsonata:
            self.walk.gap(state.name, "its request is written in JSONata", *RENDERED)

        def begun(of: Job, where: Path) -> Path:
            since = (*where.since, of) if where.fault else ()
            return where.to(jobs=(*where.jobs, of), since=since, between=())

        def fault(of: Job, what: str) -> Path:
            return self._fault(path, Fault(state, what, of.final, of))

        if call.pattern == "sync":
            if known is None or job is not known.job or state.name not in self._done:
                done = replace(job, observed=True)
                self._done[state.name] = done, answers.describe(done, "Completed")
            done, answer = self._done[state.name]
            yield self.walk.leave(state, begun(done, path), data, answer, scope)
        else:
            arn = {f"{kind.create.removeprefix('Create')}Arn": UNKNOWN}
            answer = Open(arn) if kind.word != "training" else {**arn, **answers._SDK}
            on = begun(job, path).to(guessed=False) if not path.fault else begun(job, path)
            yield self.walk.leave(state, on, data, answer, scope)
        if path.fault is not None or not self.walk.faults:
            return
        for status in ("Failed", "Stopped"):
            ended = replace(job, final=status, observed=call.pattern == "sync")
            on = fault(ended, f"ends {status}").to(jobs=(*path.jobs, ended), between=())
            if call.pattern != "sync":
                yield self.walk.leave(state, on, data, answer, scope)
                continue
            told = answers.cause(ended, status)
            yield self.walk.handle(state, on, data, "States.TaskFailed", told, scope)
            if status == "Stopped":
                # Whether .sync reports it as success is not documented (contract 7.4).
                result = answers.describe(ended, status)
                yield self.walk.leave(state, on, data, result, scope)
        yield from self._refused(state, path, data, scope)

    def named(self, job: Job, path: Path) -> None:
        """Names are the job's for ever: a second one is refused (contract 7.1)."""
        if job.name is None:
            return
        for earlier in path.jobs:
            if earlier.name == job.name and earlier.kind == job.kind:
                what = (
                    "starts again"
                    if earlier.state == job.state
                    else f"has the name of {earlier.state}'s job"
                )
                self.walk.find(
                    job.state,
                    "name-unique",
                    f"{what} with the name {job.name!r}, which is taken (ResourceInUse); "
                    f"build it from the execution, the stage and the attempt",
                )
        fault = path.fault
        again = fault and fault.status == "Failed" and fault.state.name == job.state
        if again and not path.guessed:
            self.walk.find(
                job.state,
                "retry-algorithm-error",
                "starts again after an AlgorithmError, which comes back and costs a job more; "
                "look at FailureReason before",
            )
