"""The live door: looks at an image through an engine, writes down what it sees, and hands out the
writing.

What has been seen once in a run is not looked at again, whichever worker asks: every look is made
under a file lock in the run's folder, and leaves a whole record or none.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from filelock import FileLock

from splatgate import checklist as checklists
from splatgate import subject
from splatgate.container import engine, layers, lint, provenance, running, sbom, sweep
from splatgate.container import image as images
from splatgate.container.backends import Recording, RecordingBackend
from splatgate.evidence import (
    BadInput,
    Command,
    Compression,
    Facts,
    Header,
    Image,
    Job,
    LayerFiles,
    Limits,
    Lint,
    Machine,
    Pipeline,
    Registry,
    read,
    write,
    write_bytes,
)
from splatgate.evidence.missing import QUICK, Blocked, CannotLook, NotVerified
from splatgate.paths import ROOT
from splatgate.record import suite
from splatgate.sagemaker.limits import has_gpu
from splatgate.sources import process as device
from splatgate.sources.recorded import NOT_PUSHED, JobSpec, Recorded, stop_when

if TYPE_CHECKING:
    from splatgate.sources.run import Run


#: What is known of layers, by digest.
CACHE = ROOT / "build" / "layers"


class Live(Recorded):
    """Evidence of ``run.image``, collected as it is asked for.

    Raises:
        BadInput: no engine, no such image, or no scene.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        super().__init__(run.folder, run.scene, run.request, say, run.pipeline, run.pipeline_input)
        self.run = run
        if run.image is None:
            raise BadInput("no image to judge: build one (make image) or give --image REF")
        self.client = engine.client()
        # Against a SIGKILL of an earlier run, which could not tidy up.
        sweep.sweep_stale(self.client)
        with self.lock("evidence"):
            if not (self.folder / "evidence.json").exists():
                self._open(images.see(self.client, run.image))

    def _open(self, image: Image) -> None:
        from splatgate.sagemaker.channels import tree_hash

        if not self.scene_path.is_dir():
            raise BadInput(f"scene {self.scene_path}: no such folder; give --scene DIR")
        info = self.client.info()
        write(self.folder / "image.json", image)
        # Marks a run that may have something in the engine to sweep.
        (self.folder / "engine").touch()
        self._copy_build(image)
        for name, path in self.run.given.items():
            write_bytes(self.folder / name, path.read_bytes())
        write(
            self.folder / "evidence.json",
            Header(
                run=self.run.id,
                image_id=image.image_id,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                machine=Machine(
                    engine=f"{info['ServerVersion']} {info['Architecture']}",
                    cpus=info["NCPU"],
                    mem=info["MemTotal"],
                    gpu=device.gpu() if has_gpu(info) else None,
                ),
                scene=tree_hash(self.scene_path),
                scene_name=self.scene_path.name,
                extra={"suite": msgspec.to_builtins(suite(checklists.load().sha256))},
            ),
        )

    def _copy_build(self, image: Image) -> None:
        folder = ROOT / "build" / "image"
        path = folder / "build.json"
        if not path.exists() or (record := read(path, dict)).get("image_id") != image.image_id:
            return
        shutil.copyfile(path, self.folder / "build.json")
        if (log := folder / "build.log").exists():
            shutil.copyfile(log, self.folder / "build.log")
        # The locks beside the Dockerfile are this image's only while nothing there has changed.
        context = ROOT / "image"
        if record.get("context_sha256") == provenance.context_sha256(context):
            shutil.copyfile(context / "Dockerfile", self.folder / "Dockerfile")
            for lock in sorted((context / "requirements").glob("*.txt")):
                write_bytes(self.folder / "lock" / lock.name, lock.read_bytes())

    def lock(self, name: str) -> FileLock:
        """One look at a time over all workers of the run."""
        path = self.folder / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

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
                write(self.folder / "sbom.cdx.json", sbom.cyclonedx(self.image(), seen))
                write(path, seen)
        return super().facts()

    def registry(self) -> Registry:
        """Ask the registry that the image was pushed to, once, or hand out its answer.

        Raises:
            NotVerified: the image names none, and none was given.
        """
        from splatgate.container import reference, registry
        from splatgate.sagemaker.request import load

        name = self.image().ref
        ref = self.run.pushed or (name if reference.host(name) else None)
        if ref is None:
            raise NotVerified(NOT_PUSHED)
        path = self.folder / "registry.json"
        with self.lock("registry"):
            if not path.exists():
                self.say(f"registry: asking for {ref}")
                asked = load(self.request_path).image if self.request_path else None
                with self.run.timed("registry"):
                    found = registry.look(ref, asked or None)
                    # The very bytes, whose hashes are what an image is known by.
                    for name, data in registry.bytes_of(found.image).items():
                        write_bytes(self.folder / name, data)
                    write(path, found)
        return super().registry()

    def layers(self) -> tuple[LayerFiles, ...]:
        """Look into each layer of the image, or hand out what is known of it.

        Raises:
            NotVerified: the gigabytes of a layer that was never seen are left out by ``--quick``.
        """
        path, digests = self.folder / "layers.json", self.image().digests
        if self.run.quick and not layers.known(digests, CACHE):
            raise NotVerified(f"{QUICK}, and no look into layers that were never seen")
        with self.lock("layers"):
            if not path.exists():
                with self.run.timed("layers"):
                    export = partial(engine.export, self.image().image_id)
                    write(path, layers.scan(export, digests, CACHE, self.say))
        return super().layers()

    def lint(self) -> Lint:
        """Run hadolint on the Dockerfile at hand, or hand out what it said.

        Raises:
            NotVerified: there is no Dockerfile, or no hadolint.
        """
        path, text = self.folder / "hadolint.json", self.file("Dockerfile")
        with self.lock("hadolint"):
            if text is not None and not path.exists():
                with self.run.timed("hadolint"):
                    write(path, lint.look(text))
        return super().lint()

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
        """The recording testinfra backend on the container under test."""
        recording = Recording(self.folder / "container" / "commands.jsonl")
        return RecordingBackend(self.container(), recording)

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
        from splatgate.sagemaker.assumptions import Assumptions
        from splatgate.sagemaker.capacity import size_of
        from splatgate.sagemaker.instances import INSTANCES, limits_of

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

    def pipeline(self) -> Pipeline:
        """The state machine given, else the reference one, recorded as it is read."""
        from splatgate.pipeline.source import REFERENCE, beside

        path = self.folder / "pipeline.json"
        with self.lock("pipeline"):
            if not path.exists():
                write(path, beside(self.pipeline_path or REFERENCE, self.pipeline_input))
        return read(path, Pipeline)

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
