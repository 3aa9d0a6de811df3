"""What becomes of a walk in a Task: jobs that start, end and are asked about; calls refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from splatgate.pipeline import answers, jsonata, services
from splatgate.pipeline.answers import Job
from splatgate.pipeline.definition import State
from splatgate.pipeline.expressions import UNKNOWN, Scope, render
from splatgate.pipeline.expressions import evaluate as value_of
from splatgate.pipeline.json_values import listed, objects
from splatgate.pipeline.services import Kind
from splatgate.pipeline.trace import End, Fault, Path, Started

if TYPE_CHECKING:
    from splatgate.pipeline.simulator import Simulator

#: Errors that stand for any: what a catcher of all is tried with.
ANY = ("States.ALL", "States.TaskFailed")


class Tasks:
    """The Tasks of one simulation."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def run(self, state: State, path: Path, data: Any, scope: Scope) -> Iterator[Path | End]:
        """Every way on from a Task."""
        for member in ("TimeoutSecondsPath", "HeartbeatSecondsPath"):
            if member in state.body and not state.jsonata:
                value_of(str(state.body[member]), data, scope)
        call = state.call
        kind = services.starts(call)
        sent = self._sent(state, path, data, scope)
        if kind and call and call.pattern != "waitForTaskToken":
            yield from self._job(state, kind, path, data, scope, sent)
            return
        if path.fault is None or state.name not in self.simulator.called:
            self.simulator.called[state.name] = state, sent
        on, answer = path, answers.answer_of(call)
        if asked := services.asks_about(call):
            name = sent.get(asked.name) if asked.name and isinstance(sent, dict) else None
            same = [n for n, j in enumerate(path.jobs) if j.kind == asked]
            mine = [n for n in same if path.jobs[n].name == name] or same
            if (
                isinstance(name, str)
                and same
                and all(path.jobs[n].name not in (None, name) for n in same)
            ):
                known = ", ".join(sorted({str(path.jobs[n].name) for n in same}))
                self.simulator.find(
                    state.name, "reference", f"asks about {name!r}, and no job of this name is "
                    f"started; {known} is", must=not path.guessed,
                )  # fmt: skip
            if mine:
                on, job = self._asked(path, mine[-1])
                answer = answers.describe(job, job.status)
        elif not state.keeps_house:
            on = path.to(between=(*path.between, state.name))
            if path.jobs and call and (call.service == "lambda" or answer is UNKNOWN):
                # It may ask for the job's status, and answer in words of its own.
                on, _ = self._asked(on, len(path.jobs) - 1, told=False)
        yield self.simulator.leave(state, on, data, answer, scope)
        yield from self._refused(state, on, data, scope)

    def _asked(self, path: Path, number: int, *, told: bool = True) -> tuple[Path, Job]:
        """A walk on which a job's status has been asked for once more."""
        job = path.jobs[number]
        if not (job.observed and job.asked == 0):
            job = replace(job, asked=job.asked + 1)
            job = replace(job, observed=job.observed or (told and job.asked > 1))
        return path.to(jobs=(*path.jobs[:number], job, *path.jobs[number + 1 :])), job

    def _sent(self, state: State, path: Path, data: Any, scope: Scope) -> Any:
        token = scope.within(Task={"Token": "token"})
        if state.jsonata:
            return jsonata.render(state.arguments, token, input=data)
        return render(state.arguments, data, token) if "Parameters" in state.body else data

    def _refused(self, state: State, path: Path, data: Any, scope: Scope) -> Iterator[Path | End]:
        """What becomes of the execution when a call is refused, for each catcher that waits."""
        if path.fault is not None:
            if state.notifies and path.unheard is None:
                on = path.to(unheard=state.name)
                yield self.simulator.handle(state, on, data, "States.TaskFailed", UNKNOWN, scope)
            return
        if not self.simulator.faults:
            return
        errors = [listed(c.get("ErrorEquals"))[:1] for c in objects(state.body.get("Catch"))]
        for error in [str(e[0]) for e in errors if e] or ["States.TaskFailed"]:
            name = "States.TaskFailed" if error in ANY else error
            on = self._fault(path, Fault(state, f"is refused ({name})"))
            yield self.simulator.handle(state, on, data, name, "refused", scope)

    def _fault(self, path: Path, fault: Fault, **changes: Any) -> Path:
        # What was seen before it is not the same data after it.
        began = len(path.trail)
        return path.to(
            fault=fault,
            since=(),
            seen=frozenset(),
            visits={},
            guessed=False,
            began=began,
            **changes,
        )

    def _job(
        self, state: State, kind: Kind, path: Path, data: Any, scope: Scope, sent: Any
    ) -> Iterator[Path | End]:
        call = state.call
        assert call is not None
        known = self.simulator.started.get(state.name)
        again = any(j.state == state.name for j in path.jobs)
        if path.fault and known and not known.after and not again:
            # A later stage, which the fault did not keep from running: as in the faultless walk.
            job = known.job
        else:
            request = sent if isinstance(sent, dict) else {}
            name = request.get(kind.name) if kind.name else None
            job = Job(kind, state.name, name if isinstance(name, str) else None, kind.good,
                      request=request)  # fmt: skip
            self.named(job, path)
        if known is None or (known.after and path.fault is None):
            # The faultless walk's request counts, where it comes here.
            self.simulator.started[state.name] = Started(
                state, job, path.jobs, path.between, path.fault is not None
            )
        waits = call.pattern == "sync"

        def begun(of: Job, where: Path) -> Path:
            since = (*where.since, of) if where.fault else ()
            return where.to(jobs=(*where.jobs, of), since=since, between=())

        if waits:
            done = replace(job, observed=True)
            answer = answers.finished(done, call)
            yield self.simulator.leave(state, begun(done, path), data, answer, scope)
        else:
            answer = answers.answer_of(call)
            on = begun(job, path)
            # A job that is known to run is a fact, whatever led to it.
            on = on if path.fault or not kind.sagemaker else on.to(guessed=False)
            yield self.simulator.leave(state, on, data, answer, scope)
        if path.fault is not None or not self.simulator.faults:
            return
        for status in kind.bad[: 1 if waits and not kind.sagemaker else None]:
            ended = replace(job, final=status, good=False, observed=waits)
            fault = Fault(state, f"ends {status}", status, ended)
            on = self._fault(path, fault).to(jobs=(*path.jobs, ended), between=())
            if not waits:
                yield self.simulator.leave(state, on, data, answer, scope)
                continue
            told = answers.cause(ended)
            yield self.simulator.handle(state, on, data, "States.TaskFailed", told, scope)
            if status == "Stopped":
                # Whether .sync reports it as success is not documented (contract 7.4).
                result = answers.finished(ended, call)
                yield self.simulator.leave(state, on, data, result, scope)
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
                self.simulator.find(
                    job.state,
                    "name-unique",
                    f"{what} with the name {job.name!r}, which is taken (ResourceInUse); "
                    f"build it from the execution, the stage and the attempt",
                )
        fault = path.fault
        again = fault and fault.status == "Failed" and fault.state.name == job.state
        if again and not path.guessed:
            self.simulator.find(
                job.state,
                "retry-algorithm-error",
                "starts again after an AlgorithmError, which comes back and costs a job more; "
                "look at FailureReason before",
            )
