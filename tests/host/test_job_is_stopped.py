"""The verb ``job`` ended from outside at any moment: nothing of it is left after the next start."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splatgate.container import sweep
from splatgate.sagemaker.request import smoke_request

#: A job takes some three seconds to hang: starting Python and the engine's part.
LONGEST = 4.0
EBS = "ml.m5.xlarge"
#: How long a job may take to end on a busy machine, and a removal that was begun (seconds).
PATIENCE, REMOVAL = 180.0, 20.0


@pytest.fixture
def gigabytes(worker_id: str) -> int:
    """Size of the job's disk, by which its loop devices are told from those of other workers."""
    return 1 + int(worker_id.removeprefix("gw").replace("master", "0"))


@pytest.fixture
def request_file(tmp_path: Path, gigabytes: int) -> Path:
    do = {"do": '["term save", "model", "hang"]'}
    # A host without an instance store: its disk is of the size that is asked for.
    raw = json.loads(json.dumps(smoke_request(hyperparameters=do, instance_type=EBS).raw))
    raw["ResourceConfig"]["VolumeSizeInGB"] = gigabytes
    path = tmp_path / "request.json"
    path.write_text(json.dumps(raw))
    return path


def job(probe: str, request: Path, scene: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "splatgate", "job", "--image", probe, "--request", request),
            *("--scene", scene, "--keep", request.parent / "kept", *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


def left(client: Any, pid: int) -> list[str]:
    """What the engine and this machine's temporary folder hold of a process."""
    found = client.containers.list(all=True, ignore_removed=True) + client.volumes.list()
    names = []
    for item in found:
        labels = item.attrs.get("Labels") or (item.attrs.get("Config") or {}).get("Labels") or {}
        if f":{pid}:" in labels.get(sweep.CONTROLLER_LABEL, ""):
            names.append(item.name)
    return names + [p.name for p in Path(tempfile.gettempdir()).glob(f"splatgate-job.*:{pid}:*")]


def gone(look: Callable[[], list[str]]) -> list[str]:
    """What is still there when the engine and the kernel have had time to end a removal: a disk
    goes with the last process that has it mounted, which may be a container that starts just now.
    """
    until = time.monotonic() + REMOVAL
    while (found := look()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


@pytest.mark.parametrize("moment", range(4))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_moment(
    client: Any,
    probe: str,
    request_file: Path,
    scene: Path,
    gigabytes: int,
    disks: Callable[[int], list[str]],
    number: int,
    moment: int,
) -> None:
    seconds = random.uniform(moment, moment + 1) * LONGEST / 4
    process = job(probe, request_file, scene)
    time.sleep(seconds)
    process.send_signal(number)
    said, _ = process.communicate(timeout=PATIENCE)
    told = f"{signal.Signals(number).name} after {seconds:.2f} s: {said.decode()}"
    if process.returncode != 130:
        # Killed, or Python itself was still starting: nothing could tidy up. The next start does.
        assert number == signal.SIGKILL or ": starting" not in said.decode(), told
        again = job(probe, request_file, scene, "--stop", "^hanging$")
        more, _ = again.communicate(timeout=PATIENCE)
        assert again.returncode == 1, f"{told}\nand again: {more.decode()}"
    assert gone(lambda: left(client, process.pid)) == [], told
    assert gone(lambda: disks(gigabytes * 10**9)) == [], told
    hidden = [p.name for p in request_file.parent.iterdir() if p.name.startswith(".")]
    assert hidden == [], told
