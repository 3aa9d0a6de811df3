"""What a job's ending, figures, times and listing give away where no message does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from splatgate.diagnose.bundle import Bundle, Statement
from splatgate.diagnose.finding import Finding, limit_of, said
from splatgate.diagnose.histories import polls_for_ever
from splatgate.diagnose.shapes import moment

#: Longest silence of a log that is no finding (seconds): COLMAP scenes of 500 photographs load in
#: less, and a person on call gives up sooner.
SILENCE = 20 * 60
#: An archive of a model below this holds no splats (bytes): a header and no vertices.
EMPTY_ARCHIVE = 4096
#: dB that no render of a photograph reaches: 8-bit rounding alone leaves 59.
IMPOSSIBLE = 50.0
#: dB within which a series of figures is one number, or a formula of the step.
ROUNDING = 0.005
#: Fewest figures from which anything follows.
ENOUGH = 6


def findings(bundle: Bundle, statements: Sequence[Statement]) -> Iterator[Finding]:
    """Everything that the rules below find."""
    for rule in (
        _at_the_limit,
        _memory,
        _no_model,
        _figures,
        _other_values,
        _silence,
        _no_words,
    ):
        yield from rule(bundle, statements)


def _at_the_limit(bundle: Bundle, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A job that its time limit ended."""
    job = bundle.training
    if job and job.secondary in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
        yield Finding(
            "production.duration",
            f"The job was stopped at its time limit ({limit_of(job) or '?'} s).",
            "Let the trainer end itself earlier (max_minutes), or raise MaxRuntimeInSeconds.",
            said("status", f"{job.source} SecondaryStatus", job.secondary),
            # A loop that then polls for ever is what keeps the execution from ending.
            "points" if bundle.history and any(polls_for_ever(bundle)) else "names",
            "K42; contract 1.4",
        )


def _memory(bundle: Bundle, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A process that the kernel killed for memory."""
    job = bundle.training
    texts = [
        s
        for s in statements
        if re.search(r"(?i)exit ?(code|status):? ?137\b|\bOOM-?killed", s.text)
    ]
    if bundle.oom or (texts and not (job and job.status == "Stopped")):
        text = "the engine reports: killed for want of memory" if bundle.oom else ""
        yield Finding(
            "sagemaker.gpu-access",
            "The host ran out of memory (exit 137, no failure file): the scene does not fit the "
            "instance as it is loaded.",
            "Hold photographs as 8-bit at max_image_size, never all in float; or take a larger "
            "instance.",
            tuple(texts) or said("status", job.source if job else "", text),
            known="K30; contract 2.6",
        )


def _no_model(bundle: Bundle, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A job that ended well and left nothing."""
    job = bundle.training
    if job is None or job.status != "Completed" or bundle.artefacts is None:
        return
    for key, size in bundle.artefacts:
        archive = key.endswith(("model.tar.gz", ".tar.gz")) and "output.tar" not in key
        if key.endswith(".ply") or (archive and size > EMPTY_ARCHIVE):
            return
    listed = ", ".join(f"{k} ({n} bytes)" for k, n in bundle.artefacts[:5]) or "nothing"
    yield Finding(
        "production.ply",
        "The job is Completed and left no .ply.",
        "Exit non-zero when the model is missing or empty.",
        said("status", "the model's listing", listed),
        known="contract 1.3",
    )


_STEP = re.compile(r"(?i)\b(?:step|iter(?:ation)?)s?\s*[=: #]?\s*(\d+)")


def series(statements: Sequence[Statement], name: str) -> list[tuple[float, float, Statement]]:
    """(step, value, statement) of a figure in the log; without a step, its number."""
    pattern = re.compile(rf"(?i)\b{name}\s*[=:]\s*(\d+(?:\.\d+)?)")
    found: list[tuple[float, float, Statement]] = []
    for statement in statements:
        if statement.kind == "log" and (match := pattern.search(statement.text)):
            step = _STEP.search(statement.text)
            found.append(
                (float(step[1]) if step else float(len(found)), float(match[1]), statement)
            )
    return found


def _figures(bundle: Bundle, statements: Sequence[Statement]) -> Iterator[Finding]:
    """Figures of quality that no training gives."""
    points = series(statements, r"psnr\w*")
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
            known="K19, K20",
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


def _other_values(bundle: Bundle, statements: Sequence[Statement]) -> Iterator[Finding]:
    """Hyperparameters that were sent, and others that were used."""
    job = bundle.training
    if job is None:
        return
    for name, value in job.hyperparameters.items():
        sent = value.strip('"')
        if not re.fullmatch(r"\d+", sent):
            continue
        pattern = re.compile(
            rf"(?i)(?<![\w]){re.escape(name)}[\"']?\s*[=:]\s*[\"']?(\d+)(?![\d.eE])"
        )
        told = [(m[1], s) for s in statements if s.kind == "log" and (m := pattern.search(s.text))]
        if told and all(int(shown) != int(sent) for shown, _ in told):
            yield Finding(
                "sagemaker.hyperparameters",
                f"{name}={sent} was sent, and the job worked with {told[0][0]}.",
                "Read /opt/ml/input/config/hyperparameters.json; log the effective configuration.",
                (told[0][1],),
                known="K43",
            )
            return
        cap = re.search(r"(?i)^(max|cap)_?(num_)?(gaussians|splats|points)$|^cap_max$", name)
        over = [
            p for p in series(statements, r"(?:gaussians|splats|num_gs|n_gs)") if p[1] > int(sent)
        ]
        if cap and over:
            yield Finding(
                "sagemaker.hyperparameters",
                f"{name}={sent} was sent, and the job went to {over[-1][1]:g}.",
                "Obey the cap, or refuse the parameter.",
                (over[-1][2],),
                known="K26",
            )
            return


def _silence(bundle: Bundle, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A job that ran for long and said nothing."""
    job = bundle.training
    if job is None or job.started is None:
        return
    lines = [s for s in statements if s.kind == "log" and s.stage in (job.name, "") and s.at]
    begun = next(
        (
            at
            for t in job.raw.get("SecondaryStatusTransitions") or ()
            if t.get("Status") == "Training" and (at := moment(t.get("StartTime")))
        ),
        job.started,
    )
    if not lines:
        return
    times = [begun, *(s.at for s in lines if s.at is not None)]
    gap, place = max(
        ((after - before, n) for n, (before, after) in enumerate(itertools.pairwise(times))),
        default=(0.0, 0),
    )
    if gap > SILENCE:
        yield Finding(
            "sagemaker.logs",
            f"The log is silent for {gap / 60:.0f} minutes: output is held back, or none is made.",
            "Print a line for each interval, flushed at once (PYTHONUNBUFFERED=1), and hold back "
            "no child's output.",
            (lines[place],),
            known="K28",
        )


def _no_words(bundle: Bundle, statements: Sequence[Statement]) -> Iterator[Finding]:
    """A failure that says nothing: no failure text, perhaps no log."""
    job = bundle.training
    if job is None or job.status != "Failed":
        return
    empty = re.fullmatch(r"(?i)\s*(AlgorithmError:?)?[\s,:]*(exit code:? ?\d+)?\s*", job.reason)
    if not empty:
        return
    words = said("reason", f"{job.source} FailureReason", job.reason or "(empty)")
    if not any(s.kind == "log" for s in statements) and re.search(r"\b12[67]\b", job.reason):
        return
    yield Finding(
        "production.errors",
        "The job failed and does not say why: nobody wrote /opt/ml/output/failure.",
        "Write the cause, one line first, to /opt/ml/output/failure before the exit.",
        words,
        "mute",
        "K27",
    )
