"""Checks and checklist lines of somebody's own: pytest and ``judge`` take both."""

import json
import subprocess
import sys

import pytest

from splatgate import checklist
from splatgate.evidence import BadInput
from splatgate.paths import ROOT

EVIDENCE = ROOT / "tests" / "evidence" / "good"
LINES = """
schema = 1
[[item]]
id = "build.licence"
sentence = "The image carries our licence"
cause = "dependencies"
required = ["container"]
why = "Customers ask for it."
remedy = "Copy LICENSE into the image."
"""
CHECK = """
import pytest


@pytest.mark.build_licence
def test_image_has_a_title(image, host):
    \"\"\"The image says what it is.\"\"\"
    assert type(host.backend).__name__ == "ReplayBackend", "another host"
    assert image.labels.get("org.opencontainers.image.title") == {wanted!r}, "another title"


def test_no_check_of_the_checklist():
    pass
"""


@pytest.fixture
def own(tmp_path):
    def write(wanted):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "test_mine.py").write_text(CHECK.format(wanted=wanted))
        (tmp_path / "lines.toml").write_text(LINES)
        return tmp_path

    return write


def run(folder, *command):
    done = subprocess.run(
        [sys.executable, "-m", *command, "--evidence", str(EVIDENCE)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder)},
    )
    path = folder / "build" / "record.json"
    assert path.is_file(), done.stdout + done.stderr
    return json.loads(path.read_text())


def test_pytest_gives_them_the_fixtures(own):
    folder = own("nothing")
    plugin = ("-p", "splatgate.judge.plugin", "--checklist", "lines.toml")
    record = run(folder, "pytest", "mine", *plugin)
    assert [(c["item"], c["lane"], c["state"]) for c in record["checks"]] == [
        ("build.licence", "container", "failed")
    ]
    assert record["checks"][0]["reason"] == "another title"
    assert record["items"]["build.licence"]["state"] == "failed"


def test_they_count_in_the_verdict_of_judge(own):
    folder = own("nothing")
    more = ("--lane", "container", "--checks", "mine", "--checklist", "lines.toml")
    record = run(folder, "splatgate", "judge", *more)
    assert record["items"]["build.licence"]["state"] == "failed"
    assert record["items"]["runtime.permissions"]["state"] == "held"
    assert record["verdict"] == "non-conformant"


def test_a_line_of_the_suites_own_is_not_replaced(tmp_path):
    path = tmp_path / "lines.toml"
    path.write_text(LINES.replace("build.licence", "build.completed"))
    with pytest.raises(BadInput, match=r"build\.completed: a line of the suite's own"):
        checklist.extended(checklist.load(), path)
