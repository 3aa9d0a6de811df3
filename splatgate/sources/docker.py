"""The live door: looks at an image through an engine, writes down what it sees, and hands out the
writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splatgate import subject
from splatgate.container import engine, running, sweep
from splatgate.container import image as images
from splatgate.container.backends import Recording, RecordingBackend
from splatgate.container.layers.entries import LayerContent
from splatgate.container.layers.images import read_export
from splatgate.evidence import (
    BadInput,
    Command,
    Compression,
    Facts,
    Job,
    Limits,
    Machine,
    write,
    write_bytes,
)
from splatgate.evidence.missing import QUICK, Blocked, CannotLook, NotVerified
from splatgate.sagemaker.limits import has_gpu
from splatgate.sources import process as device
from splatgate.sources.layers import CACHE, Looking
from splatgate.sources.recorded import JobSpec, stop_when

if TYPE_CHECKING:
    from splatgate.sources.run import Run


class Live(Looking):
    """Evidence of ``run.image``, looked at through an engine.

    Raises:
        BadInput: no engine, no such image, or no scene.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        super().__init__(run, say)
        if run.image is None:
            raise BadInput("no image to judge: build one (make image) or give --image REF")
        self.client = engine.client()
        # Against a SIGKILL of an earlier run, which could not tidy up.
        sweep.sweep_stale(self.client)
        with self.lock("evidence"):
            if not (self.folder / "evidence.json").exists():
                image = images.see(self.client, run.image)
                info = self.client.info()
                # Marks a run that may have something in the engine to sweep.
                write_bytes(self.folder / "engine", b"")
                self.begin(
                    image,
                    Machine(
                        engine=f"{info['ServerVersion']} {info['Architecture']}",
                        cpus=info["NCPU"],
                        mem=info["MemTotal"],
                        gpu=device.gpu() if has_gpu(info) else None,
                    ),
                )

    def read_layers(self) -> tuple[LayerContent, ...]:
        """Every layer, by the engine's export where one was never seen."""
        image = self.image()
        return read_export(partial(engine.export, image.image_id), image.digests, CACHE, self.say)

    def container(self) -> str:
        """Id of the container under test; the first who asks starts it.

        Raises:
            Blocked: the image is for another platform and cannot be started.
            NotVerified: it has no shell, through which Splatgate looks.
            CannotLook: it does not start.
        """
        image = self.image()
        if (image.os, image.architecture) != ("linux", "amd64"):
            raise Blocked(
                "test_image_is_for_linux_amd64", f"image is {image.os}/{image.architecture}"
            )
        mark = self.folder / "container.id"
        with self.lock("container"), self._refused("container"):
            if not mark.exists():
                with self.run.timed("start"):
                    self.say(f"starting {image.ref}")
                    found = running.start(self.client, image, self.run.labels)
                    write_bytes(mark, found.encode())
        return mark.read_text()

    @contextmanager
    def _refused(self, name: str) -> Iterator[None]:
        """Look once: whoever asks again for what could not be seen is told the same."""
        kinds = {kind.__name__: kind for kind in (NotVerified, CannotLook)}
        path = self.folder / f"{name}.error"
        if path.exists():
            kind, _, text = path.read_text().partition(" ")
            raise kinds[kind](text)
        try:
            yield
        except tuple(kinds.values()) as error:
            self.say(str(error))
            write_bytes(path, f"{type(error).__name__} {error}".encode())
            raise

    def facts(self) -> Facts:
        """What the probe sees inside the container under test."""
        path = self.folder / "container" / "facts.json"
        container = self.container()
        with self.lock("facts"), self._refused("facts"):
            if not path.exists():
                self.say("probe: packages, imports, GPU code, all files (about ten seconds)")
                given = self.folder / "subject.toml"
                profile = subject.parse(given.read_text(), str(given)) if given.exists() else None
                with self.run.timed("probe"):
                    seen = running.probe(
                        container, self.image(), profile.entry_script if profile else None
                    )
                write(path, seen)
        return super().facts()

    def hardened(self) -> Command:
        """Start the image with `train` on a read-only root, without capabilities."""
        path = self.folder / "container" / "hardened.json"
        self.container()
        with self.lock("hardened"):
            if not path.exists():
                with self.run.timed("hardened"):
                    seen = running.hardened(self.client, self.image(), self.run.labels)
                write(path, seen)
        return super().hardened()

    def backend(self) -> Any:
        """The recording testinfra backend on the container under test; over the image's layers
        where it has no shell.
        """
        try:
            container = self.container()
        except NotVerified:
            return self.from_layers()
        return RecordingBackend(container, Recording(self.folder / "container" / "commands.jsonl"))

    def job(self, spec: JobSpec) -> Job:
        """Run the job of ``spec`` on the training host, or hand out its record.

        Raises:
            NotVerified: training was left out, or would run under emulation.
        """
        from splatgate.sagemaker.assumptions import Assumptions
        from splatgate.sagemaker.host import TrainingHost

        key = self.job_key(spec)
        image = self.image()
        if (image.os, image.architecture) != ("linux", "amd64"):
            raise Blocked(
                "test_image_is_for_linux_amd64", f"image is {image.os}/{image.architecture}"
            )
        if spec.trains and self.run.quick:
            raise NotVerified(QUICK)
        if spec.trains and "x86_64" not in (self.header.machine.engine or ""):
            raise NotVerified("training under emulation of another processor gives no answer")
        folder = self.folder / "jobs" / key
        earlier = self.job_folder(self.job(spec.resumes)) if spec.resumes else None
        with self.lock(f"jobs.{key}"):
            if not (folder / "job.json").exists():
                host = TrainingHost(
                    self.client,
                    labels=self.run.labels,
                    say=self.say,
                    assumed=Assumptions(empty_hyperparameters_file=not spec.no_file),
                )
                channel = self.channel(spec)
                watch = device.watched(folder) if self.header.machine.gpu else nullcontext()
                with watch, self.run.timed(f"job {spec.name}"):
                    host.run(
                        image.image_id,
                        self.request(spec),
                        {"training": channel},
                        folder,
                        key=key,
                        stop_when=stop_when(spec.stop_on, spec.stop_at),
                        deadline=spec.deadline,
                        checkpoints=earlier / "checkpoints" if earlier else None,
                        limits=self._limits(spec, channel),
                        keep={"checkpoints"} if spec.stop_on else (),
                    )
        return super().job(spec)

    def _limits(self, spec: JobSpec, channel: Path) -> Limits | None:
        """The instance's limits with as much disk as a job asks for; None: the instance's own."""
        if spec.room is None:
            return None
        from splatgate.instances import INSTANCES
        from splatgate.sagemaker.assumptions import Assumptions
        from splatgate.sagemaker.capacity import size_of
        from splatgate.sagemaker.limits import limits_of

        request = self.request(spec)
        own = limits_of(INSTANCES.get(request.instance_type), Assumptions(), request.volume_gb)
        return replace(own, disk_bytes=size_of(channel) + spec.room)

    def kernels(self) -> dict[str, Any]:
        """Run the kernels' self-test in the image on the engine's GPU, or hand out its report.

        Raises:
            NotVerified: the subject profile names none.
            CannotLook: it ended without a report.
        """
        profile, path = self.profile(), self.folder / "gpu" / "kernels.json"
        if profile.selftest is None or profile.source is None:
            raise NotVerified("the subject profile names no self-test of its kernels")
        with self.lock("kernels"):
            if not path.exists():
                command = [*self.image().entrypoint[:1], f"{profile.source}/{profile.selftest}"]
                self.say("kernels against their reference (about half a minute)")
                write(path, running.on_gpu(self.client, self.image(), command, self.run.labels))
        return super().kernels()

    def compressed(self, job: Job) -> Compression:
        """Run the compression stage's tool on the model of ``job``, or hand out its record.

        Raises:
            NotVerified: no Node here, or the tool cannot be installed.
        """
        from splatgate.sagemaker import compression

        folder = self.job_folder(job)
        with self.lock(f"jobs.{job.key}.compressed"):
            if not (folder / "compressed.json").exists():
                tool = compression.install(self.say)
                with self.run.timed("compression"):
                    compression.compress(tool, folder, self.say)
        return super().compressed(job)

    def channel(self, spec: JobSpec) -> Path:
        """What the training channel of a job holds."""
        if spec.data == "scene" or spec.data in device.SCENES:
            return device.channel(spec.data, self.scene_path)
        from splatgate.sagemaker import variants

        folder = self.folder / "channels" / spec.data
        with self.lock(f"channels.{spec.data}"):
            if not folder.exists():
                variants.make(self.scene_path, spec.data, folder)
        return folder
