"""The door of a run, and its orderly end: the engine swept, the evidence published."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splatgate.container import sweep
from splatgate.container.image import LABEL_ARCHS, LABEL_FLOOR
from splatgate.evidence import BadInput, Header, Image, Job, Machine, Registry, T, read
from splatgate.record import ImageFacts, JobFacts, Leftovers
from splatgate.sources import recorded as doors
from splatgate.sources.process import SOURCE, Process
from splatgate.sources.run import Run


@dataclass(frozen=True)
class Seen:
    """What a run saw, for its record."""

    image: ImageFacts
    machine: Machine
    jobs: tuple[JobFacts, ...]
    timings: dict[str, float]
    leftovers: Leftovers
    #: When the evidence was collected, and where it lies now.
    created: str
    folder: Path


def close(run: Run, out: Path, *, interrupted: bool = False) -> Seen:
    """End a run: remove what it left in the engine, publish its evidence in ``out``, and say what
    it saw.
    """
    leftovers = Leftovers()
    if run.door == "live" and (run.folder / "engine").exists():
        from splatgate.container import engine

        try:
            client = engine.client()
            sweep.sweep(client, run.id)
            left = sweep.leftovers(client, run.id)
            leftovers = Leftovers(**{kind: tuple(names) for kind, names in left.items()})
        except (engine.EngineError, OSError) as error:
            # The engine ended under the run; what was seen of the image is worth a record.
            leftovers = Leftovers(containers=(f"not known: {error}",))
    if interrupted and run.door != "recorded":
        # Half-written jobs: their worker was ended before it could tidy up.
        for path in run.folder.glob("jobs/.*"):
            shutil.rmtree(path, ignore_errors=True)
    seen = look_back(run.folder, run.image if run.door in ("live", "layers") else None, leftovers)
    if run.door != "recorded" and (run.folder / "timings.jsonl").exists():
        for line in (run.folder / "timings.jsonl").read_text().splitlines():
            seen.timings.update(json.loads(line))
    if run.door != "recorded" and (run.folder / "evidence.json").exists():
        for name in (
            "engine",
            "container.id",
            "timings.jsonl",
            *(p.name for p in run.folder.glob("*.error")),
        ):
            (run.folder / name).unlink(missing_ok=True)
        for lock in run.folder.rglob("*.lock"):
            lock.unlink()
        # Made for the jobs alone: large, and no evidence.
        for path in (run.folder / "channels", *run.folder.glob("jobs/*/checkpoints")):
            shutil.rmtree(path, ignore_errors=True)
        target = out / "evidence"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        run.folder.rename(target)
        seen = replace(seen, folder=target)
    return seen


def _legible(path: Path, kind: type[T]) -> T | None:
    """A record, or None: what is missing or damaged, the checks that need it have said."""
    try:
        return read(path, kind)
    except BadInput:
        return None


def _served(folder: Path) -> str | None:
    """Digest of the manifest by which a registry serves the image judged."""
    image = _legible(folder / "image.json", Image)
    seen = _legible(folder / "registry.json", Registry)
    found = seen.image.served if seen else None
    return found.digest if found and image and found.image_id == image.image_id else None


def look_back(folder: Path, ref: str | None = None, leftovers: Leftovers | None = None) -> Seen:
    """What a folder of evidence says of image, machine and jobs; empty where a run never got so
    far.
    """
    image = ImageFacts(ref=ref)
    machine, created = Machine(), ""
    if header := _legible(folder / "evidence.json", Header):
        kernels = _legible(folder / "gpu" / "kernels.json", dict) or {}
        cuda, runtime = kernels.get("cuda"), header.extra.get("runtime")
        machine = replace(header.machine, cuda=cuda, runtime=runtime)
        source = header.extra.get(SOURCE)
        image = replace(image, image_id=header.image_id, source_sha256=source)
        created = header.created
    if found := _legible(folder / "image.json", Image):
        image = ImageFacts(
            ref=found.ref,
            image_id=found.image_id,
            manifest_digest=found.manifest_digest,
            archs=tuple(a for a in found.labels.get(LABEL_ARCHS, "").split(";") if a),
            driver_floor=found.labels.get(LABEL_FLOOR),
            bytes=found.bytes,
        )
    if served := _served(folder):
        image = replace(image, manifest_digest=served)
    records = (_legible(path, Job) for path in sorted(folder.glob("jobs/*/job.json")))
    jobs = [job for job in records if job]
    hidden = (p.relative_to(folder) for p in folder.rglob(".*"))
    # A channel's own hidden files are the scene's; any other is one half written.
    partial = sorted(str(p) for p in hidden if p.parts[0] != "channels") if jobs else []
    return Seen(
        image=image,
        machine=machine,
        jobs=tuple(
            JobFacts(
                j.key,
                j.status,
                j.exit,
                round(sum(j.phases.values()), 1),
                sum(member.bytes for member in j.members),
            )
            for j in jobs
        ),
        timings={},
        leftovers=replace(leftovers or Leftovers(), files=tuple(partial)),
        created=created,
        folder=folder,
    )


def open_door(run: Run, say: Any) -> doors.Recorded:
    """The door of a run.

    Raises:
        BadInput: no image to look at, or the folder holds no evidence.
    """
    door = _door(run, say)
    door.options["instance_types"] = run.instance_types
    return door


def _door(run: Run, say: Any) -> doors.Recorded:
    if run.door == "recorded":
        return doors.Recorded(
            run.folder, run.scene, run.request, say, run.pipeline, run.pipeline_input
        )
    if run.door == "process":
        return Process(run, say)
    if run.account is not None:
        from splatgate.sources.account import Account

        return Account(run, run.account, say)
    if run.door == "layers":
        from splatgate.sources.layers import Layers

        return Layers(run, say)
    # The live door needs the docker SDK, which a GPU machine may lack.
    from splatgate.sources.docker import Live

    return Live(run, say)
