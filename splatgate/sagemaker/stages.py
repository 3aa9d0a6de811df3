"""One part of a trainer alone: load the scene, train some steps, export.

How a trainer is asked for that stands in its subject profile (``[stages]``).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splatgate import subject
from splatgate.container.image import LABEL_SUBJECT
from splatgate.container.sweep import discard
from splatgate.evidence import BadInput, Job
from splatgate.evidence.text import pattern
from splatgate.sagemaker.guards import engine_errors
from splatgate.sagemaker.limits import has_gpu
from splatgate.sagemaker.request import Request, parse, smoke_request
from splatgate.subject import Profile, Stage

NAMES = ("load", "train", "export")


@dataclass(frozen=True)
class Staged:
    """What became of a stage. ``seconds`` counts from the container's start."""

    name: str
    done: bool
    seconds: float | None


def profile(client: Any, image_id: str, file: str | None, labels: Mapping[str, str]) -> Profile:
    """The subject profile: of ``file``, or the one that the image's label names.

    Raises:
        BadInput: there is none, or it is broken.
    """
    if file is not None:
        try:
            return subject.parse(Path(file).read_text(), file)
        except OSError as error:
            raise BadInput(f"--subject {file}: {error.strerror}; give a subject profile") from None
    with engine_errors():
        path = (client.images.get(image_id).labels or {}).get(LABEL_SUBJECT)
        if not path:
            raise BadInput("the image names no subject profile; give --subject FILE")
        shell = client.containers.create(image_id, entrypoint=["/never-started"], labels=labels)
        try:
            chunks, _ = shell.get_archive(path)
            data = io.BytesIO(b"".join(chunks))
        finally:
            discard(shell)
    with tarfile.open(fileobj=data) as tar:
        text = tar.extractfile(tar.getmembers()[0])
        return subject.parse(text.read().decode() if text else "", path)


def stage_of(found: Profile, name: str, checkpoints: str | None) -> Stage:
    """How this trainer runs one stage alone.

    Raises:
        BadInput: it cannot, or what the stage starts from is missing.
    """
    stage: Stage | None = getattr(found.stages, name)
    if stage is None:
        raise BadInput(f"--stage {name}: the subject profile of {found.name} has no such stage")
    if stage.resumes and checkpoints is None:
        raise BadInput(
            f"--stage {name}: starts from the checkpoints of stage train; run that with "
            f"--keep DIR and the same --steps, then give --checkpoints DIR/checkpoints"
        )
    return stage


def request_for(
    client: Any, found: Profile, stage: Stage, steps: int, base: Request | None
) -> Request:
    """The request of a stage: ``base``, or the profile's brief run, asked for that stage alone.

    On an engine without a GPU the profile's way to do without one is added.
    """
    run = found.run or subject.Run()
    given = dict(base.hyperparameters) if base else dict(run.brief or run.smoke)
    given |= {} if has_gpu(client.info()) else (run.cpu or {})
    given |= {**stage.hyperparameters, **dict.fromkeys(stage.steps, str(steps))}
    raw = (base or smoke_request(name="splatgate-stage", channel=run.channel)).raw
    return parse({**raw, "HyperParameters": given}, "request of the stage")


def outcome(name: str, stage: Stage, job: Job) -> Staged:
    """Whether a stage came to its end, and when."""
    if stage.until is None:
        done = job.status == "Completed"
        return Staged(name, done, job.phases.get("Training") if done else None)
    until = pattern(stage.until)
    reached = next((line.seconds for line in job.log if until.search(line.text)), None)
    return Staged(name, reached is not None, reached)
