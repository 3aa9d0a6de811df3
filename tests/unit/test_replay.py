"""Recorded evidence is judged as it was when it was seen, with no engine, by the verb itself."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from splatgate.container.sweep import controller
from splatgate.evidence import read
from splatgate.paths import ROOT
from splatgate.record import Record, State

GOOD = ROOT / "tests" / "evidence" / "good"


def judge(*arguments, out):
    """Run the verb where no engine can be reached; its exit status, record and words."""
    done = subprocess.run(
        [sys.executable, "-m", "splatgate", "judge", "--json", "--out", str(out), *arguments],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (json.loads(done.stdout) if done.stdout else None), done.stderr


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    return judge("--evidence", str(GOOD), out=tmp_path_factory.mktemp("replay"))


def test_states_are_those_of_the_run_that_looked(replay):
    _, record, _ = replay
    seen = {c.node: c.state for c in read(GOOD / "record.json", Record).checks}
    now = {c["node"]: c["state"] for c in record["checks"]}
    assert {node: now.get(node) for node in seen} == seen
    # A check that was written since is not in the record; the good image does not fail it.
    assert {now[node] for node in now.keys() - seen} <= {State.PASSED, State.NOT_VERIFIED}


def test_nothing_on_this_machine_was_judged(replay):
    status, record, words = replay
    assert status == 3
    assert record["door"] == "recorded"
    assert "NOTHING ON THIS MACHINE WAS JUDGED" in words


def test_all_items_are_in_the_record(replay):
    assert len(replay[1]["items"]) == 22


def test_workers_change_no_state(replay, tmp_path):
    _, record, _ = judge("--evidence", str(GOOD), "-n", "2", out=tmp_path)
    assert {c["node"]: c["state"] for c in record["checks"]} == {
        c["node"]: c["state"] for c in replay[1]["checks"]
    }


def test_an_edit_of_the_evidence_fails_its_item_alone(replay, tmp_path):
    shutil.copytree(GOOD, tmp_path / "edited")
    path = tmp_path / "edited" / "container" / "facts.json"
    facts = json.loads(path.read_text())
    facts["environment"]["CUDA_VISIBLE_DEVICES"] = "all"
    path.write_text(json.dumps(facts))
    status, record, _ = judge("--evidence", str(tmp_path / "edited"), out=tmp_path / "out")
    assert status == 1
    failed = {i for i, s in record["items"].items() if s["state"] == "failed"}
    assert failed == {"sagemaker.gpu-access"}


def test_a_missing_recording_is_not_verified_and_no_error(tmp_path):
    shutil.copytree(GOOD, tmp_path / "edited")
    (tmp_path / "edited" / "container" / "commands.jsonl").unlink()
    status, record, _ = judge("--evidence", str(tmp_path / "edited"), out=tmp_path / "out")
    assert status == 3
    assert record["items"]["runtime.entry-point"]["state"] == "not-verified"
    assert not [c for c in record["checks"] if c["error"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--evidence", "/nonexistent"], "no evidence.json"),
        (["--image", "no-such-image"], "no engine answers|connect|engine"),
    ],
    ids=["evidence", "engine"],
)
def test_bad_input_is_one_line_and_exit_3(tmp_path, arguments, said):
    import re

    status, record, words = judge(*arguments, out=tmp_path / "out")
    assert (status, record) == (3, None)
    assert len(words.strip().splitlines()) == 1
    assert re.search(said, words)
    assert not (tmp_path / "out").exists()


def test_what_a_killed_run_left_is_gone_after_the_next_start(tmp_path):
    host, pid, _ = controller().rsplit(":", 2)
    dead, alive = (
        tmp_path / "runs" / f"{host}:{pid}:1.0123",
        tmp_path / "runs" / f"{controller()}.4",
    )
    for folder in (dead, alive):
        (folder / "jobs").mkdir(parents=True)
    judge("--evidence", str(GOOD), "--lane", "gpu", out=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("runs/*")) == [alive.name]
