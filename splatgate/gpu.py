"""What the gpu lane sees: the card, the kernels' report on themselves, whole trainings."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splatgate.doors import JobSpec, Recorded
from splatgate.evidence import BadInput, Job
from splatgate.facts import GPU_RESERVED, SHORT, STARVED
from splatgate.outcomes import Blocked, NotVerified
from splatgate.run import ROOT
from splatgate.subject import Outputs, Run

#: The check whose failure explains why nothing that was trained on a GPU can be judged.
TRAINS = "test_trains_on_the_gpu"
#: No driver may compile PTX for a job: machine code for the GPU is there, or the job fails.
NO_JIT = {"CUDA_DISABLE_PTX_JIT": "1"}
#: Limits what PyTorch takes of the GPU, from 2.10 on (``per_process_memory_fraction``).
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
#: Held-out quality of whole trainings: measured, with spread and command.
BASELINE = ROOT / "tests" / "gpu" / "baseline.toml"
#: A floor lies this many standard deviations of single runs below their mean: once in thirty
#: thousand runs by chance, if they are normal, and a decibel below on the noisier scene.
SIGMAS = 4.0


@dataclass(frozen=True)
class Gpu:
    """The first GPU, as nvidia-smi names it. ``capability`` as in 7.5, clocks in MHz."""

    name: str
    capability: str
    driver: str
    memory: str

    @property
    def bytes(self) -> int:
        """All of its memory."""
        return mebibytes(self.memory)

    @property
    def driver_branch(self) -> int:
        """The driver's major version."""
        return int(self.driver.split(".")[0])


@dataclass(frozen=True)
class Trained:
    """A whole training of one scene: the job, its metrics, the artefact as the suite sees it."""

    scene: str
    job: Job
    metrics: dict[str, Any]
    door: Recorded

    @property
    def ply(self) -> Path:
        """The .ply that it wrote.

        Raises:
            NotVerified: it was not kept with the evidence, being large.
        """
        name = outputs(self.door).model
        if self.door.file(f"jobs/{self.job.key}/model/{name}") is None:
            raise NotVerified(f"{name} of job {self.job.key} was not kept with the evidence")
        path = self.door.artefact(self.job, name)
        assert path is not None
        return path

    @property
    def splats(self) -> Any:
        """The Gaussians that it wrote."""
        from splatgate.scene.splats import read_splats

        return self.door.once(f"gpu splats {self._digest}", lambda: read_splats(self.ply))

    @property
    def _digest(self) -> str:
        return next(m.sha256 for m in self.job.members if m.path == outputs(self.door).model)

    @property
    def measured(self) -> Any:
        """The artefact in the suite's own renderer, at the views that the job reported."""
        from splatgate.scene.colmap import load_scene
        from splatgate.scene.truth import measure

        keys = self.door.profile().metrics
        views = [(v[keys.name], v[keys.width], v[keys.height]) for v in self.metrics[keys.views]]
        path = self.door.scene_of(self.job)

        def render() -> Any:
            self.door.say(f"rendering {len(views)} views of {len(self.splats.means)} Gaussians")
            return measure(self.splats, load_scene(path), views, background=keys.background)

        return self.door.once(f"gpu measured {self._digest} {views} {path}", render)


@dataclass(frozen=True)
class Floor:
    """What a scene reached before, dB: mean and deviation of single runs, and the floor."""

    mean: float
    deviation: float
    runs: int

    @property
    def psnr(self) -> float:
        """The least that a sound training reaches, in dB."""
        return self.mean - SIGMAS * self.deviation


def floor(scene: str) -> Floor:
    """The recorded baseline of a scene.

    Raises:
        NotVerified: it has none.
    """
    found = tomllib.loads(BASELINE.read_text())["scene"].get(scene)
    if found is None:
        raise NotVerified(f"no baseline of scene {scene}; measure one, see {BASELINE.name}")
    runs = found["psnr"]
    mean = sum(runs) / len(runs)
    return Floor(mean, math.sqrt(sum((x - mean) ** 2 for x in runs) / (len(runs) - 1)), len(runs))


def gpu(door: Recorded) -> Gpu:
    """The first GPU of the machine that saw."""
    if door.header.machine.gpu is None:
        raise NotVerified("no GPU on this machine; run `make test-gpu` on one")
    return Gpu(*door.header.machine.gpu.split(", ")[:4])


def mebibytes(text: str) -> int:
    """Bytes of a size as nvidia-smi prints it (``15360 MiB``)."""
    return int(text.split()[0]) * 2**20


def kernels(door: Recorded) -> dict[str, Any]:
    """What the trainer's kernels are off by on this GPU, case by case."""
    gpu(door)
    return door.kernels()


def outputs(door: Recorded) -> Outputs:
    """Where the trainer puts its files.

    Raises:
        NotVerified: its profile does not say.
    """
    found = door.profile().outputs
    if found is None:
        raise NotVerified("the subject profile has no [outputs]")
    return found


def run_of(door: Recorded) -> Run:
    """The profile's runs, for a GPU."""
    gpu(door)
    run = door.profile().run
    if run is None or not run.gpu:
        raise NotVerified("the subject profile has no [run.gpu]")
    return run


def gpu_job(door: Recorded) -> Job:
    """The whole training of the run's scene, however it ended."""
    return door.job(JobSpec("gpu", run_of(door).gpu, environment=NO_JIT, deadline=600))


def limited(door: Recorded, name: str, size: float) -> Job:
    """The whole training with ``size`` bytes of the GPU's memory, however it ended.

    Raises:
        Blocked: with all of the memory none completed.
        NotVerified: the trainer's PyTorch cannot be limited.
    """
    if (first := gpu_job(door)).status != "Completed":
        raise Blocked(TRAINS, f"job {first.key} ended {first.status}: {first.failure_reason}")
    share = f"per_process_memory_fraction:{min(1.0, size / gpu(door).bytes):.6f}"
    asked = {**NO_JIT, ALLOCATOR: share}
    job = door.job(JobSpec(name, run_of(door).gpu, environment=asked, deadline=600))
    refused = [line.text for line in job.log if "Unrecognized" in line.text]
    if job.status != "Completed" and refused:
        raise NotVerified(f"this PyTorch takes no limit from {ALLOCATOR}: {refused[-1]}")
    return job


def gpu_capped(door: Recorded) -> Job:
    """The whole training with the GPU memory of the smallest declared instance."""
    from splatgate.container.provide import instances
    from splatgate.sagemaker.instances import INSTANCES, MIB

    known = [INSTANCES[i.name].gpu_memory_mib * MIB for i in instances(door) if i.name in INSTANCES]
    if not known:
        raise NotVerified("the GPU memory of the declared instance types is not known")
    size = min(known) - GPU_RESERVED
    return gpu_job(door) if gpu(door).bytes <= size else limited(door, "gpu-capped", size)


def peak(door: Recorded) -> Callable[[str], tuple[int, int]]:
    """Bytes of GPU memory that a whole training took at most, and those reckoned before it."""

    def give(data: str) -> tuple[int, int]:
        found, keys = trained_on(door)(data).metrics, door.profile().metrics
        sizes = found.get(keys.peak_gpu), found.get(keys.gpu_needed)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise NotVerified(f"its metrics name no {keys.peak_gpu} and {keys.gpu_needed}")
        return sizes  # type: ignore[return-value]

    return give


def gpu_short(door: Recorded) -> Job:
    """The whole training with two thirds of the GPU memory that it took."""
    return limited(door, "gpu-short", peak(door)("scene")[0] * SHORT)


def gpu_starved(door: Recorded) -> Job:
    """The whole training with a tenth of the GPU memory that it took."""
    return limited(door, "gpu-starved", peak(door)("scene")[0] * STARVED)


def trained_on(door: Recorded) -> Callable[[str], Trained]:
    """A whole training of a scene: ``scene`` (the run's), ``banana``, or ``shuffled``."""

    def give(data: str) -> Trained:
        if (first := gpu_job(door)).status != "Completed":
            raise Blocked(TRAINS, f"job {first.key} ended {first.status}: {first.failure_reason}")
        spec = JobSpec("gpu", run_of(door).gpu, data, NO_JIT, deadline=600)
        job = first if data == "scene" else door.job(spec)
        model, metrics = outputs(door).model, outputs(door).metrics
        if metrics is None:
            raise NotVerified("by its profile this trainer reports no quality in a file")
        if job.status != "Completed":
            raise Blocked(TRAINS, f"job {job.key} ended {job.status}: {job.failure_reason}")
        path = door.artefact(job, metrics)
        if path is None or model not in (member.path for member in job.members):
            raise Blocked(TRAINS, f"job {job.key} left no {model} or {metrics}")
        name = door.header.scene_name or "" if data == "scene" else data
        return Trained(name, job, dict(json.loads(path.read_text())), door)

    return give


def gpu_stopped(door: Recorded) -> Job:
    """The training, stopped between two steps at its third line of progress."""
    progress = door.profile().log.progress
    if not progress:
        raise NotVerified("the subject profile names no line of progress to stop at")
    if gpu_job(door).status != "Completed":
        raise Blocked(TRAINS, "no training completed")
    return door.job(
        JobSpec("gpu-stop", run_of(door).gpu, environment=NO_JIT, stop_on=progress[0].regex)
    )


PROVIDERS: dict[str, Callable[[Recorded], Any]] = {
    function.__name__: function
    for function in (
        *(gpu, kernels, gpu_job, trained_on, gpu_stopped),
        *(gpu_capped, peak, gpu_short, gpu_starved),
    )
}


def report(text: str, where: str) -> dict[str, Any]:
    """A kernels' report from what the self-test printed.

    Raises:
        BadInput: it is none.
    """
    try:
        found = json.loads(text)
        if found["schema"] == "splatgate-trainer/kernels/1" and found["cases"]:
            return dict(found)
    except (ValueError, KeyError, TypeError):
        pass
    raise BadInput(f"{where}: no report of the kernels")
