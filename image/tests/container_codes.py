"""The refusals in the image itself: each code's first line from a container that was started.

    TRAINER_IMAGE=REF pytest image/tests/container_codes.py

Not collected with the other tests: it needs an engine, and takes some seconds a case.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from small import make_job
from test_codes import SENT, Fault, edit, parameter
from test_inputs import PHOTO
from trainer.errors import EXIT_REFUSED, KINDS

GROWS = parameter(growth=1, refine_every=1, max_iterations=90, max_gaussians=20_000_000)


def as_it_is(*_: object) -> None:
    """The job that trains."""


#: As in ``test_codes``, and options of ``docker run`` that bring the fault about.
CASES: list[tuple[str, Fault, str, list[str]]] = [
    *((*case, []) for case in SENT),
    ("E_NO_GPU", parameter(device="cuda"), "device=cpu", []),
    ("E_INPUT", edit(PHOTO, lambda p: p.chmod(0)), "v2.png may not be read", ["--user=12345"]),
    ("E_MEMORY", GROWS, "max_gaussians=", ["--memory=2g"]),
    ("E_NOT_FINITE", parameter(lr_scales=1, max_iterations=400), "step", []),
    ("E_DISK", as_it_is, "point_cloud.ply", ["--tmpfs=/opt/ml/model:size=16k"]),
    ("E_OUTPUT", as_it_is, "/opt/ml/model", ["--tmpfs=/opt/ml/model:ro"]),
    ("E_OUTPUT", as_it_is, "temporary directory", ["--read-only", "--tmpfs=/opt/ml/model"]),
]


def start(base: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the job of a base folder in a container, with these options of ``docker run``."""
    (base / "output").mkdir()
    (base / "output").chmod(0o777)
    command = ["docker", "run", "--rm", "--network=none", *options]
    command += [f"--volume={base}/input:/opt/ml/input:ro", f"--volume={base}/output:/opt/ml/output"]
    return subprocess.run(
        [*command, os.environ["TRAINER_IMAGE"], "train"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_container_trains_for_a_user_without_a_name_on_a_closed_root(tmp_path: Path) -> None:
    base = make_job(tmp_path)
    folders = ["--tmpfs=/opt/ml/model:mode=777", "--tmpfs=/tmp"]
    done = start(base, "--user=12345", "--read-only", *folders)
    assert done.returncode == 0, done.stdout[-1500:]
    assert (base / "output/data/renders").is_dir()


def test_every_refusal_has_a_case() -> None:
    refusals = {code for code, kind in KINDS.items() if kind.exit == EXIT_REFUSED}
    assert refusals <= {case[0] for case in CASES}


@pytest.mark.parametrize(
    ("code", "fault", "says", "options"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_container_ends_with_its_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    fault: Fault,
    says: str,
    options: list[str],
) -> None:
    base = make_job(tmp_path)
    environment = fault(base, monkeypatch) or {}
    done = start(base, *options, *(f"--env={n}={v}" for n, v in environment.items()))
    failure = base / "output/failure"
    assert failure.exists(), done.stdout[-1500:] + done.stderr[-500:]
    first = failure.read_text().splitlines()[0]
    print(first)  # noqa: T201
    assert done.returncode == KINDS[code].exit
    assert first.startswith(f"{code}: ")
    assert says in first
