"""What a check's end means: an assertion is a verdict on the image, any other exception is none."""

import subprocess
import sys
import types

import pytest

from splatgate.container.backends import LookFailed, NotRecorded
from splatgate.evidence.missing import Blocked, CannotLook, NotVerified
from splatgate.judge.plugin import outcome
from splatgate.paths import ROOT
from splatgate.record import Check, State

CHECK = Check(node="t", item="runtime.cuda", level="must", lane="container")


def after(error, when="call"):
    return outcome(CHECK, types.SimpleNamespace(when=when), error)


def test_a_call_without_an_error_passes():
    assert after(None).state == State.PASSED


def test_setup_alone_is_no_pass():
    assert after(None, "setup").state == State.NOT_VERIFIED


def test_an_assertion_fails_with_its_message_alone():
    found = after(AssertionError("expected a, got b\nassert 1 == 2"))
    assert (found.state, found.reason, found.error) == (State.FAILED, "expected a, got b", False)


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), LookFailed("the container is gone"), OSError("disk"), ZeroDivisionError()],
    ids=lambda e: type(e).__name__,
)
def test_an_error_in_judging_is_not_verified(error):
    found = after(error)
    assert (found.state, found.error) == (State.NOT_VERIFIED, True)


def test_an_assertion_in_a_fixture_is_an_error():
    assert after(AssertionError("x"), "setup").error


def test_an_image_that_cannot_be_looked_into_could_not_be_judged():
    found = after(CannotLook("image x: no /bin/sh in it"), "setup")
    assert (found.state, found.error) == (State.NOT_VERIFIED, True)
    assert found.reason == "image x: no /bin/sh in it"


def test_blocked_names_its_cause():
    found = after(Blocked("test_trains", "no job"), "setup")
    assert (found.state, found.blocked_by) == (State.BLOCKED, "test_trains")


@pytest.mark.parametrize("error", [NotVerified("x"), NotRecorded("x"), pytest.skip.Exception("x")])
def test_no_answer_is_not_verified_without_an_error(error):
    found = after(error, "setup")
    assert (found.state, found.error) == (State.NOT_VERIFIED, False)


def test_listing_the_checks_leaves_the_last_record_alone(tmp_path):
    (tmp_path / "record.json").write_text("the last run's")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--out", str(tmp_path)]
    listed = subprocess.run(
        [*command, "tests/container"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "::" in listed.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert (tmp_path / "record.json").read_text() == "the last run's"
