"""The program: one job from its arguments to its exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer import __version__, config, errors, log, points
from trainer.errors import TrainerError
from trainer.job import Job
from trainer.stop import Stop


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one job; returns the exit code (see ``errors``). Never raises.

    ``argv`` without the program's name: SageMaker appends the word ``train``.
    """
    stop = Stop()
    stop.install()
    # OpenMP's threads otherwise spin while they wait, which on a shared host costs five times the
    # work; read when PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # PyTorch asks for the user's name, and an image may be run by a number that has none.
    os.environ.setdefault("LOGNAME", str(os.geteuid()))
    if "--help" in argv or "-h" in argv:
        log_help()
        return 0
    base = Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    try:
        (base / "output" / "failure").unlink(missing_ok=True)
    except OSError as error:
        log.line(f"warning: cannot tidy {base / 'output'}: {error}")
    try:
        points.arm(environment.get(points.VARIABLE, ""))
        log.line(f"3DGS trainer {__version__} job={environment.get('TRAINING_JOB_NAME', '-')}")
        unknown = [word for word in argv if word != "train"]
        if unknown:
            raise TrainerError(
                "E_HYPERPARAMETER",
                f"unknown argument {unknown[0][:60]!r}: only "
                "the word train is accepted; parameters come as hyperparameters",
            )
        Job(base, environment, stop).run()
        return 0
    except BaseException as error:
        return fail(base, error)


def fail(base: Path, error: BaseException) -> int:
    """Tell the log and the failure file why the run ends; returns the exit code."""
    fault = errors.classify(error, base)
    if fault.code == "E_INTERNAL":
        log.block("".join(traceback.format_exception(error)))
    log.line(f"failed {fault.code}: {fault}" + (f" ({fault.detail})" if fault.detail else ""))
    unwritten = errors.write_failure(base, fault.text())
    if unwritten:
        log.line(f"warning: no failure file: {unwritten}")
    return fault.kind.exit


def log_help() -> None:
    """Write usage, parameters and failure codes to standard output."""
    codes = "\n".join(
        f"  {code:<18} {kind.exit}  {kind.meaning}" for code, kind in errors.KINDS.items()
    )
    sys.stdout.write(
        "usage: train_gaussian_production.py [train]\n\nTrains a 3D Gaussian model from the COLMAP "
        "scene in /opt/ml/input/data/training\n(SAGEMAKER_BASE_DIR stands for /opt/ml).\n\n"
        f"{config.help_text()}\n\nFailure codes and exit codes:\n{codes}\n"
    )


def cli() -> int:
    """``main`` with the process's own arguments and environment."""
    return main(sys.argv[1:], os.environ)
