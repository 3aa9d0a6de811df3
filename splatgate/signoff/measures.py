"""What was measured, as plain numbers: read from the evidence of a run, and judged by nobody here.

The page draws them, a policy may bound them, and the next sign-off is compared with them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from splatgate.container import cuda
from splatgate.evidence import BadInput, Compression, Contents, Facts, Image, Job, T, read
from splatgate.evidence.text import pattern
from splatgate.instances import INSTANCES
from splatgate.sources.recorded import CONTENTS
from splatgate.subject import Profile, parse

#: Each measure: its unit, whether more is better (None: neither), and what it is.
MEASURES: dict[str, tuple[str, bool | None, str]] = {
    "image.bytes": ("bytes", False, "Size of the image, unpacked"),
    "truth.psnr": ("dB", True, "Held-out PSNR"),
    "truth.ssim": ("", True, "Held-out SSIM"),
    "truth.gaussians": ("count", None, "Gaussians in the model"),
    "truth.seconds": ("s", False, "Training job, all phases"),
    "truth.steps_per_second": ("1/s", True, "Training speed, last interval"),
    "truth.peak_rss_bytes": ("bytes", False, "Peak memory of the trainer"),
    "smoke.seconds": ("s", False, "Smoke job, all phases"),
    "gpu.psnr": ("dB", True, "Held-out PSNR on the GPU"),
    "gpu.gaussians": ("count", None, "Gaussians in the model trained on the GPU"),
    "gpu.seconds": ("s", False, "Training job on the GPU"),
    "gpu.projected_seconds": ("s", False, "Whole job, as the trainer projects it on the GPU"),
    "gpu.steps_per_second": ("1/s", True, "Training speed on the GPU, last interval"),
    "gpu.peak_rss_bytes": ("bytes", False, "Peak memory of the trainer on the GPU"),
    "compressed.bytes": ("bytes", False, "Smallest compressed model"),
}
#: Points of a curve that the page draws; more would not be seen.
POINTS = 240
#: Name of the curve that is made of the speed: milliseconds a step.
STEP_TIME = "step milliseconds"


@dataclass(frozen=True)
class Curve:
    """Values of one job's log over its steps. ``name`` as the subject profile calls it."""

    job: str
    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """A training job: how it ended, the seconds of each phase, and the seconds it may take."""

    key: str
    status: str
    exit: int | None
    phases: dict[str, float]
    #: All phases together.
    seconds: float
    #: MaxRuntimeInSeconds of its request.
    budget: float | None
    #: Memory of the instance, applied as a limit, and the trainer's peak where it reports one.
    memory: int | None = None
    peak: int | None = None
    origin: str = "emulated"
    #: Ran in the process runtime, outside the image.
    supporting: bool = False


@dataclass(frozen=True)
class Target:
    """Whether the image holds machine code for the GPUs of some instance families."""

    instance: str
    gpu: str
    #: Compute capability as the number in ``sm_XY``.
    sm: int
    #: The image must hold code for it.
    declared: bool
    #: By library: whether a cubin of it runs there.
    libraries: dict[str, bool]


@dataclass(frozen=True)
class View:
    """One held-out view: PSNR in dB and SSIM, as the job reported them."""

    name: str
    width: int
    height: int
    psnr: float
    ssim: float
    #: Key of that job.
    job: str = ""


@dataclass(frozen=True)
class Measured:
    """All that one or more folders of evidence measured."""

    values: dict[str, float] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    steps: tuple[Step, ...] = ()
    targets: tuple[Target, ...] = ()
    views: tuple[View, ...] = ()
    layers: tuple[dict[str, Any], ...] = ()
    #: Version of each installed package, Python's and the distribution's.
    packages: dict[str, str] = field(default_factory=dict)
    scene: str | None = None


def legible(path: Path, kind: type[T]) -> T | None:
    """A record, or None: damaged evidence has been refused before, missing is not measured."""
    try:
        return read(path, kind)
    except BadInput:
        return None


def measure(folder: Path, supporting: bool = False) -> Measured:
    """Measure one folder of evidence. What is not there is not measured, and no error.

    Of what is ``supporting`` only, curves and times are shown; no value is bound or compared.
    """
    values: dict[str, float] = {}
    image = legible(folder / "image.json", Image)
    facts: Contents | None = legible(folder / "container" / "facts.json", Facts)
    facts = facts or legible(folder / CONTENTS, Contents)
    if image:
        values["image.bytes"] = image.bytes
    profile = profile_of(folder, facts)
    curves: list[Curve] = []
    steps: list[Step] = []
    views: list[View] = []
    declared: set[str] = set()
    for path in sorted(folder.glob("jobs/*/job.json")):
        job = legible(path, Job)
        if job is None:
            continue
        declared.add((job.request.get("ResourceConfig") or {}).get("InstanceType", ""))
        metrics = metrics_of(path.parent, profile)
        steps.append(step(job, metrics, supporting))
        name = job.key.rpartition("-")[0]
        if name in ("truth", "gpu", "smoke"):
            seconds = sum(job.phases.values())
            values |= {f"{name}.seconds": seconds} if job.status == "Completed" else {}
        if name in ("truth", "gpu"):
            found = list(curves_of(job, profile))
            curves += found
            values |= quality(name, metrics, found, profile)
            views += views_of(job.key, metrics, profile)
        made = legible(path.parent / "compressed.json", Compression)
        if made and (sizes := [f.bytes for f in made.files if not f.path.endswith("trip.ply")]):
            values["compressed.bytes"] = min(sizes)
    return Measured(
        values={} if supporting else values,
        curves=tuple(curves),
        steps=tuple(steps),
        targets=targets(facts, declared) if facts else (),
        views=tuple(views),
        layers=tuple({"created_by": x.created_by, "bytes": x.bytes} for x in image.layers)
        if image
        else (),
        packages={
            **{d.name: d.version for d in (facts.distributions if facts else ())},
            **{f"{p.name} (dpkg)": p.version for p in (facts.packages if facts else ())},
        },
        scene=str(header.get("scene_name"))
        if (header := legible(folder / "evidence.json", dict))
        else None,
    )


def merge(many: list[Measured]) -> Measured:
    """All of several folders, the earlier ones first; of a value the first counts."""
    total = Measured()
    for one in many:
        seen = {step.key for step in total.steps}
        total = Measured(
            values={**one.values, **total.values},
            curves=total.curves + tuple(c for c in one.curves if c.job not in seen),
            steps=total.steps + tuple(s for s in one.steps if s.key not in seen),
            targets=total.targets or one.targets,
            views=total.views + tuple(v for v in one.views if v.job not in seen),
            layers=total.layers or one.layers,
            packages={**one.packages, **total.packages},
            scene=total.scene or one.scene,
        )
    return total


def profile_of(folder: Path, facts: Contents | None) -> Profile | None:
    """The subject profile of a folder of evidence, or None."""
    given = folder / "subject.toml"
    text = given.read_text() if given.exists() else facts.subject if facts else None
    try:
        return parse(text, "subject profile") if text else None
    except BadInput:
        return None


def metrics_of(job: Path, profile: Profile | None) -> dict[str, Any]:
    """The metrics file of a job, or nothing."""
    outputs = profile.outputs if profile else None
    name = (outputs.metrics if outputs else None) or "metrics.json"
    try:
        found = json.loads((job / "model" / name).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def step(job: Job, metrics: dict[str, Any], supporting: bool) -> Step:
    """The times and memory of a job."""
    budget = (job.request.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds")
    peak = metrics.get("peak_rss_bytes")
    return Step(
        key=job.key,
        status=job.status,
        exit=job.exit,
        phases=job.phases,
        seconds=round(sum(job.phases.values()), 3),
        budget=float(budget) if budget else None,
        memory=job.limits_applied.memory_bytes,
        peak=int(peak) if isinstance(peak, int | float) else None,
        origin=str(job.origin),
        supporting=supporting,
    )


def curves_of(job: Job, profile: Profile | None) -> Iterator[Curve]:
    """What a job's log says of each metric over its steps, read by the profile's patterns."""
    progress = {m.name: pattern(m.regex) for m in (profile.log.progress if profile else ())}
    stepping = progress.pop("train:step", None)
    if stepping is None:
        return
    lines = [(m, line.text) for line in job.log if (m := stepping.search(line.text))]
    for name, expression in progress.items():
        found = [(m, v) for m, text in lines if (v := expression.search(text))]
        pairs = [(float(m.group(1)), float(v.group(1))) for m, v in found]
        pairs = [p for p in pairs if p[1] == p[1] and abs(p[1]) != float("inf")]
        stride = -(-len(pairs) // POINTS) or 1
        pairs = pairs[::stride] + ([pairs[-1]] if pairs and (len(pairs) - 1) % stride else [])
        if len(pairs) < 2:
            continue
        curve = Curve(job.key, name, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))
        yield curve
        if name == "train:it_per_s" and min(curve.values) > 0:
            yield replace(curve, name=STEP_TIME, values=tuple(1000 / v for v in curve.values))


def quality(
    name: str, metrics: dict[str, Any], curves: list[Curve], profile: Profile | None
) -> dict[str, float]:
    """What a job says of its model, speed and memory."""
    keys = profile.metrics if profile else Profile(1, "").metrics
    asked = {
        "psnr": keys.psnr,
        "ssim": keys.ssim,
        "gaussians": keys.gaussians,
        "peak_rss_bytes": "peak_rss_bytes",
        "projected_seconds": keys.projected,
    }
    found = {
        f"{name}.{what}": value
        for what, key in asked.items()
        if isinstance(value := metrics.get(key), int | float) and f"{name}.{what}" in MEASURES
    }
    speed = [c for c in curves if c.name == "train:it_per_s"]
    return found | ({f"{name}.steps_per_second": speed[0].values[-1]} if speed else {})


def views_of(job: str, metrics: dict[str, Any], profile: Profile | None) -> tuple[View, ...]:
    """The views that a job of that key reports on."""
    keys = profile.metrics if profile else Profile(1, "").metrics
    try:
        return tuple(
            View(
                str(v[keys.name]),
                int(v[keys.width]),
                int(v[keys.height]),
                float(v[keys.psnr]),
                float(v[keys.ssim]),
                job,
            )
            for v in metrics[keys.views]
        )
    except (KeyError, TypeError, ValueError):
        return ()


def targets(facts: Contents, declared: Collection[str]) -> tuple[Target, ...]:
    """Every known compute capability with its instance families, and which libraries run there.

    ``declared`` are the instance types of the jobs' requests.
    """
    families = {name.split(".")[1] for name in declared if name.count(".") == 2}
    with_gpu = [instance for instance in INSTANCES.values() if instance.sm]
    asked = {instance.sm for instance in with_gpu if instance.family in families}
    found = []
    for sm in sorted({i.sm for i in with_gpu if i.sm}):
        same = {i.family: str(i.gpu) for i in with_gpu if i.sm == sm}
        found.append(
            Target(
                instance=", ".join(f"ml.{name}" for name in same),
                gpu=", ".join(dict.fromkeys(same.values())),
                sm=sm,
                declared=sm in asked,
                libraries={x.path: cuda.runs_on(x.cubins, sm) for x in facts.libraries if x.cubins},
            )
        )
    return tuple(found)
