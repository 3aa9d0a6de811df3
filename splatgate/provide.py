"""What checks take, by name: evidence as objects, each a function of the door it comes through.

pytest hands them out as fixtures (``splatgate.fixtures``); the mutants of evidence are judged with
the same functions and no pytest (``splatgate.proof.mutants``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splatgate import gpu
from splatgate.container.lock import Pin
from splatgate.container.lock import read as read_lock
from splatgate.doors import JobSpec, Recorded
from splatgate.evidence import BadInput, Compression, Facts, Files, Image, Job
from splatgate.facts import INSTANCE_TYPES, READ_BACK
from splatgate.outcomes import Blocked, NotVerified
from splatgate.subject import Profile, Run

#: The check whose failure explains why no artefact of a training job can be judged.
TRAINS = "test_trains_with_no_network"
#: The check whose failure explains why no splats can be judged.
PLY = "test_archive_holds_one_ply_at_its_root"
#: The check whose failure explains why no compressed model can be judged.
COMPRESSES = "test_compressor_reads_the_artefact"


def image(door: Recorded) -> Image:
    """The image under judgement."""
    return door.image()


def build(door: Recorded) -> dict[str, Any]:
    """The record of the build that made the image."""
    return door.build()


def build_log(door: Recorded) -> str:
    """The log of the build that made the image."""
    path = door.file("build.log")
    if path is None:
        raise NotVerified("no build log at hand: build here, or keep it as build.log")
    return path.read_text(errors="replace")


def lock(door: Recorded) -> tuple[Pin, ...]:
    """The requirements that the image was locked to, of all its locks together."""
    names = sorted(path.name for path in (door.folder / "lock").glob("*.txt"))
    paths = [path for name in names if (path := door.file(f"lock/{name}"))]
    texts = [path.read_text() for path in paths]
    if not texts:
        raise NotVerified(
            "the lock is not at hand: known for an image built here, from its sources"
        )
    return tuple(pin for text in texts for pin in read_lock(text))


def files(door: Recorded) -> Files:
    """What the probe saw of the image's whole file system."""
    seen = door.facts().files
    if seen is None:
        raise NotVerified("recorded before the probe looked at all files; record it anew")
    return seen


def sbom(door: Recorded) -> dict[str, Any]:
    """The bill of materials emitted beside the evidence."""
    door.facts()
    return door.sbom()


def host(door: Recorded) -> Any:
    """testinfra's host, bound to the container under test."""
    return door.host()


def facts(door: Recorded) -> Facts:
    """What the probe saw inside the container under test."""
    return door.facts()


def instances(door: Recorded) -> tuple[Any, ...]:
    """The instance types of the job definition."""
    from splatgate.sagemaker.instances import INSTANCES

    return tuple(INSTANCES[name] for name in INSTANCE_TYPES)


def profile(door: Recorded) -> Profile:
    """How to ask this trainer for a short run."""
    return door.profile()


def cpu_run(door: Recorded) -> Run:
    """The profile's runs, for a trainer that can train without a GPU."""
    run = door.profile().run
    if run is None or run.cpu is None:
        raise NotVerified("the subject profile has no [run] for a machine without a GPU")
    return run


def run_job(door: Recorded) -> Callable[[JobSpec], Job]:
    """Run one training job as SageMaker would; equal jobs run once."""
    return door.job


def brief(door: Recorded) -> dict[str, str]:
    """Hyperparameters of a job of a few steps."""
    run = cpu_run(door)
    return {**(run.brief or run.smoke), **(run.cpu or {})}


def smoke(door: Recorded) -> Job:
    """The smoke job, however it ended: short, but across every interval."""
    run = cpu_run(door)
    return door.job(JobSpec("smoke", {**run.smoke, **(run.cpu or {})}))


def trained(door: Recorded) -> Job:
    """The smoke job, completed."""
    return completed(smoke(door))


def truth(door: Recorded) -> Job:
    """The truth job, completed: long enough that quality means something."""
    trained(door)
    run = cpu_run(door)
    return completed(door.job(JobSpec("truth", {**run.truth, **(run.cpu or {})})))


def stopped(door: Recorded) -> Job:
    """The smoke job, stopped in the middle of training."""
    run = cpu_run(door)
    trained(door)
    return door.job(stop_spec(door.profile(), run))


def resumed(door: Recorded) -> Job:
    """The stopped job again, with the checkpoints that it left."""
    run = cpu_run(door)
    stopped(door)
    first = stop_spec(door.profile(), run)
    return door.job(JobSpec("resumed", first.hyperparameters, resumes=first))


def stop_spec(profile: Profile, run: Run) -> JobSpec:
    """The job that is stopped: the smoke job, at its third line of progress."""
    if not profile.log.progress:
        raise NotVerified("the subject profile names no line of progress to stop at")
    asked = {**run.smoke, **(run.cpu or {})}
    return JobSpec("stop", asked, stop_on=profile.log.progress[0].regex)


def reported(door: Recorded) -> dict[str, Any]:
    """The metrics file of the truth job."""
    job = truth(door)
    name = door.profile().outputs.metrics
    path = door.artefact(job, name)
    if path is None:
        raise NotVerified(f"job {job.key} wrote no {name}")
    return dict(json.loads(path.read_text()))


def scene(door: Recorded) -> Any:
    """The COLMAP model that the jobs were given."""
    from splatgate.scene.colmap import load_scene

    path = door.scene()
    return door.once(f"scene {path}", lambda: load_scene(path))


def splats(door: Recorded) -> Any:
    """The Gaussians that the truth job wrote."""
    from splatgate.scene.splats import read_splats

    job = truth(door)
    path = model_file(door, job)
    if path is None:
        raise Blocked(PLY, f"job {job.key} left no .ply")
    return door.once(f"splats {digest(job, path.name)}", lambda: read_splats(path))


def measured(door: Recorded) -> Any:
    """The truth job's artefact in the suite's own renderer, at the views that the job reported."""
    from splatgate.scene.truth import measure

    keys = door.profile().metrics
    views = [(v[keys.name], v[keys.width], v[keys.height]) for v in reported(door)[keys.views]]
    found, known, job = splats(door), scene(door), truth(door)

    def render() -> Any:
        door.say(f"rendering {len(views)} held-out views of {len(found.means)} Gaussians")
        return measure(found, known, views, background=keys.background)

    made_of = digest(job, door.profile().outputs.model)
    return door.once(f"measured {made_of} {views} {keys.background} {known.path}", render)


def compressed(door: Recorded) -> Compression:
    """What the compression stage's tool made of the truth job's model."""
    return door.compressed(truth(door))


def round_trip(door: Recorded) -> Any:
    """The truth job's Gaussians after compression, and their PSNR at the views that it reported."""
    from splatgate.sagemaker.compression import ROUND_TRIP
    from splatgate.scene.splats import read_splats
    from splatgate.scene.truth import mean_psnr

    job = truth(door)
    found = door.compressed(job)
    names = (f".{READ_BACK}", ROUND_TRIP)
    if bad := [r for r in found.runs if r.exit and r.target.endswith(names)]:
        raise Blocked(COMPRESSES, f"nothing to read back: {bad[0].stderr}")
    path = door.file(f"jobs/{job.key}/compressed/{ROUND_TRIP}")
    if path is None:
        raise Blocked(COMPRESSES, f"no {ROUND_TRIP} to read back")
    recorded = next((m.sha256 for m in found.files if m.path == ROUND_TRIP), "none")
    if hashlib.sha256(path.read_bytes()).hexdigest() != recorded:
        raise BadInput(f"{path}: not the file that compressed.json speaks of; record it anew")
    keys = door.profile().metrics
    views = [(v[keys.name], v[keys.width], v[keys.height]) for v in reported(door)[keys.views]]
    restored = read_splats(path, any_order=True)
    known = scene(door)
    value = door.once(
        f"round trip {recorded} {views} {keys.background} {known.path}",
        lambda: mean_psnr(restored, known, views, keys.background),
    )
    return restored, value


PROVIDERS: dict[str, Callable[[Recorded], Any]] = gpu.PROVIDERS | {
    function.__name__: function
    for function in (
        image, build, build_log, lock, host, facts, files, sbom, instances, profile, cpu_run,
        run_job, brief, smoke, trained, truth, stopped, resumed,
        reported, scene, splats, measured, compressed, round_trip,
    )
}  # fmt: skip


def completed(job: Job) -> Job:
    """A job that trained to its end.

    Raises:
        Blocked: it did not.
    """
    if job.status != "Completed":
        raise Blocked(TRAINS, f"job {job.key} ended {job.status}: {job.failure_reason}")
    return job


def digest(job: Job, name: str) -> str:
    """Content hash of a member of a job's archive, by which its evidence is known."""
    return next(m.sha256 for m in job.members if m.path == name)


def model_file(door: Recorded, job: Job) -> Path | None:
    """The .ply of a job, where the profile says that it is."""
    return door.artefact(job, door.profile().outputs.model)
