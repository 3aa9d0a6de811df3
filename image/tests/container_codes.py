"""The refusals in the image itself: each code's first line from a container that was started.

    TRAINER_IMAGE=REF pytest image/tests/container_codes.py

Not collected with the other tests: it needs an engine, and takes some seconds a case.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small import configure, make_job
from test_codes import nothing, unsafe_archive
from test_inputs import changed, in_one_place, similar
from trainer.errors import EXIT_REFUSED, KINDS

CHANNEL = "input/data/training"


def none(_: Path) -> None:
    """The scene as it is."""


def zero_focal_length(channel: Path) -> None:
    path = channel / "sparse/0/cameras.bin"
    path.write_bytes(path.read_bytes()[:-32] + struct.pack("<4d", 0, 50, 32, 24))


def closed(channel: Path) -> None:
    (channel / "images/sub dir/v2.png").chmod(0)


#: Code, damage to the channel, hyperparameters, options of ``docker run``, words of the first line.
CASES: list[tuple[str, Callable[[Path], object], dict[str, str], list[str], str]] = [
    ("E_HYPERPARAMETER", none, {"max_iterations": "many"}, [], "max_iterations='many'"),
    ("E_NO_GPU", none, {"device": "cuda"}, [], "device=cpu"),
    ("E_CHANNEL_EMPTY", nothing, {}, [], "holds no file"),
    ("E_CHANNEL_ARCHIVE", unsafe_archive, {}, [], "points outside the archive"),
    ("E_SCENE_LAYOUT", lambda c: (c / "sparse/0/cameras.bin").unlink(), {}, [], "no COLMAP model"),
    ("E_SCENE_FORMAT", lambda c: os.truncate(c / "sparse/0/images.bin", 99), {}, [], "images.bin"),
    ("E_SCENE_CAMERA", zero_focal_length, {}, [], "unusable: 64x48"),
    ("E_SCENE_IMAGES", lambda c: (c / "images/sub dir/v2.png").unlink(), {}, [], "v2.png"),
    (
        "E_SCENE_IMAGES",
        lambda c: Image.new("RGB", (64, 64)).save(c / "images/sub dir/v2.png"),
        {},
        [],
        "64x64, but its camera 1 is 64x48",
    ),
    (
        "E_SCENE_POINTS",
        lambda c: (c / "sparse/0/points3D.bin").write_bytes(bytes(8)),
        {},
        [],
        "0 finite points",
    ),
    ("E_SCENE_POINTS", similar(0.001, 0, 0, 0), {}, [], "scale the model up"),
    ("E_INPUT", closed, {}, ["--user=12345"], "v2.png may not be read by user 12345"),
    (
        "E_MEMORY",
        none,
        {"growth": "1", "refine_every": "1", "max_iterations": "90", "max_gaussians": "20000000"},
        ["--memory=2g"],
        "max_gaussians=",
    ),
    ("E_OOM", none, {}, ["--env=TRAINER_TEST_POINT=step:2-=oom"], "reduced once"),
    ("E_NOT_FINITE", none, {"lr_scales": "1", "max_iterations": "400"}, [], "step"),
    ("E_DISK", none, {}, ["--tmpfs=/opt/ml/model:size=16k"], "point_cloud.ply"),
    ("E_OUTPUT", none, {}, ["--tmpfs=/opt/ml/model:ro"], "/opt/ml/model"),
    ("E_OUTPUT", none, {}, ["--read-only", "--tmpfs=/opt/ml/model"], "temporary directory"),
    (
        "E_SCENE_CAMERA",
        changed(in_one_place),
        {},
        [],
        "one place",
    ),
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
    where = ["--tmpfs=/opt/ml/model:mode=777", "--tmpfs=/tmp"]
    done = start(base, "--user=12345", "--read-only", *where)
    assert done.returncode == 0, done.stdout[-1500:]
    assert (base / "output/data/renders").is_dir()


def test_every_refusal_has_a_case() -> None:
    refusals = {code for code, kind in KINDS.items() if kind.exit == EXIT_REFUSED}
    assert refusals <= {case[0] for case in CASES}


@pytest.mark.parametrize(
    ("code", "damage", "parameters", "options", "says"),
    CASES,
    ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)],
)
def test_container_refuses_by_code(
    tmp_path: Path,
    code: str,
    damage: Callable[[Path], object],
    parameters: dict[str, str],
    options: list[str],
    says: str,
) -> None:
    base = configure(make_job(tmp_path), **parameters)
    damage(base / CHANNEL)
    done = start(base, *options)
    failure = base / "output/failure"
    assert failure.exists(), done.stdout[-1500:] + done.stderr[-500:]
    first = failure.read_text().splitlines()[0]
    print(first)  # noqa: T201
    assert done.returncode == KINDS[code].exit
    assert first.startswith(f"{code}: ")
    assert says in first
