"""Sixty mutants of ten definitions, written by somebody who had not seen the rules."""

import re
import tomllib

import pytest

from splatgate.evidence import BadInput
from splatgate.pipeline import source
from splatgate.pipeline.judge import judge
from tests.machines.unseen.apply import HERE, mutants

TABLES = [tomllib.loads(p.read_text()) for p in sorted(HERE.glob("*.mutants.toml"))]
MUTANTS = {m["id"]: (path, m, text) for path, m, text in mutants()}


def told(table, text=None, role=None):
    """State, level and reason of what is found, each way of a cause for itself."""
    path = HERE / table["original"]
    policies = {"state-machine": role or HERE / table["role"]} if "role" in table else {}
    (found,) = source.chosen(text or path)
    pipeline = source.pipeline_of(*found, HERE / table["input"], policies)
    for finding in judge(pipeline).findings:
        yield finding.state, finding.level, finding.reason
        for way in finding.ways:
            state, _, reason = way.partition(": ")
            yield state, finding.level, reason


@pytest.mark.parametrize("table", TABLES, ids=[t["original"] for t in TABLES])
def test_the_originals_have_no_must(table):
    assert [t for t in told(table) if t[1] == "must"] == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_named_with_the_right_reason(name, tmp_path):
    path, mutant, text = MUTANTS[name]
    table = next(t for t in TABLES if mutant in t["mutant"])
    copy = tmp_path / path.name
    copy.write_text(text)
    edited = path.name == table["original"]
    try:
        found = list(told(table, copy) if edited else told(table, role=copy))
    except BadInput as error:
        found = [("", "must", str(error))]
    expect = mutant["expect"]
    right = [
        level
        for state, level, reason in found
        if re.search(expect["state"], state, re.I) and re.search(expect["about"], reason, re.I)
    ]
    assert right, found
    assert "must" in right or expect["level"] == "should", found
