"""The note can be sent as it is, and a command is printed only where it can run."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from splatgate.diagnose import cli
from splatgate.paths import ROOT
from tests.unit.bundles import TABLE, write

SCENE = ROOT / "tests" / "scenes" / "brighton_beach"


@pytest.fixture
def diagnosed(tmp_path, capsys):
    def run(entry, *options):
        folder = write(entry, tmp_path / "bundle")
        assert cli.main([str(folder), "--json", "--out", str(tmp_path / "out"), *options]) == 0
        report = json.loads(capsys.readouterr().out)
        return report, (tmp_path / "out" / "incident.md").read_text()

    return run


def test_the_command_that_is_printed_runs_until_it_needs_an_engine(diagnosed):
    report, note = diagnosed(TABLE["K03"], "--image", "trainer:dev", "--scene", str(SCENE))
    command = report["reproduction"]["command"]
    assert command in note
    words = [sys.executable, *shlex.split(command)[1:]]
    nowhere = {**os.environ, "DOCKER_HOST": "unix:///nonexistent.sock"}
    ran = subprocess.run(words, env=nowhere, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 3
    assert re.search(r"(?i)engine|docker", ran.stderr)
    assert len(ran.stderr.strip().splitlines()) == 1


def test_without_image_and_data_it_is_said_what_they_are(diagnosed):
    report, note = diagnosed(TABLE["K03"])
    assert report["reproduction"]["command"] is None
    image, scene = report["reproduction"]["needs"]
    assert image.startswith("--image REF: 000000000001.dkr.ecr")
    assert scene == "--scene DIR: a copy of the data (training from s3://scans/job-17/colmap/)"
    assert "to see it again here: --image REF" in note


def test_what_failed_in_another_stage_is_not_run_as_a_training_job(diagnosed):
    options = ("--image", "trainer:dev", "--scene", str(SCENE))
    report, _ = diagnosed(TABLE["K45"], *options)
    assert report["reproduction"]["command"] is None
    assert "scan-17-compress" in report["reproduction"]["needs"][0]


def test_the_note_holds_what_a_reader_asks_for_on_two_pages(diagnosed):
    _, note = diagnosed(TABLE["K42"])
    headings = re.findall(r"^## (.*)$", note, re.M)
    assert headings == ["Last words", "Cause", "Timeline (UTC)", "What was read", "Next"]
    assert len(note.splitlines()) < 90
    # Thirty rounds of the poll loop are told once.
    assert note.count("state CheckTraining") == 1
    assert "- [ ]" in note


def test_an_unknown_cause_says_what_would_tell_more(diagnosed):
    _, note = diagnosed({"kind": "create-failed", "error": "Strange", "cause": "nothing helps"})
    assert "## Cause: unknown" in note
    assert "add the description of the job" in note
