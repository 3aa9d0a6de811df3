"""Images that nobody here tuned: the report names what is wrong with each, and nothing else.

Each folder has a Dockerfile and ``expected.toml``, written before the image was first judged::

    [fails]          item = patterns; together they match every reason for which a must check fails
    [not_verified]   item = pattern that the reason of one of its checks matches
    holds = [...]    items that hold
    errors = "..."   pattern of the reason for which the image cannot be looked into, if so

No other item fails, and no check ends in an error. Run with an engine: ``pytest tests/strangers``.
The two with torch in them download 3 GB: ``-k "not nerfstudio and not guide"`` leaves them out.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from splatgate.container import base, engine
from splatgate.evidence import read
from splatgate.paths import ROOT
from splatgate.record import Record, State

HERE = Path(__file__).parent
NAMES = sorted(path.parent.name for path in HERE.glob("*/expected.toml"))
BUILD_SECONDS = 1800


@pytest.fixture(scope="session")
def builder():
    """The engine's docker command, and the base of all strangers."""
    try:
        where = engine.endpoint()
        link = engine.client(where)
        found = engine.builder(where.host)
        return found, base.resolve(link, found, os.environ.get("BASE")).ref
    except engine.EngineError as error:
        pytest.skip(f"no engine: {error}")


@pytest.fixture
def image(builder, request):
    """The stranger, for as long as it is judged; the build cache keeps its layers."""
    docker, on = builder
    tag = f"splatgate/stranger:{request.param}"
    argv = [*docker.argv, "-q", "-t", tag, "-f", str(HERE / request.param / "Dockerfile")]
    argv += ["--platform", engine.PLATFORM, "--build-arg", f"BASE={on}"]
    if authorities := os.environ.get("EXTRA_CA"):
        argv += ["--secret", f"id=extra_ca,src={authorities}"]
    done = subprocess.run(
        [*argv, str(HERE)],
        env=docker.environment(),
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    yield tag
    subprocess.run([docker.program, "rmi", "-f", tag], capture_output=True, check=False)


@pytest.mark.parametrize("image", NAMES, indirect=True)
def test_report_names_what_is_wrong_and_nothing_that_is_right(image, tmp_path):
    """The report of a stranger is the one that was written down beforehand."""
    expected = tomllib.loads((HERE / image.rpartition(":")[2] / "expected.toml").read_text())
    command = [sys.executable, "-m", "splatgate", "judge", "--json", "--quick"]
    with (tmp_path / "judge.log").open("wb") as log:
        subprocess.run(
            [*command, "--image", image, "--out", str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=log,
            check=False,
        )
    assert (tmp_path / "record.json").exists(), (tmp_path / "judge.log").read_text()[-2000:]
    found = differences(expected, read(tmp_path / "record.json", Record))
    assert not found, "\n".join(found)


def differences(expected, record):
    """What a report says that was not expected, and the other way round."""
    found = []
    failed = {item for item, state in record.items.items() if state.state == State.FAILED}
    for item in sorted(failed ^ expected["fails"].keys()):
        reasons = [c.reason for c in record.checks if c.item == item and c.state == State.FAILED]
        found.append(f"{item} {'fails' if item in failed else 'does not fail'}: {reasons}")
    for item, patterns in expected["fails"].items():
        reasons = [
            c.reason
            for c in record.checks
            if (c.item, c.state, c.level) == (item, State.FAILED, "must")
        ]
        found += [f"{item}, unexpected: {r}" for r in reasons if not matches(patterns, r)]
        found += [
            f"{item}, nobody says {p}: {reasons}"
            for p in patterns
            if not any(matches([p], r) for r in reasons)
        ]
    for item, pattern in expected.get("not_verified", {}).items():
        said = [
            f"{c.reason} {c.blocked_by or ''}"
            for c in record.checks
            if c.item == item and c.state in (State.NOT_VERIFIED, State.BLOCKED)
        ]
        if not any(matches([pattern], text) for text in said):
            found.append(f"{item}, not verified, and nobody says {pattern}: {said}")
    found += [
        f"{item} is {record.items[item].state}"
        for item in expected.get("holds", ())
        if record.items[item].state != State.HELD
    ]
    errors = expected.get("errors")
    found += [
        f"{c.name} ends in an error: {c.reason}"
        for c in record.checks
        if c.error and not (errors and matches([errors], c.reason))
    ]
    return found


def matches(patterns, text):
    """Whether some pattern is found in a text."""
    return any(re.search(pattern, text, re.DOTALL) for pattern in patterns)


def test_expectations_name_items_of_the_checklist():
    """A misspelt item would expect nothing."""
    from splatgate import checklist

    known = checklist.load().by_id
    for name in NAMES:
        expected = tomllib.loads((HERE / name / "expected.toml").read_text())
        named = {*expected["fails"], *expected.get("not_verified", ())}
        named |= set(expected.get("holds", ()))
        assert named <= known.keys(), (name, named - known.keys())
        assert expected["story"], name
