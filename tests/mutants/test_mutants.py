"""Edits of evidence are noticed by a check, excused by a written rule, or on the list below.

Thousands of judgements: `make faults` runs them, not `make test`.
"""

import fnmatch
import json
import os
import shutil
import subprocess
import sys

import pytest

from splatgate.evidence import read
from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.proof import mutants, mutations
from splatgate.proof.mutants import Bench
from splatgate.record import Record, State

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
def test_the_good_evidence_is_judged_as_by_pytest(bench):
    seen = {c.node: c.state for c in read(GOOD / "record.json", Record).checks}
    now = {node: state for node, (state, _) in bench.before.items()}
    assert {node: now[node] for node in now.keys() & seen} == {
        n: seen[n] for n in now.keys() & seen
    }
    # A check that was written since is not in the record; the good image does not fail it.
    assert {now[node] for node in now.keys() - seen} <= {State.PASSED, State.NOT_VERIFIED}


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
