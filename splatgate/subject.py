"""The subject profile: how to ask this trainer for a short run, and where it puts what it made
(``subject.toml``).

It describes; it relaxes nothing. Without one, what needs training is not verified.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from splatgate.evidence import BadInput, strict
from splatgate.evidence.text import pattern

SCHEMA = 2
#: Keys of schema 1 that nothing reads any more, by table.
RETIRED = {"metrics": frozenset({"train_views", "loss_first", "loss_last"})}
Dialect = Literal["hyperparameters", "environment"]


@dataclass(frozen=True)
class Run:
    """Hyperparameters of the runs that the suite asks for."""

    #: The channel that holds the scene.
    channel: str = "training"
    #: What makes the trainer run without a GPU; left out: it cannot.
    cpu: dict[str, str] | None = None
    #: Where parameters are read from, the one that wins first: ``hyperparameters`` (SageMaker's
    #: file), ``environment`` (the same names in upper case).
    read_from: tuple[Dialect, ...] = ("hyperparameters",)
    #: A few steps, with every parameter that the trainer has, none at its default; where left out,
    #: ``smoke``.
    brief: dict[str, str] = field(default_factory=dict)
    #: Parameters that contradict each other, to be refused.
    contradiction: dict[str, str] = field(default_factory=dict)
    #: Crosses every interval: log, evaluation, densification, checkpoint, export.
    smoke: dict[str, str] = field(default_factory=dict)
    #: Long enough that quality means something.
    truth: dict[str, str] = field(default_factory=dict)
    #: A few hundred steps on CUDA.
    gpu: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Effects:
    """Parameters whose effect shows in what a job leaves, by their names; None: has none."""

    #: Optimisation steps; the metric of ``log.progress`` that ends in ``step`` counts them.
    iterations: str | None = None
    #: Cap on the number of Gaussians.
    gaussians: str | None = None
    #: Longest side of the photographs, and of the views evaluated, in pixels.
    image_size: str | None = None
    #: Degree of the spherical harmonics.
    sh_degree: str | None = None
    #: The trainer's own limit of time, in minutes.
    minutes: str | None = None


@dataclass(frozen=True)
class Outputs:
    """Files in the model directory."""

    #: The .ply, at the root of the archive.
    model: str
    #: JSON of the quality reached; None: it writes none.
    metrics: str | None = None
    #: JSON of the effective parameters; None: it writes none.
    config: str | None = None
    #: Key of the effective hyperparameters in ``config``; None: they are the whole file.
    config_key: str | None = None
    #: Whether it writes checkpoints to /opt/ml/checkpoints and resumes from them.
    checkpoints: bool = False


@dataclass(frozen=True)
class Memory:
    """What a run takes, in bytes; by default the least that any trainer of 3D Gaussians takes."""

    #: The program: PyTorch loaded, and its context on the GPU.
    host: int = 500_000_000
    #: The same on the GPU.
    gpu: int = 300_000_000
    #: A pixel of every photograph on the host.
    photo_pixel: int = 3
    #: Whether photographs are kept at their full size.
    full_size: bool = False
    #: A pixel of a photograph as stored, while it is decoded.
    decoded_pixel: int = 3
    #: A Gaussian of degree 3 on the host: 59 floats.
    host_gaussian: int = 236
    #: The same on the GPU, with gradients and the optimiser's two moments.
    gpu_gaussian: int = 944
    #: A pixel of one view on the GPU: image and photograph as floats.
    gpu_pixel: int = 24
    #: Where GPU memory runs out the first time, training goes on with less.
    gives_way: bool = False
    #: A Gaussian in a checkpoint; 0: none is kept.
    checkpoint_gaussian: int = 0


@dataclass(frozen=True)
class Metrics:
    """Keys of the metrics file, and the conventions of its evaluation."""

    status: str = "status"
    #: What ``status`` holds after a training that ran to its end.
    completed: str = "completed"
    steps: str = "steps"
    psnr: str = "psnr"
    ssim: str = "ssim"
    views: str = "views"
    held_out: str = "held_out"
    gaussians: str = "gaussians"
    #: Name of the device trained on.
    device_name: str = "device_name"
    #: The whole job's seconds, as projected after some steps.
    projected: str = "projected_seconds"
    #: Bytes of GPU memory taken at most.
    peak_gpu: str = "peak_gpu_bytes"
    #: Bytes of GPU memory reckoned before training.
    gpu_needed: str = "gpu_memory_needed_bytes"
    #: Keys of one entry of ``views``.
    name: str = "name"
    width: str = "width"
    height: str = "height"
    resample: str = "lanczos"
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Metric:
    """One entry of MetricDefinitions: the first group of ``regex`` is the value."""

    name: str
    regex: str


@dataclass(frozen=True)
class Log:
    """What the trainer prints."""

    #: A pattern that the first line of a job fits.
    first_line: str = "."
    #: The numbers that progress lines hold, as MetricDefinitions.
    progress: tuple[Metric, ...] = ()
    #: Lines at which a job is stopped: ``start``, ``loading``, ``checkpoint``, ``export``.
    stops: dict[str, str] = field(default_factory=dict)

    def metric(self, ending: str) -> Metric | None:
        """The metric whose name ends in a word: ``step``, ``loss``, ``psnr``."""
        return next((m for m in self.progress if re.search(rf"\b{ending}$", m.name)), None)


@dataclass(frozen=True)
class Stage:
    """How to run one part of the trainer alone, by parameters that it has anyway."""

    #: The log line at which this part has ended: the job is stopped there. None: the job's own end.
    until: str | None = None
    #: What is asked for beside them.
    hyperparameters: dict[str, str] = field(default_factory=dict)
    #: Parameters that are given the number of steps.
    steps: tuple[str, ...] = ()
    #: Starts from the checkpoints that stage ``train`` left.
    resumes: bool = False


@dataclass(frozen=True)
class Stages:
    """The parts of the trainer that can be run alone; None: this one cannot."""

    load: Stage | None = None
    train: Stage | None = None
    export: Stage | None = None


@dataclass(frozen=True)
class Profile:
    """A subject profile."""

    #: The form of this file.
    schema: int
    #: The trainer, as reports name it.
    name: str
    #: Where the entry point's script is, if ENTRYPOINT does not say.
    entry_script: str | None = None
    #: The folder of the trainer's own code.
    source: str | None = None
    #: A script below ``source`` that compares the kernels with their reference on a GPU.
    selftest: str | None = None
    run: Run | None = None
    outputs: Outputs | None = None
    effects: Effects = Effects()
    memory: Memory = Memory()
    metrics: Metrics = Metrics()
    log: Log = Log()
    stages: Stages = Stages()
    #: Stable words that a failure text of each class must hold.
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """What a reader of this profile must know, or ""."""
        if self.schema == SCHEMA:
            return ""
        return f"subject profile of schema {self.schema}, read as that; the current one is {SCHEMA}"


@cache
def parse(text: str, where: str) -> Profile:
    """Read a subject profile, each by its own schema.

    Raises:
        BadInput: broken TOML, a field that does not fit, a key that nothing reads, a schema that
            is not known; names ``where`` and the field.
    """
    hint = "; docs/subject-profile.md lists every key"
    profile = strict.parse(text, Profile, where, retired=RETIRED, hint=hint)
    if profile.schema not in (1, SCHEMA):
        raise BadInput(f"{where}: schema {profile.schema}; this version reads 1 and {SCHEMA}")
    log, stages = profile.log, profile.stages
    parts = (part for part in (stages.load, stages.train, stages.export) if part and part.until)
    for expression in (
        log.first_line,
        *(metric.regex for metric in log.progress),
        *log.stops.values(),
        *(str(part.until) for part in parts),
    ):
        try:
            pattern(expression)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
    if profile.schema == SCHEMA:
        strict.parse(text, Profile, where, hint=hint)
    return profile
