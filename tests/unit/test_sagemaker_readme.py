"""The training host's README says what the code assumes, and names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from splatgate.paths import ROOT
from splatgate.sagemaker.assumptions import Assumptions

README = ROOT / "splatgate" / "sagemaker" / "README.md"
STATES = {"emulated", "checked", "not possible here"}


def table() -> list[list[str]]:
    """Rows of all tables: row of the contract, state, source, tests, assumption."""
    lines = [line for line in README.read_text().splitlines() if re.match(r"\| [123]\.", line)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 5 for row in rows), [row for row in rows if len(row) != 5]
    return rows


def known_tests() -> set[str]:
    files = [*Path(ROOT, "tests/unit").glob("*.py"), *Path(ROOT, "tests/host").glob("*.py")]
    return {
        name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }


def test_last_column_is_what_is_unverified() -> None:
    assumed = [row[4] for row in table() if row[4]]
    assert sorted(assumed) == sorted(Assumptions().rows())


def test_every_emulated_row_names_a_test_that_exists() -> None:
    known = known_tests()
    for row, state, source, names, _ in table():
        assert state in STATES, row
        assert source, row
        assert names or state == "not possible here", row
        assert set(names.split()) <= known, (row, set(names.split()) - known)


def test_every_test_of_the_host_stands_for_a_row() -> None:
    text = README.read_text()
    files = Path(ROOT, "tests/host").glob("test_training_host_[er]*.py")
    names = {n for p in files for n in re.findall(r"^def (test_\w+)", p.read_text(), re.M)}
    named = set(re.findall(r"test_\w+", text))
    # What the host itself promises, whatever SageMaker does.
    own = {
        "test_own_deadline_is_not_sagemakers",
        "test_failure_text_of_a_completed_job_is_no_reason",
        "test_only_spot_jobs_are_interrupted",
    }
    assert names - named == own
