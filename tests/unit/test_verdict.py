"""From checks to items to a verdict: one fault is one failed item, no evidence is no pass."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from splatgate import checklist as checklists
from splatgate import verdict
from splatgate.evidence import Machine
from splatgate.record import Check, ImageFacts, Leftovers, Record, State, Suite

CHECKLIST = checklists.load()


def check(name, state, needs=(), item="runtime.entry-point", lane="container", **more):
    return Check(
        node=f"tests/{lane}/test_x.py::{name}",
        item=item,
        level=more.pop("level", "must"),
        lane=lane,
        state=state,
        needs=tuple(needs),
        **more,
    )


def states(*checks):
    return {c.name: (c.state, c.blocked_by) for c in verdict.settle(checks)}


def record(checks, **changes):
    settled = verdict.settle(checks)
    items = verdict.items(CHECKLIST, settled)
    base = Record(
        image=ImageFacts(),
        suite=Suite("0", None, None, ""),
        machine=Machine(),
        items=items,
        checks=settled,
        jobs=(),
        timings={},
        leftovers=Leftovers(),
        verdict=verdict.verdict(items),
    )
    return replace(base, **changes)


def test_a_consequence_is_blocked_by_its_earliest_cause():
    found = states(
        check("model", State.BLOCKED, blocked_by="job"),
        check("job", State.FAILED, ["start"]),
        check("start", State.FAILED, ["compiles"]),
        check("compiles", State.FAILED),
    )
    cause = "tests/container/test_x.py::compiles"
    assert found == {
        "compiles": (State.FAILED, None),
        "start": (State.BLOCKED, cause),
        "job": (State.BLOCKED, cause),
        "model": (State.BLOCKED, cause),
    }


def test_a_failure_whose_needs_held_stands():
    found = states(check("a", State.PASSED), check("b", State.FAILED, ["a"]))
    assert found["b"] == (State.FAILED, None)


def test_what_broke_on_what_its_need_explains_is_blocked_and_breaks_no_chain():
    broke = {"error": True, "reason": "error in call: AttributeError: 'NoneType' …"}
    chain = [
        check("torch", State.FAILED),
        check("cuda", State.NOT_VERIFIED, ["torch"], **broke),
        check("kernels", State.FAILED, ["cuda"]),
    ]
    assert {name: state for name, (state, _) in states(*chain).items()} == {
        "torch": State.FAILED,
        "cuda": State.BLOCKED,
        "kernels": State.BLOCKED,
    }
    assert not any(c.error for c in verdict.settle(chain))


def test_what_broke_by_itself_stays_an_error():
    broke = {"error": True, "reason": "error in call: KeyError: 'a'"}
    (found,) = verdict.settle([check("cuda", State.NOT_VERIFIED, **broke)])
    assert (found.state, found.error) == (State.NOT_VERIFIED, True)


def test_a_pass_is_never_taken_back():
    found = states(check("a", State.FAILED), check("b", State.PASSED, ["a"]))
    assert found["b"] == (State.PASSED, None)


def test_blocked_by_a_check_that_was_not_run_is_not_verified():
    found = states(check("b", State.BLOCKED, blocked_by="a"))
    assert found["b"][0] == State.NOT_VERIFIED


@given(st.permutations(range(4)))
def test_order_of_execution_changes_nothing(order):
    checks = [
        check("compiles", State.FAILED),
        check("start", State.FAILED, ["compiles"]),
        check("job", State.FAILED, ["start"]),
        check("other", State.PASSED),
    ]
    expected = states(*checks)
    assert states(*[checks[i] for i in order]) == expected


def test_a_lane_holds_only_when_every_must_check_passed():
    passed, skipped = check("a", State.PASSED), check("b", State.NOT_VERIFIED)
    assert verdict.lane_state([passed]) == State.HELD
    assert verdict.lane_state([passed, skipped]) == State.NOT_VERIFIED
    assert verdict.lane_state([]) == State.NOT_VERIFIED
    assert verdict.lane_state([passed, check("c", State.FAILED)]) == State.FAILED


def test_advice_decides_nothing():
    advice = check("a", State.FAILED, level="should")
    assert verdict.lane_state([advice, check("b", State.PASSED)]) == State.HELD
    assert verdict.lane_state([advice]) == State.NOT_VERIFIED


def test_supporting_evidence_is_not_counted():
    supporting = check("a", State.PASSED, lane="gpu", supporting=True)
    assert verdict.lane_state([supporting]) == State.NOT_VERIFIED
    assert verdict.lane_state([replace(supporting, state=State.FAILED)]) == State.FAILED


def test_an_item_needs_every_required_lane():
    cuda = CHECKLIST.by_id["runtime.cuda"]
    container = check("a", State.PASSED, item="runtime.cuda")
    gpu = check("b", State.PASSED, item="runtime.cuda", lane="gpu")
    assert verdict.item_state(cuda, [container]).state == State.NOT_VERIFIED
    assert verdict.item_state(cuda, [container], ["runtime.cuda/gpu"]).open == ("gpu",)
    assert verdict.item_state(cuda, [container, gpu]).state == State.HELD


def test_all_items_are_there_and_nothing_run_is_no_pass():
    empty = record([])
    assert len(empty.items) == len(CHECKLIST.item)
    assert empty.verdict == verdict.PARTIAL
    assert verdict.exit_status(empty) == verdict.EXIT_NO_JUDGEMENT


def test_exit_statuses():
    passed, failed = check("a", State.PASSED), check("b", State.FAILED)
    error = check("c", State.NOT_VERIFIED, error=True)
    assert verdict.exit_status(record([passed])) == 0
    assert verdict.exit_status(record([passed, failed])) == 1
    assert verdict.exit_status(record([passed, error])) == 3
    assert verdict.exit_status(record([failed, error])) == 1
    assert verdict.exit_status(record([passed], door="recorded")) == 3
    assert verdict.exit_status(record([passed], interrupted=True)) == 3


def test_conformant_needs_every_item():
    every = [
        check(f"t{n}", State.PASSED, item=item.id, lane=lane)
        for n, item in enumerate(CHECKLIST.item)
        for lane in item.required
    ]
    assert record(every).verdict == verdict.CONFORMANT
    assert record(every[1:]).verdict == verdict.PARTIAL
