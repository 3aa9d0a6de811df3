"""Each command of the documents is run as it is written, in their order, or left out for a reason.

`pytest tests/documents -v -rs -s`, after `make test-image`: minutes, and an engine. A command
stands in a block of ```sh; a comment behind it says `exit 3` where it ends with another than 0.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from splatgate.paths import ROOT

FILES = (
    "README.md",
    "docs/use.md",
    "CONTRIBUTING.md",
    "docs/troubleshooting.md",
    "docs/gate.md",
    "docs/gpu.md",
    "pipeline/README.md",
)
#: Words that stand for something of the reader's, and what is put there.
GIVEN = {
    "R": "splatgate/3dgs-trainer:dev",
    "DIR": "tests/scenes/brighton_beach",
    "PLY": "build/hand/model/point_cloud.ply",
    "DEFINITION": "pipeline/definition.json",
    "INPUT": "pipeline/input.json",
    "FOLDER": "tests/evidence/failed/cmd-for-entrypoint",
}
#: Commands that are not run here, as patterns, and why. The first that matches counts.
LEFT_OUT = {
    r"make (test-image|test|lint test|faults)$": ".ci/run runs it",
    r"pipx |splatgate judge": "the user's own programs; tests/unit/test_package.py has the wheel",
    r"openssl |.* sign build": "a key; tests/unit/test_signoff.py makes one and signs",
    r"make test-gpu|\.ci/gpu-lane|.*--lane gpu": "a GPU",
    r"docker-registry|docker (tag|push)|printf .*registry|.* --pushed": "8 GB to a registry",
    r"aws |.*(--last-failed|--last-good|--rollback|--live|probe --image|s3://)": "an account",
    r".* diagnose (JOB|EXECUTION-ARN)": "an account",
    r".*(REPO@|sha256:…|TO=HOST)": "an image in a registry",
    r".*(--subject F|--instance-type|--baseline RECORD)": "a run as long as make test-image",
    r".* judge --image image.tar": "8 GB to a file; tests/unit/test_judge_layers.py has small ones",
    r".* job --request (F|request\.json)|.*build/jobs/NAME": "a request; the walk-through has one",
    r".*( trainer:|build/jobs/|cmd-for-entrypoint|FROM trainer)": "tests/host/test_walk_through.py",
}


def commands():
    """(file, command, exit status) of every command, continued lines joined."""
    for name in FILES:
        for block in re.findall(r"(?ms)^```sh\n(.*?)^```$", (ROOT / name).read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                command, _, comment = line.partition("  # ")
                ends = re.search(r"exit (\d)", comment)
                yield name, " ".join(command.split()), int(ends.group(1)) if ends else 0


def why_not(command):
    """Why a command is left out, or None."""
    return next((why for pattern, why in LEFT_OUT.items() if re.match(pattern, command)), None)


#: One that is written twice is run once.
EVERY = list({command: (name, command, ends) for name, command, ends in commands()}.values())


@pytest.mark.parametrize(("name", "command", "status"), EVERY, ids=[c for _, c, _ in EVERY])
def test_a_command_of_the_documents_ends_as_it_says(name, command, status):
    if reason := why_not(command):
        pytest.skip(f"{name}: {command}: {reason}")
    given = " ".join(GIVEN.get(word, word) for word in command.split(" "))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # bash, since a person types these.
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", given],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert ran.returncode == status, f"{name}: {given}"


def test_every_reason_leaves_something_out():
    idle = [p for p in LEFT_OUT if not any(re.match(p, command) for _, command, _ in EVERY)]
    assert not idle


def test_every_block_of_commands_says_that_it_is_one():
    program = r"(make|python -m|docker|aws|pytest|npx|openssl|\.ci/)\b"
    for path in [ROOT / name for name in FILES] + sorted((ROOT / "docs").glob("*.md")):
        unmarked = re.findall(rf"(?m)^```\n{program}.*", path.read_text())
        assert not unmarked, path
        marked = re.search(r"(?m)^```sh$", path.read_text())
        assert not marked or str(path.relative_to(ROOT)) in FILES, f"{path} is not in FILES"
