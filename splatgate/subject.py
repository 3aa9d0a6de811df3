"""The subject profile: how to ask this trainer for a short run, and where it puts what it made
(``subject.toml``).

It describes; it relaxes nothing. Without one, what needs training is not verified.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache

import msgspec

from splatgate.evidence import BadInput


@dataclass(frozen=True)
class Run:
    """Hyperparameters of the runs that the suite asks for. ``cpu`` None: cannot train without a
    GPU.
    """

    channel: str = "training"
    cpu: dict[str, str] | None = None
    #: A few steps, for checks of what comes before and after training; where left out, ``smoke``.
    brief: dict[str, str] = field(default_factory=dict)
    #: Crosses every interval: log, evaluation, densification, checkpoint, export.
    smoke: dict[str, str] = field(default_factory=dict)
    #: Long enough that quality means something.
    truth: dict[str, str] = field(default_factory=dict)
    #: A few hundred steps on CUDA.
    gpu: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """Files in the model directory."""

    model: str = "point_cloud.ply"
    metrics: str = "metrics.json"
    config: str = "training_config.json"
    #: Key of the effective hyperparameters in ``config``; None: they are the whole file.
    config_key: str | None = None
    checkpoints: bool = False


@dataclass(frozen=True)
class Metrics:
    """Keys of the metrics file, and the conventions of its evaluation."""

    psnr: str = "psnr"
    ssim: str = "ssim"
    views: str = "views"
    held_out: str = "held_out"
    gaussians: str = "gaussians"
    #: Keys of one entry of ``views``.
    #: Name of the device trained on, and the whole job's seconds as projected after some steps.
    device_name: str = "device_name"
    projected: str = "projected_seconds"
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

    first_line: str = "."
    progress: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class Profile:
    """A subject profile."""

    schema: int
    name: str
    entry_script: str | None = None
    source: str | None = None
    #: A script below ``source`` that compares the kernels with their reference on a GPU.
    selftest: str | None = None
    run: Run | None = None
    outputs: Outputs = Outputs()
    metrics: Metrics = Metrics()
    log: Log = Log()
    #: Stable words that a failure text of each class must hold.
    errors: dict[str, str] = field(default_factory=dict)


@cache
def parse(text: str, where: str) -> Profile:
    """Read a subject profile.

    Raises:
        BadInput: broken TOML or a field that does not fit; names ``where`` and the field.
    """
    try:
        return msgspec.convert(tomllib.loads(text), Profile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadInput(f"{where}: {error}; see image/subject.toml for an example") from None
