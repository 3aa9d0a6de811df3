"""The right line of the checklist comes first, and a healthy job explains nothing."""

import pytest

from splatgate.diagnose.bundle import load
from splatgate.diagnose.explain import explain
from tests.unit.bundles import TABLE, write

FAILURES = {name: entry for name, entry in TABLE.items() if "item" in entry}


@pytest.fixture(scope="module")
def diagnoses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {name: explain(load(write(e, folder / name))) for name, e in FAILURES.items()}


@pytest.mark.parametrize("name", FAILURES)
def test_the_right_line_is_among_the_first_three(diagnoses, name):
    entry = FAILURES[name]
    ranked = [found.item for found in diagnoses[name].ranked]
    assert entry["item"] in ranked[:3], ranked
    assert set(ranked) <= {entry["item"], *entry.get("also", ()), "production.errors"}, ranked


def test_the_right_line_is_first_in_nine_of_ten(diagnoses):
    confused = {
        name: [f.item for f in diagnoses[name].ranked][:3]
        for name, entry in FAILURES.items()
        if diagnoses[name].ranked[0].item != entry["item"]
    }
    table = "\n".join(f"{n}: {FAILURES[n]['item']} → {r}" for n, r in confused.items())
    print(f"first in {len(FAILURES) - len(confused)} of {len(FAILURES)}\n{table}")  # noqa: T201
    assert len(confused) <= len(FAILURES) / 10, table


def test_a_healthy_bundle_is_unknown_and_explains_nothing(tmp_path):
    found = explain(load(write(TABLE["good"], tmp_path)))
    assert found.ranked == ()
    assert found.unknown
    assert not found.failed


def test_an_unheard_of_failure_says_so_and_quotes_its_last_words(tmp_path):
    found = explain(load(write(TABLE["unheard-of"], tmp_path)))
    assert (found.ranked, found.unknown, found.failed) == ((), True, True)
    assert any("flux" in quote.line for quote in found.last_words)
