"""What the training host leaves behind when something goes wrong: nothing, and no verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splatgate.container import sweep
from splatgate.evidence import BadInput, Job
from splatgate.sagemaker.resources import HostFailed

Run = Callable[..., Job]
Ask = Callable[..., Any]


def test_second_run_replaces_the_folder(run_job: Run, ask: Ask, tmp_path: Path) -> None:
    run_job(ask("model"))
    run_job(ask("exit 1"))
    assert not (tmp_path / "job/model").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_unknown_image_is_bad_input(run_job: Run, ask: Ask) -> None:
    with pytest.raises(BadInput, match="none of that name"):
        run_job(ask(), image="splatgate/no-such:image")


def test_container_removed_by_another_hand(
    run_job: Run, ask: Ask, client: Any, run_id: str, tmp_path: Path
) -> None:
    def remove(line: str) -> bool:
        if line == "hanging":
            label = f"{sweep.RUN_LABEL}={run_id}"
            for container in client.containers.list(filters={"label": label}):
                container.remove(force=True)
        return False

    with pytest.raises(HostFailed, match="another hand"):
        run_job(ask("hang"), stop_when=remove)
    assert list(tmp_path.iterdir()) == [tmp_path / "scene"]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_container_ended_by_another_hand_is_no_verdict(
    run_job: Run, ask: Ask, client: Any, run_id: str, how: str
) -> None:
    def end(line: str) -> bool:
        if line == "hanging":
            label = f"{sweep.RUN_LABEL}={run_id}"
            for container in client.containers.list(filters={"label": label}):
                getattr(container, how)()
        return False

    with pytest.raises(HostFailed, match="another hand"):
        run_job(ask("term save", "hang"), stop_when=end)


def test_folder_with_other_things_is_not_replaced(run_job: Run, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job/thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="other things"):
        run_job(ask())
    assert (tmp_path / "job/thesis.txt").exists()


def test_interruption_leaves_nothing(
    run_job: Run, ask: Ask, client: Any, run_id: str, tmp_path: Path
) -> None:
    def interrupt(line: str) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(ask("hang"), stop_when=interrupt)
    assert sweep.leftovers(client, run_id) == {"containers": [], "volumes": [], "networks": []}
    assert list(tmp_path.iterdir()) == [tmp_path / "scene"]


KILLED = """
import sys
from pathlib import Path
import docker
from splatgate.container import sweep
from splatgate.sagemaker.host import TrainingHost
from splatgate.sagemaker.request import smoke_request
_, run, image, scene, folder = sys.argv
host = TrainingHost(docker.from_env(), labels=sweep.labels(run), say=lambda text: None)
request = smoke_request(hyperparameters={"do": '["hang"]'})
host.run(image, request, {"training": Path(scene)}, Path(folder), key="killed", deadline=60,
         stop_when=lambda line: print(line, flush=True))
"""


def test_what_a_killed_caller_leaves_is_swept(
    client: Any, run_id: str, probe: str, scene: Path, tmp_path: Path
) -> None:
    other = f"{run_id}-killed"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, other, probe, str(scene), str(tmp_path / "job")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert process.stdout is not None
    assert any("hanging" in line for line in process.stdout)
    assert len(sweep.leftovers(client, other)["containers"]) == 2
    sweep.sweep_stale(client, other)
    assert len(sweep.leftovers(client, other)["containers"]) == 2, "its controller still lives"
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    removed = sweep.sweep_stale(client, other)
    assert len(removed["containers"]) >= 2
    assert sweep.leftovers(client, other) == {"containers": [], "volumes": [], "networks": []}
