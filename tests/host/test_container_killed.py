"""The container under test killed at random moments: what passed had been seen before.

A dead container answers every question with "does not exist", on which a negative check would pass.
``SPLATGATE_KILLED_IMAGE`` names the image to look at; without one nothing is killed.
"""

import os
import random
import subprocess
import sys
import time

import pytest

from splatgate.container import engine, sweep
from splatgate.evidence import read
from splatgate.paths import ROOT
from splatgate.record import Record, State

IMAGE = os.environ.get("SPLATGATE_KILLED_IMAGE")
#: Seconds within which the container lane has seen everything, on two busy cores.
WITHIN = 25.0
pytestmark = pytest.mark.skipif(IMAGE is None, reason="SPLATGATE_KILLED_IMAGE names no image")


@pytest.mark.parametrize("seed", range(20))
def test_what_passed_had_been_seen_before_the_container_died(tmp_path, seed):
    client = engine.client()
    before = {c.id for c in client.containers.list(filters={"label": sweep.RUN_LABEL})}
    command = [sys.executable, "-m", "splatgate", "judge", "--image", IMAGE, "--quick"]
    run = subprocess.Popen(
        [*command, "--lane", "container", "--json", "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    mark = until(lambda: next(tmp_path.glob("runs/*/container.id"), None), run)
    time.sleep(random.Random(seed).uniform(0, WITHIN))
    killed = time.time()
    if mark is not None and mark.exists():
        container = mark.read_text()
        assert container not in before
        subprocess.run(["docker", "kill", container], capture_output=True, check=False)
    _, said = run.communicate(timeout=300)

    record = read(tmp_path / "record.json", Record)
    states = {c.node: c.state for c in record.checks}
    assert State.FAILED not in states.values(), said.decode()[-2000:]
    seen = tmp_path / "evidence" / "container"
    for name in ("facts.json", "commands.jsonl"):
        # A look that was under way may end just after the signal was sent.
        assert not (seen / name).exists() or (seen / name).stat().st_mtime < killed + 1.0
    again = replayed(tmp_path)
    passed = {node for node, state in states.items() if state == State.PASSED}
    assert passed <= {node for node, state in again.items() if state == State.PASSED}
    assert not any(vars(record.leftovers).values())


def until(look, run):
    """What a look finds, as soon as it does; None when the run has ended."""
    while run.poll() is None:
        if (found := look()) is not None:
            return found
        time.sleep(0.05)
    return None


def replayed(folder):
    """States of the checks over what had been recorded."""
    out = folder / "replay"
    command = [sys.executable, "-m", "splatgate", "judge", "--lane", "container"]
    subprocess.run(
        [*command, "--evidence", str(folder / "evidence"), "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    return {c.node: c.state for c in read(out / "record.json", Record).checks}
