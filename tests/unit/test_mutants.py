"""How evidence is edited for a mutant, and how one is judged and told."""

import subprocess
import sys

import pytest

from splatgate.evidence.missing import Blocked, NotVerified
from splatgate.paths import ROOT
from splatgate.proof import edit, mutants, mutations, report
from splatgate.record import Check, State
from splatgate.sources.recorded import Recorded

GOOD = ROOT / "tests" / "evidence" / "good"
recorded = pytest.mark.skipif(
    not (GOOD / "evidence.json").exists(), reason="no evidence is recorded in tests/evidence/good"
)


@pytest.fixture(scope="module")
def all_of_them():
    return list(mutants.mutants(GOOD))


@recorded
def test_every_documented_value_finds_its_field(all_of_them):
    tried = [m for m in all_of_them if m.documented]
    assert len(tried) >= len(mutations.BAD)
    original = {m.file: (GOOD / m.file).read_bytes() for m in tried}
    idle = [
        m.mutation
        for m in tried
        if mutants.decode(m.file, m.contents[m.file]) == mutants.decode(m.file, original[m.file])
    ]
    assert not idle, "documented values that change nothing"


def test_edits_of_a_document():
    found = {
        (".".join(map(str, path)), what)
        for path, what, _ in mutations.edits(
            {"a": [1, "x"], "b": True, "c": None, "d": {}, "e": []}
        )
    }
    assert {("", "emptied"), ("a", "removed"), ("a", "emptied"), ("a.0", "removed")} <= found
    assert {("a.0", "set to 0"), ("a.1", "set to ''"), ("b", "flipped")} <= found
    assert {("c", "set to 'mutant'"), ("e", "filled")} <= found
    assert ("d", "emptied") not in found


def test_an_edit_changes_its_document_and_no_other():
    good = {"a": {"b": [{"c": 1}, {"c": 2}]}, "d": ""}
    for path, what, edited in mutations.edits(good):
        assert edited != good, (path, what)
    assert good == {"a": {"b": [{"c": 1}, {"c": 2}]}, "d": ""}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("a", 1, "v"), {"a": [{"name": "x", "v": 1}, {"name": "y", "v": 9}]}),
        (("a", "x", "v"), {"a": [{"name": "x", "v": 9}, {"name": "y", "v": 2}]}),
        (("*", 0), {"a": [9, {"name": "y", "v": 2}]}),
        (("new",), {"a": [{"name": "x", "v": 1}, {"name": "y", "v": 2}], "new": 9}),
    ],
    ids=["index", "name", "pattern", "added"],
)
def test_a_value_is_put_at_a_path(path, expected):
    good = {"a": [{"name": "x", "v": 1}, {"name": "y", "v": 2}]}
    assert edit.put(good, {path: 9}) == expected


def test_rules_have_reasons_and_match_field_or_mutation():
    assert all(rule.why and rule.fields for rule in mutations.rules())
    assert mutations.equivalent("image.json", "ref")
    assert mutations.equivalent("evidence.json", "schema", "removed")
    assert not mutations.equivalent("evidence.json", "schema", "set to 'mutant'")
    assert not mutations.equivalent("image.json", "architecture")


def test_every_bad_value_cites_where_it_was_seen():
    assert all(bad.source and bad.changes for bad in mutations.BAD)


def test_cases_are_the_checks_that_pytest_would_run():
    found = {case.check.node for case in mutants.cases("container", "sagemaker")}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q"]
    listed = subprocess.run(
        [*command, "tests/container", "tests/sagemaker"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert found == {line for line in listed.splitlines() if "::" in line}


@pytest.mark.parametrize(
    ("raised", "state", "error"),
    [
        (None, State.PASSED, False),
        (AssertionError("no"), State.FAILED, False),
        (Blocked("test_y", "no"), State.BLOCKED, False),
        (NotVerified("no"), State.NOT_VERIFIED, False),
        (KeyError("no"), State.NOT_VERIFIED, True),
    ],
    ids=["passed", "failed", "blocked", "not-verified", "error"],
)
def test_a_check_is_judged_by_the_plugins_rule(tmp_path, raised, state, error):
    def test_x(evidence):
        if raised:
            raise raised

    case = mutants.Case(Check("x::test_x", "", "must", "container"), test_x, {})
    found = mutants.judge(case, Recorded(tmp_path, tmp_path))
    assert (found.state, found.error) == (state, error)


def test_survivors_are_reported_and_decide_nothing(monkeypatch, tmp_path):
    (tmp_path / "evidence.json").write_text("{}")
    tally = mutants.Tally(3, 1, 1, ({"field": "image.json:os", "mutation": "removed"},))
    monkeypatch.setattr(mutants, "run", lambda evidence: tally)
    said = []
    found = report.with_mutants(report.Report((), (), (), {}), tmp_path, said.append)
    assert found.mutants == {"tried": 3, "killed": 1, "equivalent": 1}
    assert found.survivors == tally.survivors
    assert said[-1] == "mutants: 1 of 3 killed, 1 equivalent by rule, 1 survive"
