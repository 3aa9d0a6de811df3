"""The jobs of one `judge` run: a closed list, each run once though many checks read it."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splatgate.container import sweep
from splatgate.expectations import REFUSED_VALUES, UNSOUND
from splatgate.paths import ROOT

SUBJECT = """
schema = 1
name = "probe"
[run]
cpu = {}
smoke = { do = '["say step=1", "model", "checkpoint"]' }
truth = { do = '["say step=1", "model"]' }
brief = { do = '["model"]' }
[outputs]
model = "point_cloud.ply"
checkpoints = true
[log]
progress = [{ name = "step", regex = "^step=([0-9]+)" }]
"""


def kinds() -> set[str]:
    """Every kind of job that the suite can ask for: the names in its JobSpecs, and of the tables
    that its parameters come from.
    """
    found = {*UNSOUND, *REFUSED_VALUES}
    files = [ROOT / "splatgate" / "provide.py", *(ROOT / "tests").glob("[cgs]*/test_*.py")]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if called == "replace":
                names = [k.value for k in node.keywords if k.arg == "name"]
                found.update(n.value for n in names if isinstance(n, ast.Constant))
            if called not in ("JobSpec", "spec"):
                continue
            name = node.args[called == "spec"]
            if isinstance(name, ast.JoinedStr):
                name = name.values[0]
            if isinstance(name, ast.Constant):
                found.add(name.value)
            else:
                known = isinstance(name, ast.Name) and name.id in ("name", "what", "variant")
                assert known, f"{path}:{node.lineno}: name the kind"
    return found


@pytest.fixture
def started(client: Any) -> Iterator[list[dict[str, str]]]:
    """Labels and name of each container of any run that starts meanwhile."""
    found: list[dict[str, str]] = []
    # The engine remembers its last 256 events only, so they are read as they come.
    stream = client.events(filters={"event": "start", "label": sweep.RUN_LABEL}, decode=True)

    def listen() -> None:
        # Ends when the stream is taken away under it, whatever that raises.
        with contextlib.suppress(Exception):
            for event in stream:
                found.append(event["Actor"]["Attributes"])

    threading.Thread(target=listen, daemon=True).start()
    yield found
    stream.close()


def test_each_job_of_the_closed_list_runs_once(
    probe: str, tmp_path: Path, started: list[dict[str, str]]
) -> None:
    (tmp_path / "subject.toml").write_text(SUBJECT)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "splatgate", "judge", "--image", probe, "--json"),
            *("--subject", tmp_path / "subject.toml", "--lane", "sagemaker"),
            *("-n", "2", "--out", tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=400,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    record = json.loads(done.stdout)
    jobs = [job["key"].rpartition("-")[0] for job in record["jobs"]]
    assert jobs
    assert len(record["checks"]) > len(jobs)
    unknown = [job for job in jobs if not job.startswith(tuple(kinds()))]
    assert not unknown, f"{unknown} are none of {sorted(kinds())}"
    names = Counter(s["name"] for s in started if s[sweep.RUN_LABEL] == record["run"])
    # Beside them at most the one container that is looked into.
    assert len(jobs) <= len(names) <= len(jobs) + 1, (jobs, names)
    assert set(names.values()) == {1}, (jobs, names)
    assert not any(record["leftovers"].values())
