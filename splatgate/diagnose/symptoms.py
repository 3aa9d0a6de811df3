"""What a job's request, figures, times and listing give away where no message does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from splatgate.diagnose.bundle import BAD_ENDS, Bundle, Finding, SeenJob, Statement, said
from splatgate.diagnose.histories import polls_for_ever
from splatgate.diagnose.reader import GOES_ON
from splatgate.diagnose.shapes import moment
from splatgate.instances import INSTANCES

#: Longest silence of a log that is no finding (seconds): COLMAP scenes of 500 photographs load in
#: less, and a person on call gives up sooner.
SILENCE = 20 * 60
#: An archive of a model below this holds no splats (bytes): a header and no vertices.
EMPTY_ARCHIVE = 4096
#: dB that no render of a photograph reaches: 8-bit rounding alone leaves 59.
IMPOSSIBLE = 50.0
#: dB within which a series of figures is one number, or a formula of the step.
ROUNDING = 0.005
#: Points below which a scene begins no model; the smallest of real captures have thousands.
FEW_POINTS = 200
#: Fewest figures from which anything follows.
ENOUGH = 6


def findings(bundle: Bundle, statements: Sequence[Statement]) -> Iterator[Finding]:
    """Everything that the rules below find, each job beside what it said."""
    by: dict[str, list[Statement]] = {}
    for statement in statements:
        if statement.kind == "log":
            by.setdefault(statement.stage, []).append(statement)
    for job in bundle.jobs:
        lines = by.get(job.name, [])
        if job.kind == "Training":
            yield from _other_values(job, lines)
            yield from _other_channel(job, lines)
            yield from _begun_again(job, lines)
        yield from _at_the_limit(bundle, job)
        yield from _no_gpu_asked_for(job, lines)
        yield from _silence(job, lines)
        yield from _nothing_said(job, lines)
    for name, lines in by.items():
        yield from _figures(lines)
        if not bundle.well:
            yield from _poor_scene(bundle.job(name), lines)
    yield from _memory(bundle)
    yield from _no_model(bundle)


def _at_the_limit(bundle: Bundle, job: SeenJob) -> Iterator[Finding]:
    """A job that its time limit ended."""
    if job.secondary in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
        yield Finding(
            "production.duration",
            f"{job.name} was stopped at its time limit ({job.limit or '?'} s).",
            "Let the trainer end itself earlier (max_minutes), or raise MaxRuntimeInSeconds.",
            said("status", f"{job.source} SecondaryStatus", job.secondary),
            # A loop that then polls for ever is what keeps the execution from ending.
            "points" if bundle.history and any(polls_for_ever(bundle)) else "names",
            job.name,
        )


def _memory(bundle: Bundle) -> Iterator[Finding]:
    """A process that the kernel killed for memory, and whose engine says so."""
    if bundle.oom:
        yield Finding(
            "sagemaker.gpu-access",
            "The host ran out of memory: the scene does not fit the instance as it is loaded.",
            "Hold photographs as 8-bit at max_image_size, never all in float; or take a larger "
            "instance.",
            said("status", "the engine", "killed for want of memory (OOMKilled)"),
        )


def _no_model(bundle: Bundle) -> Iterator[Finding]:
    """A job that ended well and left nothing."""
    job = bundle.training
    if job is None or job.status != "Completed" or bundle.artefacts is None:
        return
    for key, size in bundle.artefacts:
        archive = key.endswith(".tar.gz") and "output.tar" not in key
        if key.endswith(".ply") or (archive and size > EMPTY_ARCHIVE):
            return
    listed = ", ".join(f"{k} ({n} bytes)" for k, n in bundle.artefacts[:5]) or "nothing"
    yield Finding(
        "production.ply",
        f"{job.name} is Completed and left no .ply.",
        "Exit non-zero when the model is missing or empty.",
        said("status", "the model's listing", listed),
        stage=job.name,
    )


_STEP = re.compile(r"(?i)\b(?:step|iter(?:ation)?)s?\s*[=: #]?\s*(\d{1,12})")


def series(statements: Sequence[Statement], name: str) -> list[tuple[float, float, Statement]]:
    """(step, value, statement) of a figure in the log; without a step, its number."""
    pattern = re.compile(rf"(?i)\b{name}\s*[=:]\s*(\d{{1,12}}(?:\.\d{{1,12}})?)")
    found: list[tuple[float, float, Statement]] = []
    for statement in statements:
        if match := pattern.search(statement.text):
            step = _STEP.search(statement.text)
            found.append(
                (float(step[1]) if step else float(len(found)), float(match[1]), statement)
            )
    return found


def _figures(statements: Sequence[Statement]) -> Iterator[Finding]:
    """Figures of quality that no training gives."""
    points = series(statements, r"psnr\w{0,20}")
    if len(points) < ENOUGH:
        return
    steps, values = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    why = ""
    if np.ptp(values) <= ROUNDING:
        why = f"the quality is {values[0]:g} dB from the first line to the last"
    elif values.max() > IMPOSSIBLE:
        why = f"{values.max():g} dB: more than photographs allow"
    elif _formula(steps, values):
        why = "the quality is a formula of the step, with no noise in it"
    if why:
        yield Finding(
            "production.truth",
            f"The quality reported was not measured: {why}.",
            "Render the exported splats at held-out cameras, and report that.",
            tuple(p[2] for p in (points[0], points[len(points) // 2], points[-1])),
            stage=points[0][2].stage,
        )


def _formula(steps: np.ndarray, values: np.ndarray) -> bool:
    """Whether values follow a line, a parabola, a logarithm or a root of the step to rounding."""
    if len(steps) < 2 * ENOUGH or np.ptp(steps) == 0:
        return False
    x = (steps - steps.min()) / np.ptp(steps)
    for basis in (x, np.log1p(steps), np.sqrt(steps)):
        for degree in (1, 2):
            fit = np.polynomial.Polynomial.fit(basis, values, degree)
            if np.abs(fit(basis) - values).max() <= 2 * ROUNDING:
                return True
    return False


_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _read(word: str) -> int | None:
    """A whole number or a switch, as what programs take it for."""
    low = word.lower()
    return int(word) if re.fullmatch(r"[0-9]{1,15}", word) else _SWITCH.get(low)


_SETTINGS = re.compile(r"(?i)config|param|args|argument|option|setting|namespace|effective|[{(]")


def _other_values(job: SeenJob, statements: Sequence[Statement]) -> Iterator[Finding]:
    """Parameters that were sent, and others that were used."""
    for name, sent in job.sent.items():
        wanted = _read(sent)
        if wanted is None:
            continue
        words = re.escape(name).replace("_", "[_-]")
        # In quotes it is the request that is shown, not what became of it.
        value = r"(\d{1,15}(?![\d.eE]|\s?/)|true\b|false\b)"
        pattern = re.compile(rf"(?i)(?<![\w]){words}[\"']?\s*[=:]\s*{value}")
        counter = re.fullmatch(r"(?:\w+_)?(?:iteration|step|epoch)s?", name)
        told = [
            (m[1], s)
            for s in statements
            if (m := pattern.search(s.text))
            and not GOES_ON.search(s.text)
            and (not counter or _SETTINGS.search(s.text))
        ]
        if told and all(_read(shown) != wanted for shown, _ in told):
            yield Finding(
                "sagemaker.hyperparameters",
                f"{name}={sent} was sent, and the job worked with {told[0][0]}.",
                f"Read {name} from where it is sent, by a typed table: HyperParameters come as "
                "strings in /opt/ml/input/config/hyperparameters.json (bool('False') is true), "
                "Environment as variables.",
                (told[0][1],),
                stage=job.name,
            )
            return
        cap = re.search(r"^(max|cap)_?(num_)?(gaussians|splats|points)$|^cap_max$", name)
        counts = series(statements, r"(?:gaussians|splats|num_gs|n_gs)") if cap else []
        over = [p for p in counts if p[1] > wanted]
        if over:
            yield Finding(
                "sagemaker.hyperparameters",
                f"{name}={sent} was sent, and the job went to {over[-1][1]:g}.",
                f"Obey {name}, or refuse it.",
                (over[0][2],),
                stage=job.name,
            )
            return


def _other_channel(job: SeenJob, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A program that looks below a channel which the request does not send."""
    if job.status not in BAD_ENDS or not job.channels:
        return
    where = re.compile(r"/opt/ml/input/data/([\w-]+)|KeyError: 'SM_CHANNEL_(\w+)")
    known = [name.lower() for name in job.channels]
    for s in statements:
        for found in where.finditer(s.text):
            name = found[1] or found[2]
            if name.lower() not in known:
                yield Finding(
                    "sagemaker.paths",
                    f"The program reads the channel `{name}`; the request sends "
                    f"{', '.join(job.channels)}.",
                    f"Give the channel one name on both sides: ChannelName {name}, or read "
                    f"/opt/ml/input/data/{next(iter(job.channels))}.",
                    (s,),
                    "suspects",
                    job.name,
                    ("sagemaker.input", "sagemaker.paths", "sagemaker.hyperparameters"),
                )
                return


def _no_gpu_asked_for(job: SeenJob, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A training job on an instance without a GPU."""
    known = INSTANCES.get(job.instance)
    none = known.gpu_count == 0 if known else re.match(r"ml\.[mcrt]\d", job.instance)
    if none and job.kind == "Training":
        yield Finding(
            "sagemaker.gpu-access",
            f"{job.name} asked for {job.instance}, which has no GPU.",
            "Ask for a GPU instance that the image has code for (ml.g4dn.xlarge).",
            said("status", f"{job.source} ResourceConfig", job.instance),
            "suspects",
            job.name,
            ("sagemaker.gpu-access", "runtime.cuda"),
        )


_POINTS = re.compile(
    r"(?i)(?:number of points\b[^:=\d]{0,30}[:=]\s{0,4}|\bpoints\s?[=:]\s?)(\d{1,12})\b"
    r"|(?<![\d.,/])(?<!\d )(?<!/ )(\d{1,12}) (?:3d |sfm |sparse |initial )?points\b"
)


def _poor_scene(job: SeenJob | None, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A scene with next to no points, as the job itself counts them."""
    found = [(int(m[1] or m[2]), s) for s in statements if (m := _POINTS.search(s.text))]
    if found and max(count for count, _ in found) < FEW_POINTS:
        count, statement = found[0]
        yield Finding(
            "sagemaker.input",
            f"The scene that was handed over has {count} points: nothing to begin a model with.",
            "Judge the scene with `python -m splatgate scene DIR`, and mend SfM or the hand-over.",
            (statement,),
            "suspects",
            job.name if job else "",
            ("sagemaker.input", "production.errors", "production.ply"),
        )


def _begun_again(job: SeenJob, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A job that began again at its first step, and lost what it had done."""
    highest, restarts = 0, []
    for s in statements:
        if found := _STEP.search(s.text):
            step = int(found[1])
            if highest >= 100 and step <= highest // 100:
                restarts.append(s)
                highest = 0
            highest = max(highest, step)
    spot = job.raw.get("EnableManagedSpotTraining") is True or "Interrupted" in job.secondary
    if restarts and job.status in BAD_ENDS and (spot or len(restarts) > 1):
        yield Finding(
            "sagemaker.stop",
            f"The job began again at its first step {len(restarts)} times: it does not resume.",
            "Write checkpoints to /opt/ml/checkpoints, send a CheckpointConfig, and resume from "
            "the newest one; let MaxWaitTimeInSeconds exceed MaxRuntimeInSeconds.",
            tuple(restarts[:3]),
            stage=job.name,
        )


def _silence(job: SeenJob, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A job that ran for long, and said nothing of it."""
    lines = [s for s in statements if s.at is not None]
    begun = next(
        (
            at
            for t in job.transitions
            if t.get("Status") == "Training" and (at := moment(t.get("StartTime")))
        ),
        job.started,
    )
    if not lines or begun is None:
        return
    times = [begun, *(s.at for s in lines if s.at is not None)]
    gap, place = max(
        (after - before, n) for n, (before, after) in enumerate(itertools.pairwise(times))
    )
    # Between many lines a long pause is a long step; a log that is held back has few.
    if gap > SILENCE and gap > 0.5 * (times[-1] - begun):
        yield Finding(
            "sagemaker.logs",
            f"The log is silent for {gap / 60:.0f} minutes: output is held back, or none is made.",
            "Print a line for each interval, flushed at once (PYTHONUNBUFFERED=1), and hold back "
            "no child's output.",
            (lines[place],),
            "names" if job.status not in BAD_ENDS else "points",
            job.name,
        )


def _nothing_said(job: SeenJob, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A failure without a word: no failure text, and nothing that speaks of one in the log."""
    code = re.search(r"exit code:? ?(\d+)", job.reason)
    told = any(re.search(r"(?i)error|traceback|killed|fatal|exception", s.text) for s in statements)
    if job.status == "Failed" and job.mute and not told and not (code and int(code[1]) > 125):
        yield Finding(
            "production.errors",
            "The job failed and does not say why: nothing in its log, no /opt/ml/output/failure.",
            "Write the cause, one line first, to /opt/ml/output/failure before the exit.",
            said("reason", f"{job.source} FailureReason", job.reason or "(empty)"),
            "points",
            job.name,
        )
