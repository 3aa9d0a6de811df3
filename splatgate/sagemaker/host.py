"""Runs a training job: what SageMaker does to a container, from its start to the packed result.

Contract sections 1 to 3, on a Docker engine.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from splatgate import evidence
from splatgate.evidence import Attempt, BadInput, Job, Limits, LogLine
from splatgate.instances import INSTANCES
from splatgate.sagemaker.assumptions import Assumptions, ignored
from splatgate.sagemaker.attempt import Mishap, Terms, watch
from splatgate.sagemaker.channels import files_below, tree_hash
from splatgate.sagemaker.collect import Files, outside, read_files
from splatgate.sagemaker.environment import command_line, config_files
from splatgate.sagemaker.guards import check_channels, check_folder, engine_errors, whole
from splatgate.sagemaker.limits import applied, fit, has_gpu, limits_of, size
from splatgate.sagemaker.request import Request
from splatgate.sagemaker.resources import NotStarted, Stage
from splatgate.sagemaker.result import MISHAPS, ending

#: Contract 1.4: from SIGTERM to SIGKILL (seconds).
GRACE = 120.0
#: Time to read a job's files when its own deadline has been used up (seconds).
READ_TIME = 120.0
KEEP = frozenset({"archive", "output", "checkpoints"})
PHASES = ("Starting", "Downloading", "Training", "Uploading")


@dataclass
class _Run:
    """What has been found out about one run so far."""

    key: str
    began: float
    #: Monotonic time at which this host gives the job up.
    until: float
    asked: Limits
    command: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)
    notes: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    attempts: list[Attempt] = field(default_factory=list)
    #: When the first container started (ns).
    first: int = 0
    #: What the engine, or this host, said of a container that never ran.
    engine: str | None = None
    exit: int | None = None
    stop_seconds: float | None = None
    log: tuple[LogLine, ...] = ()
    env_names: tuple[str, ...] = ()
    files: Files = field(default_factory=Files)
    outside: list[str] = field(default_factory=list)

    def note(self, *lines: str) -> None:
        """Keep lines for ``Job.unverified``, each once however many attempts say it."""
        self.notes += [line for line in lines if line not in self.notes]


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
        mishaps: Sequence[Mishap] = (),
    ) -> Job:
        """Run one job and write its evidence to ``folder``, whole or not at all.

        ``channels`` gives each channel of the request its data: a folder or one file. ``stop_when``
        sees each line of the log; True is StopTrainingJob. ``deadline`` is how long the job may
        take in all, in seconds from this call; it is not SageMaker's. ``checkpoints`` is put into
        the checkpoint directory before the start, as after a spot interruption. ``limits`` replaces
        the instance's. ``keep`` may name what is left in ``folder`` beyond job.json, log.txt,
        failure and model/: ``archive`` (model.tar.gz), ``output``, ``checkpoints``. ``mishaps``
        befall the first, second, … attempt: a spot job goes on after an interruption, a job with
        attempts left (RetryStrategy) after an InternalServerError, each from zero, with the
        checkpoints of a request that has a CheckpointConfig.

        A container that cannot be started is a Failed job. Whatever ends this call, nothing of it
        stays in the engine.

        Raises:
            BadInput: no such image, a channel without data or not of the request, Pipe mode, an
                interruption of a job that is not spot.
            HostFailed: the engine failed; no verdict on the image.
        """
        began = time.monotonic()
        if unknown := set(keep) - KEEP:
            raise ValueError(f"keep: {sorted(unknown)} is none of {sorted(KEEP)}")
        folder = folder.resolve()
        check_folder(folder)
        check_channels(request, channels)
        if any(mishap.kind == "Interrupted" for mishap in mishaps) and not request.spot:
            raise BadInput("only spot jobs are interrupted: set EnableManagedSpotTraining")
        if checkpoints is not None:
            files_below(checkpoints)
        found = self._image(image)
        hashes = {name: tree_hash(path) for name, path in channels.items()}
        instance = INSTANCES.get(request.instance_type)
        asked = limits or limits_of(instance, self.assumed, request.volume_gb)
        run = _Run(key, began, began + deadline, asked, command_line(request, found)[1])
        run.note(*ignored(request.raw))
        if instance is None:
            run.note(f"limits: {request.instance_type} is not in the table, none applied")
        with engine_errors(), whole(folder) as temp:
            again = True
            while again:
                stage = Stage(self.client, found, self.labels, request, self.assumed)
                try:
                    mishap = dict(enumerate(mishaps)).get(len(run.attempts))
                    self._attempt(stage, run, channels, checkpoints, stop_when, mishap)
                    last = run.attempts[-1].ended_by
                    again = self._goes_on(request, run)
                    if again:
                        checkpoints = self._synced(stage, run, temp, checkpoints)
                    elif run.attempts[-1].started and last != "InternalServerError":
                        self._upload(stage, run, temp, frozenset(keep))
                finally:
                    if left := stage.close():
                        self._say(run, f"the engine did not remove {', '.join(left)}")
            shutil.rmtree(temp / ".synced", ignore_errors=True)
            job = self._job(found, request, hashes, run)
            evidence.write(temp / "job.json", job)
            text = "".join(f"{line.text}\n" for line in job.log)
            evidence.write_bytes(temp / "log.txt", text.encode("utf-8", "replace"))
            if job.failure is not None:
                evidence.write_bytes(temp / "failure", job.failure.encode("utf-8", "replace"))
        self._say(run, f"{job.status} after {time.monotonic() - began:.0f} s")
        return job

    def _say(self, run: _Run, text: str) -> None:
        self.say(f"{run.key}: {text}")

    def _image(self, ref: str) -> Any:
        import docker.errors

        with engine_errors():
            try:
                return self.client.images.get(ref)
            except docker.errors.ImageNotFound:
                raise BadInput(
                    f"image {ref}: the engine has none of that name; build or pull it first"
                ) from None

    def _attempt(
        self,
        stage: Stage,
        run: _Run,
        channels: Mapping[str, Path],
        checkpoints: Path | None,
        stop_when: Callable[[str], bool] | None,
        mishap: Mishap | None,
    ) -> None:
        """Starting, Downloading and Training, once; ends with one more of ``run.attempts``."""
        request = stage.request
        try:
            self._prepare(stage, run, channels, checkpoints)
        except NotStarted as error:
            run.engine, run.exit = str(error), error.exit_code
            run.attempts.append(Attempt("", run.exit, False, None, 0.0, 0))
            return
        now = time.monotonic()
        terms = Terms(
            until=run.until,
            runtime=now + request.max_runtime - run.phases["Training"],
            wait=None if request.max_wait is None else run.began + request.max_wait,
            grace=self.grace,
            stop_when=stop_when,
            mishap=mishap,
            spot_sigterm=self.assumed.spot_sigterm,
        )
        seen = watch(
            self.client,
            stage.container,
            terms,
            lambda text: self._say(run, text),
            self.every,
            run.first,
        )
        run.first = run.first or seen.start
        run.attempts.append(seen.attempt)
        run.exit, run.stop_seconds = seen.attempt.exit, seen.stop_seconds
        run.phases["Training"] += seen.attempt.seconds
        run.log += seen.log
        run.note(*seen.notes)

    def _prepare(
        self,
        stage: Stage,
        run: _Run,
        channels: Mapping[str, Path],
        checkpoints: Path | None,
    ) -> None:
        """Starting and Downloading; ends with a running container.

        Raises:
            NotStarted: the image or the request makes that impossible.
        """
        request, info = stage.request, self.client.info()
        fitted, notes = fit(run.asked, info, self.client.api.base_url)
        run.note(*notes)
        instance = INSTANCES.get(request.instance_type)
        gpus = instance.gpu_count if instance else 0
        if gpus and not has_gpu(info):
            run.note(f"gpu: no GPU on this engine; {request.instance_type} has one")
            gpus = 0
        room = self._room(stage, run, channels)
        self._say(run, "starting")
        mark = time.monotonic()
        try:
            stage.build(room if fitted.disk_bytes is not None else None)
        except OSError as error:
            run.note(f"limits: disk not applied: {error}")
            stage.close()
            fitted = replace(fitted, disk_bytes=None)
            stage.build()
        run.phases["Starting"] += time.monotonic() - mark
        mark = time.monotonic()
        config = config_files(request, self.assumed)
        stage.fill(channels, config, checkpoints, lambda text: self._say(run, text), run.until)
        run.phases["Downloading"] += time.monotonic() - mark
        mark = time.monotonic()
        try:
            stage.create(fitted, gpus=gpus)
            stage.container.reload()
            run.limits = replace(applied(stage.container), disk_bytes=fitted.disk_bytes)
            names = (entry.partition("=")[0] for entry in stage.container.attrs["Config"]["Env"])
            run.env_names = tuple(sorted(names))
            stage.start()
        finally:
            run.phases["Starting"] += time.monotonic() - mark

    def _room(self, stage: Stage, run: _Run, channels: Mapping[str, Path]) -> int:
        """What the input leaves of the job's disk (bytes); File channels lie on it (contract 2.4).

        Raises:
            NotStarted: nothing.
        """
        disk = run.asked.disk_bytes
        modes = {channel.name: channel.mode for channel in stage.request.channels}
        copied = [path for name, path in channels.items() if modes[name] == "File"]
        need = sum(file.stat().st_size for path in copied for _, file in files_below(path))
        if disk is not None and need >= disk:
            raise NotStarted(f"the input ({size(need)}) does not fit the disk ({size(disk)})", None)
        return (disk or 0) - need

    def _goes_on(self, request: Request, run: _Run) -> bool:
        """Whether another attempt follows the last one."""
        last = run.attempts[-1].ended_by
        retried = sum(attempt.ended_by == "InternalServerError" for attempt in run.attempts)
        again = last == "Interrupted" or (last in MISHAPS and retried <= request.retries)
        if again:
            self._say(run, f"{last}, starting anew")
        return again

    def _synced(self, stage: Stage, run: _Run, temp: Path, before: Path | None) -> Path | None:
        """The checkpoints that the next attempt finds: what CheckpointConfig keeps in S3."""
        if not stage.request.checkpoint_uri:
            run.note(
                "1.5 no CheckpointConfig: checkpoints were lost with the interrupted container"
            )
            return before
        target = temp / ".synced" / str(len(run.attempts))
        target.mkdir(parents=True)
        config = config_files(stage.request, self.assumed)
        limit = max(run.until, time.monotonic() + READ_TIME)
        read_files(stage, config, target, frozenset({"checkpoints"}), limit)
        (target / "checkpoints").mkdir(exist_ok=True)
        return target / "checkpoints"

    def _upload(self, stage: Stage, run: _Run, temp: Path, keep: frozenset[str]) -> None:
        mark = time.monotonic()
        self._say(run, "reading its files")
        config = config_files(stage.request, self.assumed)
        limit = max(run.until, mark + READ_TIME)
        archive = keep if stage.request.compression == "GZIP" else keep - {"archive"}
        run.files = read_files(stage, config, temp, archive, limit)
        changes = self.client.api.diff(stage.container.id) or ()
        gpu = bool(stage.container.attrs["HostConfig"].get("DeviceRequests"))
        run.outside = outside((c["Path"] for c in changes), stage.targets, gpu=gpu)
        run.phases["Uploading"] += time.monotonic() - mark

    def _job(self, image: Any, request: Request, hashes: dict[str, str], run: _Run) -> Job:
        last = run.attempts[-1]
        end = ending(run.exit, last.ended_by, run.files.failure, run.engine, self.assumed)
        return Job(
            key=run.key,
            name=request.name,
            image_id=image.id,
            request=dict(request.raw),
            channels=hashes,
            status=end.status,
            secondary_status=end.secondary,
            failure_reason=end.reason,
            exit=run.exit,
            oom=last.oom,
            ended_by=last.ended_by,
            stop_seconds=run.stop_seconds,
            command=run.command,
            limits_asked=run.asked,
            limits_applied=run.limits,
            phases={name: round(run.phases[name], 3) for name in PHASES},
            log=run.log,
            failure=run.files.failure,
            env_names=run.env_names,
            members=tuple(run.files.model),
            output_members=tuple(run.files.output),
            checkpoint_members=tuple(run.files.checkpoints),
            writes_outside=tuple(sorted({*run.outside, *run.files.strays})),
            unverified=(*self.assumed.rows(), *run.notes),
            started=run.attempts[0].started,
            attempts=tuple(run.attempts),
        )
