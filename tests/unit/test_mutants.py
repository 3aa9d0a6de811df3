"""Edits of evidence are noticed by a check, excused by a written rule, or on the list below."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys

import pytest

from splatgate.evidence import read
from splatgate.evidence.missing import Blocked, NotVerified
from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.proof import edit, mutants, mutations, report
from splatgate.proof.mutants import Bench
from splatgate.record import Check, Record, State
from splatgate.sources.recorded import Recorded

GOOD = ROOT / "tests" / "evidence" / "good"
#: Edits that no check notices yet, as (field, mutation). May only shrink.
SURVIVORS: set[tuple[str, str]] = set()

recorded = pytest.mark.skipif(
    not (GOOD / "evidence.json").exists(), reason="no evidence is recorded in tests/evidence/good"
)


@pytest.fixture(scope="module")
def all_of_them():
    return list(mutants.mutants(GOOD))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(GOOD, DEFAULT_SCENE, tmp_path_factory.mktemp("mutants") / "evidence")


@pytest.fixture(scope="module")
def alive(bench, all_of_them):
    """Mutants that no check notices."""
    return [mutant for mutant in all_of_them if not bench.notices(mutant)]


@recorded
def test_every_mutant_is_killed_or_excused(all_of_them, alive):
    assert len(all_of_them) > 5000
    found = {
        (f"{m.file}:{m.field}", m.mutation)
        for m in alive
        if m.documented or not mutations.equivalent(m.file, m.field, m.mutation)
    }
    assert not found - SURVIVORS, "survivors: sharpen a check, or write down why none should notice"
    assert not SURVIVORS - found, "these are noticed now: take them off the list"


@recorded
def test_every_rule_excuses_something(alive):
    names = [f"{m.file}:{m.field}{end}" for m in alive for end in ("", f" {m.mutation}")]
    idle = [
        pattern
        for rule in mutations.rules()
        for pattern in rule.fields
        if not fnmatch.filter(names, pattern)
    ]
    assert not idle, "rules that excuse nothing: take them out"


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


@recorded
def test_the_good_evidence_is_judged_as_by_pytest(bench):
    seen = {c.node: c.state for c in read(GOOD / "record.json", Record).checks}
    assert {n: state for n, (state, _) in bench.before.items()} == {
        node: state for node, state in seen.items() if node in bench.before
    }


SAMPLES = [
    ("container/facts.json", "environment.PATH", "removed"),
    ("container/facts.json", "", "environment.CUDA_VISIBLE_DEVICES='all' (K12, K18)"),
    ("image.json", "os", "removed"),
    ("jobs/truth-*/model/metrics.json", "psnr", "set to 0"),
]


@recorded
@pytest.mark.parametrize(
    ("file", "field", "mutation"), SAMPLES, ids=["excused", "documented", "refused", "artefact"]
)
def test_a_mutant_is_judged_as_by_pytest(bench, all_of_them, tmp_path, file, field, mutation):
    mutant = next(
        m
        for m in all_of_them
        if fnmatch.fnmatch(m.file, file) and (m.field, m.mutation) == (field, mutation)
    )
    shutil.copytree(GOOD, tmp_path / "edited")
    for name, content in mutant.contents.items():
        (tmp_path / "edited" / name).write_bytes(content)
    command = [sys.executable, "-m", "splatgate", "judge", "--json"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--evidence", str(tmp_path / "edited")],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    checks = {c["node"]: c for c in json.loads(done.stdout)["checks"]}
    for here in bench.states(mutant, bench.cases):
        there = checks[here.node]
        # A failure that another explains is settled as blocked, after all checks have their state.
        explained = there["state"] == State.BLOCKED and here.state == State.FAILED
        assert here.state == there["state"] or explained, here.node
        assert here.error == there["error"], here.node


@recorded
def test_a_check_that_reads_nothing_of_an_edit_does_not_judge_it(bench, all_of_them):
    """What was traced is enough: over a sample, no other check changes either."""
    for mutant in all_of_them[::400]:
        able = {c.check.node for c in bench.cases if bench.reads[c.check.node] & mutant.touches}
        for found in bench.states(mutant, bench.cases):
            if found.node not in able:
                assert (found.state, found.error) == bench.before[found.node], mutant


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
