"""The training host: runs one container the way SageMaker runs a training job.

Contract sections 1 to 3, on a Docker engine.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splatgate import evidence
from splatgate.evidence import BadInput, Job, Limits
from splatgate.sagemaker.channels import files_below, tree_hash
from splatgate.sagemaker.collect import Files, outside, read_files
from splatgate.sagemaker.guards import check_channels, check_folder, engine_errors, whole
from splatgate.sagemaker.instances import INSTANCES, MIB, Assumptions, limits_of
from splatgate.sagemaker.logs import Follower, nanoseconds, read_log
from splatgate.sagemaker.request import Request
from splatgate.sagemaker.result import ending
from splatgate.sagemaker.stage import (
    LOG_LIMIT,
    HostFailed,
    NotStarted,
    Stage,
    applied,
    command_line,
    config_files,
    fit,
    has_gpu,
)

#: Contract 1.4: from SIGTERM to SIGKILL (seconds).
GRACE = 120.0
#: How often the engine is asked whether the container still runs (seconds).
POLL = 0.3
#: Time to read a job's files when its own deadline has been used up (seconds).
READ_TIME = 120.0
KEEP = frozenset({"archive", "output", "checkpoints"})
SIGKILL_EXIT = 137
#: An engine reports an event this long after the container's end at the latest (ns).
EVENT_LAG = 500_000_000


@dataclass
class _Run:
    """What has been found out about one run so far."""

    limits: Limits = field(default_factory=Limits)
    command: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    exit: int | None = None
    oom: bool = False
    engine: str | None = None
    ended_by: str | None = None
    stop_seconds: float | None = None
    started: str = ""
    log: tuple[evidence.LogLine, ...] = ()
    env_names: tuple[str, ...] = ()
    files: Files = field(default_factory=Files)
    outside: list[str] = field(default_factory=list)


class TrainingHost:
    """Runs training jobs on a Docker engine, one call one job.

    ``labels`` mark everything that is made (``splatgate.container.sweep.labels``). ``say`` gets a
    line of progress at most every few seconds. ``grace`` is the time from SIGTERM to SIGKILL in
    seconds; only tests shorten it.
    """

    def __init__(
        self,
        client: Any,
        *,
        labels: Mapping[str, str],
        say: Callable[[str], None],
        assumed: Assumptions | None = None,
        grace: float = GRACE,
        every: float = 5.0,
    ) -> None:
        self.client, self.labels, self.say = client, dict(labels), say
        self.assumed = assumed or Assumptions()
        self.grace, self.every = grace, every

    def run(
        self,
        image: str,
        request: Request,
        channels: Mapping[str, Path],
        folder: Path,
        *,
        key: str,
        stop_when: Callable[[str], bool] | None = None,
        deadline: float,
        checkpoints: Path | None = None,
        limits: Limits | None = None,
        keep: Collection[str] = (),
    ) -> Job:
        """Run one job and write its evidence to ``folder``, whole or not at all.

        ``channels`` gives each channel of the request its data: a folder or one file. ``stop_when``
        sees each line of the log; True is StopTrainingJob. ``deadline`` is how long the job may
        take in all, in seconds from this call; it is not SageMaker's. ``checkpoints`` is put into
        the checkpoint directory before the start, as after a spot interruption. ``limits`` replaces
        the instance's. ``keep`` may name what is left in ``folder`` beyond job.json, log.txt,
        failure and model/: ``archive`` (model.tar.gz), ``output``, ``checkpoints``.

        A container that cannot be started is a Failed job. Whatever ends this call, nothing of it
        stays in the engine.

        Raises:
            BadInput: no such image, a channel without data or not of the request, Pipe mode.
            HostFailed: the engine failed; no verdict on the image.
        """
        began = time.monotonic()
        if unknown := set(keep) - KEEP:
            raise ValueError(f"keep: {sorted(unknown)} is none of {sorted(KEEP)}")
        folder = folder.resolve()
        check_folder(folder)
        check_channels(request, channels)
        if checkpoints is not None:
            files_below(checkpoints)
        found = self._image(image)
        hashes = {name: tree_hash(path) for name, path in channels.items()}
        instance = INSTANCES.get(request.instance_type)
        asked = limits or limits_of(instance, self.assumed, request.volume_gb)
        run = _Run(command=command_line(request, found)[1])
        if instance is None:
            run.notes.append(f"limits: {request.instance_type} is not in the table, none applied")
        with engine_errors(), whole(folder) as temp:
            stage = Stage(self.client, found, self.labels, request)
            try:
                self._prepare(stage, run, key, channels, checkpoints, asked, began)
                if run.engine is None:
                    self._train(stage, run, key, stop_when, began + deadline)
                    self._upload(stage, run, key, temp, frozenset(keep), began + deadline)
            finally:
                if left := stage.close():
                    self.say(f"{key}: the engine did not remove {', '.join(left)}")
            job = self._job(key, found, request, hashes, asked, run)
            evidence.write(temp / "job.json", job)
            text = "".join(f"{line.text}\n" for line in job.log)
            evidence.write_bytes(temp / "log.txt", text.encode("utf-8", "replace"))
            if job.failure is not None:
                evidence.write_bytes(temp / "failure", job.failure.encode("utf-8", "replace"))
        self.say(f"{key}: {job.status} after {time.monotonic() - began:.0f} s")
        return job

    def _image(self, ref: str) -> Any:
        import docker.errors

        with engine_errors():
            try:
                return self.client.images.get(ref)
            except docker.errors.ImageNotFound:
                raise BadInput(
                    f"image {ref}: the engine has none of that name; build or pull it first"
                ) from None

    def _prepare(
        self,
        stage: Stage,
        run: _Run,
        key: str,
        channels: Mapping[str, Path],
        checkpoints: Path | None,
        asked: Limits,
        began: float,
    ) -> None:
        """Starting and Downloading; ends with a running container or with ``run.engine`` set."""
        request, info = stage.request, self.client.info()
        fitted, notes = fit(asked, info)
        run.notes += notes
        instance = INSTANCES.get(request.instance_type)
        gpus = instance.gpu_count if instance else 0
        if gpus and not has_gpu(info):
            run.notes.append(f"gpu: no GPU on this engine; {request.instance_type} has one")
            gpus = 0
        self.say(f"{key}: starting")
        stage.build()
        mark = time.monotonic()
        run.phases["Starting"] = mark - began
        config = config_files(request, self.assumed)
        stage.fill(channels, config, checkpoints, lambda text: self.say(f"{key}: {text}"))
        run.phases["Downloading"] = time.monotonic() - mark
        mark = time.monotonic()
        try:
            stage.create(fitted, self.assumed, gpus=gpus)
            stage.container.reload()
            run.limits = applied(stage.container)
            names = (entry.partition("=")[0] for entry in stage.container.attrs["Config"]["Env"])
            run.env_names = tuple(sorted(names))
            stage.start()
        except NotStarted as error:
            run.engine, run.exit = str(error), error.exit_code
        run.phases["Starting"] += time.monotonic() - mark

    def _train(
        self,
        stage: Stage,
        run: _Run,
        key: str,
        stop_when: Callable[[str], bool] | None,
        until: float,
    ) -> None:
        """Wait for the container's end, or bring it about where a limit or ``stop_when`` asks."""
        container, began = stage.container, time.monotonic()
        limit = began + stage.request.max_runtime
        follower = Follower(self.client.api, container.id)
        asked_at: float | None = None
        looked = said = began
        last, running = "", True
        try:
            while running:
                line = follower.next(POLL)
                now = time.monotonic()
                if line is not None:
                    last = line
                    if asked_at is None and stop_when is not None and stop_when(line):
                        run.ended_by = "StopTrainingJob"
                if now > until and run.ended_by != "Deadline":
                    run.ended_by = "Deadline"
                    self.say(f"{key}: the deadline passed, ending it")
                    _signal(container, "SIGKILL")
                elif now > limit and run.ended_by is None:
                    run.ended_by = "MaxRuntimeExceeded"
                if run.ended_by in ("StopTrainingJob", "MaxRuntimeExceeded"):
                    if asked_at is None:
                        self.say(f"{key}: {run.ended_by}, SIGTERM")
                        asked_at = now
                        if not _signal(container, "SIGTERM"):
                            # It ended by itself before the stop reached it.
                            run.ended_by, asked_at = None, None
                            break
                    elif now > asked_at + self.grace:
                        self.say(f"{key}: still there {self.grace:g} s after SIGTERM, SIGKILL")
                        _signal(container, "SIGKILL")
                        asked_at = min(asked_at, now - self.grace)
                if now - said >= self.every:
                    said = now
                    self.say(f"{key}: {now - began:.0f} s  {last.rpartition(chr(13))[2][-120:]}")
                if line is None or now - looked >= POLL:
                    looked = now
                    container.reload()
                    running = container.attrs["State"]["Running"]
        finally:
            follower.close()
        container.reload()
        self._ended(stage, run, began, asked_at, follower.bytes)

    def _ended(
        self, stage: Stage, run: _Run, began: float, asked_at: float | None, logged: int
    ) -> None:
        """Read what the engine says of the ended container, before anything is removed."""
        state = stage.container.attrs["State"]
        start, end = nanoseconds(state["StartedAt"]), nanoseconds(state["FinishedAt"])
        run.exit = state["ExitCode"]
        run.oom = bool(state.get("OOMKilled"))
        run.phases["Training"] = max(0.0, (end - start) / 10**9)
        if asked_at is not None:
            sent = asked_at - began
            run.stop_seconds = round(max(0.0, run.phases["Training"] - sent), 3)
        run.started = datetime.datetime.fromtimestamp(start / 10**9, datetime.UTC).isoformat()
        run.log = read_log(self.client.api, stage.container.id, start)
        if run.ended_by is None:
            events = self._events(stage.container.id, start, end)
            if "kill" in events:
                # `docker kill` or `docker stop` of somebody else: it says nothing of the image.
                raise HostFailed("the job's container was ended by another hand", "run it again")
            # Two events of the engine race to write OOMKilled.
            run.oom = run.oom or (run.exit == SIGKILL_EXIT and "oom" in events)
        if logged > LOG_LIMIT // 2:
            run.notes.append(f"log: {logged // MIB} MiB were printed; the engine kept the end only")

    def _events(self, container: str, start: int, end: int) -> set[str]:
        """Which of ``oom`` and ``kill`` the engine reports of a container (times in ns)."""
        until = end + EVENT_LAG
        events = self.client.events(
            since=f"{start // 10**9}.{start % 10**9:09d}",
            until=f"{until // 10**9}.{until % 10**9:09d}",
            filters={"container": container, "event": ["oom", "kill"]},
            decode=True,
        )
        return {str(event.get("Action") or event.get("status")) for event in events}

    def _upload(
        self, stage: Stage, run: _Run, key: str, temp: Path, keep: frozenset[str], until: float
    ) -> None:
        mark = time.monotonic()
        self.say(f"{key}: reading its files")
        config = config_files(stage.request, self.assumed)
        limit = max(until, mark + READ_TIME)
        archive = keep if stage.request.compression == "GZIP" else keep - {"archive"}
        run.files = read_files(stage, config, temp, archive, limit)
        changes = self.client.api.diff(stage.container.id) or ()
        gpu = bool(stage.container.attrs["HostConfig"].get("DeviceRequests"))
        run.outside = outside((c["Path"] for c in changes), stage.targets, gpu=gpu)
        run.phases["Uploading"] = time.monotonic() - mark

    def _job(
        self,
        key: str,
        image: Any,
        request: Request,
        hashes: dict[str, str],
        asked: Limits,
        run: _Run,
    ) -> Job:
        end = ending(run.exit, run.ended_by, run.files.failure, run.engine)
        order = ("Starting", "Downloading", "Training", "Uploading")
        return Job(
            key=key,
            name=request.name,
            image_id=image.id,
            request=dict(request.raw),
            channels=hashes,
            status=end.status,
            secondary_status=end.secondary,
            failure_reason=end.reason,
            exit=run.exit,
            oom=run.oom,
            ended_by=run.ended_by,
            stop_seconds=run.stop_seconds,
            command=run.command,
            limits_asked=asked,
            limits_applied=run.limits,
            phases={name: round(run.phases.get(name, 0.0), 3) for name in order},
            log=run.log,
            failure=run.files.failure,
            env_names=run.env_names,
            members=tuple(run.files.model),
            output_members=tuple(run.files.output),
            checkpoint_members=tuple(run.files.checkpoints),
            writes_outside=tuple(sorted({*run.outside, *run.files.strays})),
            unverified=(*self.assumed.rows(), *run.notes),
            started=run.started,
        )


def _signal(container: Any, name: str) -> bool:
    """Send a signal; False if the container has already ended."""
    import docker.errors

    try:
        container.kill(name)
    except docker.errors.NotFound:
        raise
    except docker.errors.APIError as error:
        if error.status_code == 409 or "is not running" in str(error.explanation):
            return False
        raise
    return True
