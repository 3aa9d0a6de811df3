"""What checks take, by name: evidence as objects, each a function of the door it comes through.

pytest hands them out as fixtures (``splatgate.fixtures``); the mutants of evidence are judged with
the same functions and no pytest (``splatgate.proof.mutants``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from splatgate import gpu
from splatgate.container import audit, cleanlog, dockerfile
from splatgate.container import provide as look
from splatgate.container.provide import build_log
from splatgate.doors import JobSpec, Recorded
from splatgate.evidence import (
    BadInput,
    Compression,
    Job,
    to_json,
)
from splatgate.facts import (
    CANARY,
    INJECTED,
    LEAST_ROOM,
    MODEL_GAUSSIAN,
    READ_BACK,
    SHUFFLED_SIDE,
)
from splatgate.outcomes import Blocked, NotVerified
from splatgate.pipeline.judge import Verdict
from splatgate.subject import Outputs, Profile, Run

#: The check whose failure explains why no artefact of a training job can be judged.
TRAINS = "test_trains_with_no_network"
#: The check whose failure explains why no splats can be judged.
PLY = "test_archive_holds_one_ply_at_its_root"
#: The check whose failure explains why a .ply cannot be read.
LAYOUT = "test_ply_has_the_inria_layout"
#: The check whose failure explains why no compressed model can be judged.
COMPRESSES = "test_compressor_reads_the_artefact"


def request_given(door: Recorded) -> Any:
    """The CreateTrainingJob request that jobs start from."""
    return door.base_request()


def request_meant(door: Recorded) -> Any:
    """The request that production would send: given with --request, else the state machine's."""
    from splatgate.sagemaker.request import parse

    if door.request_file:
        return door.base_request()
    return parse(training_state(door), "the state machine's training request")


def recipe(door: Recorded) -> list[dockerfile.Instruction]:
    """The instructions that made the image: its Dockerfile, else the commands in the build's
    log.
    """
    path = door.file("Dockerfile")
    if path is not None:
        found = dockerfile.read(path.read_text())
        if not found:
            raise NotVerified("the Dockerfile at hand holds no instruction")
        return found
    found = [dockerfile.Instruction("RUN", text) for text in cleanlog.commands(build_log(door))]
    if not found:
        raise NotVerified("no Dockerfile at hand, and the build log names no command")
    return found


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
    """Parameters of a job of a few steps."""
    run = cpu_run(door)
    return {**(run.brief or run.smoke), **(run.cpu or {})}


def spec(run: Run, name: str, asked: dict[str, str], **more: Any) -> JobSpec:
    """A job with some parameters, given where the trainer reads them."""
    if "hyperparameters" in run.read_from:
        return JobSpec(name, asked, **more)
    environment = {key.upper(): value for key, value in asked.items()}
    return JobSpec(name, environment=environment, **more)


def smoke(door: Recorded) -> Job:
    """The smoke job, however it ended: short, but across every interval."""
    run = cpu_run(door)
    return door.job(spec(run, "smoke", {**run.smoke, **(run.cpu or {})}))


def dialect(door: Recorded) -> Job:
    """The brief job, its parameters encoded as JSON beside keys of the SDK's own."""
    run = cpu_run(door)
    if "hyperparameters" not in run.read_from:
        raise NotVerified("by its profile this trainer reads no hyperparameters.json")
    encoded = {name: json.dumps(value) for name, value in {**brief(door), **INJECTED}.items()}
    return door.job(JobSpec("dialect", encoded, trains=False, deadline=300))


def by_environment(door: Recorded) -> Job:
    """The brief job, its parameters in the environment beside a secret, with no
    hyperparameters.json.
    """
    run = cpu_run(door)
    if "environment" not in run.read_from:
        raise NotVerified("by its profile this trainer reads no parameters from the environment")
    environment = {key.upper(): value for key, value in brief(door).items()} | CANARY
    return door.job(JobSpec("environment", environment=environment, no_file=True, deadline=300))


def audited(door: Recorded) -> tuple[audit.Event, ...]:
    """What the interpreter reached for in a job of a few steps, by its own audit events."""
    trained(door)
    own = {**door.image().env, **door.base_request().environment}.get("PYTHONPATH")
    path = ":".join(filter(None, (audit.PYTHONPATH, own)))
    asked = spec(cpu_run(door), "audited", brief(door), data="audited", deadline=300)
    job = door.job(replace(asked, environment={**asked.environment, "PYTHONPATH": path}))
    if job.status != "Completed":
        raise NotVerified(f"instrumented, job {job.key} ended {job.status}: {job.failure_reason}")
    return audit.read(line.text for line in job.log)


def full_disk(door: Recorded) -> Job:
    """The brief job without its cap on Gaussians, on a disk with room for half of its model."""
    trained(door)
    run, cap = cpu_run(door), door.profile().effects.gaussians
    asked = {name: value for name, value in brief(door).items() if name != cap}
    room = max(len(scene(door).points_xyz) * MODEL_GAUSSIAN // 2, LEAST_ROOM)
    job = door.job(spec(run, "full-disk", asked, room=room, deadline=300))
    if job.limits_applied.disk_bytes is None:
        notes = [note for note in job.unverified if note.startswith("limits: disk")]
        raise NotVerified("".join(notes[:1]) or "the disk was not limited")
    return job


def trained(door: Recorded) -> Job:
    """The smoke job, completed."""
    return completed(smoke(door))


def truth(door: Recorded) -> Job:
    """The truth job, completed: long enough that quality means something."""
    trained(door)
    run = cpu_run(door)
    return completed(door.job(spec(run, "truth", {**run.truth, **(run.cpu or {})})))


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
    return door.job(replace(first, name="resumed", stop_on=None, resumes=first))


def stop_spec(profile: Profile, run: Run) -> JobSpec:
    """The job that is stopped: the smoke job, at its third line of progress."""
    if not profile.log.progress:
        raise NotVerified("the subject profile names no line of progress to stop at")
    asked = {**run.smoke, **(run.cpu or {})}
    return spec(run, "stop", asked, stop_on=profile.log.progress[0].regex)


def reported(door: Recorded) -> dict[str, Any]:
    """The metrics file of the truth job."""
    job = truth(door)
    name = outputs(door.profile()).metrics
    if name is None:
        raise NotVerified("by its profile this trainer reports no quality in a file")
    path = door.artefact(job, name)
    if path is None:
        raise NotVerified(f"job {job.key} wrote no {name}")
    return dict(json.loads(path.read_text()))


def scene(door: Recorded) -> Any:
    """The COLMAP model that the jobs were given."""
    from splatgate.scene.archive import kept
    from splatgate.scene.colmap import load_scene

    path = door.scene()
    return door.once(f"scene {path}", lambda: load_scene(kept(path)))


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

    made_of = digest(job, outputs(door.profile()).model)
    return door.once(f"measured {made_of} {views} {keys.background} {known.path}", render)


def shuffled(door: Recorded) -> Any:
    """The smoke job's artefact where each photograph has another's name, measured on the scene."""
    from splatgate.scene.splats import check_layout, read_splats
    from splatgate.scene.truth import held_out_sizes, measure

    run, known, keys = cpu_run(door), scene(door), door.profile().metrics
    asked = {**run.smoke, **(run.cpu or {})}
    job = door.job(spec(run, "shuffled", asked, data="shuffled"))
    if job.status == "Failed":
        raise NotVerified(f"this trainer refuses shuffled photographs: {job.failure_reason}")
    path = model_file(door, completed(job))
    if path is None:
        raise Blocked(PLY, f"job {job.key} left no .ply")
    if problems := check_layout(path):
        raise Blocked(LAYOUT, problems[0])
    sizes = held_out_sizes(known, SHUFFLED_SIDE)
    return door.once(
        f"shuffled {digest(job, path.name)} {sizes} {keys.background} {known.path}",
        lambda: measure(read_splats(path), known, sizes, background=keys.background),
    )


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


def pipeline(door: Recorded) -> Verdict:
    """The state machine, judged."""
    from splatgate.pipeline.judge import judge

    seen = door.pipeline()
    known = hashlib.sha256(to_json(seen)).hexdigest()
    return door.once(f"pipeline {known}", lambda: judge(seen, door.say))


def contracts(door: Recorded) -> dict[str, Any]:
    """What each hand-over between stages holds, by name."""
    found = door.pipeline().contracts
    if missing := sorted({"scene", "model"} - found.keys()):
        raise NotVerified(f"no contract {missing[0]} beside the definition (contracts/*.json)")
    return found


def training_state(door: Recorded) -> dict[str, Any]:
    """The request of the state machine's first training job, as it is rendered."""
    verdict = pipeline(door)
    found = [r for r in verdict.requests if r.kind == "training"]
    if not found:
        raise NotVerified("the state machine renders no training request")
    if gaps := [g for g in verdict.unknown("request") if g.state in ("", found[0].state)]:
        raise NotVerified(gaps[0].reason)
    return found[0].request


def readings(door: Recorded) -> Any:
    """PSNR over some training photographs, by reading of the truth job's .ply."""
    from splatgate.scene.readings import compare

    found, known, keys = splats(door), scene(door), door.profile().metrics
    made_of = digest(truth(door), outputs(door.profile()).model)
    return door.once(
        f"readings {made_of} {keys.background} {known.path}",
        lambda: compare(found, known, keys.background),
    )


PROVIDERS: dict[str, Callable[[Recorded], Any]] = look.PROVIDERS | gpu.PROVIDERS | {
    function.__name__: function
    for function in (
        request_given, request_meant, recipe, profile, cpu_run,
        run_job, brief, smoke, dialect, by_environment, audited, full_disk, trained, truth, stopped,
        resumed, reported, scene, splats, measured, shuffled, compressed, round_trip, readings,
        pipeline,
        contracts, training_state,
    )
}  # fmt: skip


def outputs(found: Profile) -> Outputs:
    """Where a trainer puts its files.

    Raises:
        NotVerified: its profile does not say.
    """
    if found.outputs is None:
        raise NotVerified("the subject profile has no [outputs]")
    return found.outputs


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
    return door.artefact(job, outputs(door.profile()).model)
