"""One run against a known good one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from splatgate import baseline
from splatgate.evidence import Machine
from splatgate.record import (
    Check,
    ImageFacts,
    JobFacts,
    Leftovers,
    Record,
    State,
    Suite,
)

CHECKS = tuple(
    Check(f"tests/container/test_x.py::{name}", "runtime.cuda", "must", "container", state)
    for name, state in (("a", State.PASSED), ("b", State.FAILED), ("c", State.BLOCKED))
)
GOOD = Record(
    image=ImageFacts(image_id="sha256:1", bytes=1000),
    suite=Suite("1", None, None, "x"),
    machine=Machine(cpus=2),
    items={},
    checks=CHECKS,
    jobs=(JobFacts("smoke-1", "Completed", 0, 10.0, 100),),
    timings={},
    leftovers=Leftovers(),
    verdict="partial",
)


def names(nodes: tuple[str, ...]) -> list[str]:
    return [node.rpartition("::")[2] for node in nodes]


def with_states(*states: State) -> Record:
    pairs = zip(CHECKS, states, strict=True)
    return replace(GOOD, checks=tuple(replace(check, state=s, reason="r") for check, s in pairs))


@pytest.mark.parametrize(
    ("states", "failing", "passing", "lost"),
    [
        ((State.PASSED, State.FAILED, State.BLOCKED), "", "", ""),
        ((State.FAILED, State.FAILED, State.FAILED), "ac", "", ""),
        ((State.PASSED, State.PASSED, State.PASSED), "", "bc", ""),
        ((State.NOT_VERIFIED, State.NOT_VERIFIED, State.BLOCKED), "", "", "a"),
    ],
)
def test_checks_that_changed(
    states: tuple[State, ...], failing: str, passing: str, lost: str
) -> None:
    found = baseline.compare(GOOD, with_states(*states))
    assert names(found.newly_failing) == list(failing)
    assert names(found.newly_passing) == list(passing)
    assert names(found.lost) == list(lost)


def test_check_that_is_new_and_fails_is_newly_failing() -> None:
    new = replace(CHECKS[1], node="tests/container/test_x.py::d")
    found = baseline.compare(GOOD, replace(GOOD, checks=(*CHECKS, new)))
    assert names(found.newly_failing) == ["d"]


def test_check_that_was_not_run_is_not_lost() -> None:
    left_out = replace(CHECKS[0], state=State.NOT_VERIFIED, reason="not run")
    assert not baseline.compare(GOOD, replace(GOOD, checks=(left_out,))).lost


def test_slower_and_larger_are_ratios_of_the_same_job() -> None:
    now = replace(
        GOOD,
        image=replace(GOOD.image, bytes=1100),
        jobs=(JobFacts("smoke-1", "Completed", 0, 20.0, 300),),
    )
    found = baseline.compare(GOOD, now)
    assert [(c.name, round(c.ratio, 2)) for c in found.slower] == [("smoke-1", 2.0)]
    assert [(c.name, round(c.ratio, 2)) for c in found.larger] == [("image", 1.1), ("smoke-1", 3.0)]
    text = [line for line, bad in baseline.lines(found) if bad]
    assert len(text) == 3
    elsewhere = baseline.compare(GOOD, replace(now, machine=Machine(cpus=64)))
    assert not elsewhere.slower
    assert "times not compared" in elsewhere.notes[0]


def test_another_job_is_not_compared() -> None:
    other = replace(GOOD, jobs=(JobFacts("smoke-2", "Completed", 0, 99.0, 999),))
    found = baseline.compare(GOOD, other)
    assert not found.slower
    assert not found.larger
    assert "smoke-1" in found.notes[0]


def test_run_against_itself_says_that_nothing_changed() -> None:
    text = [line for line, _ in baseline.lines(baseline.compare(GOOD, GOOD))]
    assert text[-1].strip() == "no check changed, nothing is slower or larger"
