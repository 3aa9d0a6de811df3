"""From a failed job to a green one, by the commands of docs/troubleshooting.md as written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from splatgate.paths import ROOT

GOOD = "splatgate/3dgs-trainer:dev"
TAGS = ("trainer:fixed", "trainer:broken")


def commands():
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    block = text.partition("## Walk-through")[2].partition("```sh\n")[2].partition("```")[0]
    for line in block.splitlines():
        command, _, status = line.partition("  # exit ")
        yield command, int(status or 0)


@pytest.fixture
def good(client):
    import docker.errors

    try:
        client.images.get(GOOD)
    except docker.errors.ImageNotFound:
        pytest.skip(f"no image {GOOD}: make image")
    yield
    for tag in TAGS:
        if client.images.list(tag):
            client.images.remove(tag)


def test_the_walk_through_of_the_docs_ends_as_it_says(good):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    said = []
    for command, status in commands():
        # bash, since a person types these; printf's \n is bash's.
        ran = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == status, f"{command}\n{ran.stdout}{ran.stderr}"
        said.append(ran.stderr)
    first = [re.findall(r"^1\. ([\w.-]+)", text, re.M) for text in said]
    assert first == [[], ["runtime.entry-point"], [], ["runtime.entry-point"], [], [], []]
    assert "Well: a service says so" in said[-1]
    printed = re.search(r"^ +(python -m splatgate job .*)$", said[1], re.M)[1]
    assert list(commands())[2][0].startswith(printed)
