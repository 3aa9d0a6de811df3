"""The right line of the checklist comes first, and a healthy job explains nothing."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate.diagnose import shapes
from splatgate.diagnose.bundle import load
from splatgate.diagnose.explain import explain
from splatgate.paths import ROOT
from tests.unit import strangers
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


@pytest.mark.parametrize("name", strangers.TABLE)
def test_what_others_hand_over_is_read_and_explained_or_said_to_be_unknown(tmp_path, name):
    entry = strangers.TABLE[name]
    found = explain(load(strangers.write(entry, tmp_path)))
    ranked = [e.item for e in found.ranked]
    if entry["item"]:
        assert set(ranked[:1]) & set(entry["item"]), ranked
        assert not found.unknown
    else:
        assert found.unknown
        # Nobody wrote a failure text: that is said of a failure without one, and no more.
        assert all(e.strength == "mute" for e in found.ranked), ranked
        assert not ranked or found.failed


RAN = ROOT / "tests" / "evidence" / "failed"
EXPECTED = tomllib.loads((RAN / "expected.toml").read_text())


RECORDED = sorted(path.parent.name for path in RAN.glob("*/job.json"))


@pytest.mark.parametrize("name", RECORDED)
def test_a_fault_that_was_run_on_the_training_host_is_among_the_first_three(name):
    found = explain(load(RAN / name))
    assert found.failed
    assert EXPECTED[name] in [e.item for e in found.ranked][:3]
    assert found.unknown == (name == "says-nothing")


def test_of_the_faults_that_were_run_nine_of_ten_are_first():
    first = {name: explain(load(RAN / name)).ranked[0].item for name in RECORDED}
    confused = {name: item for name, item in first.items() if item != EXPECTED[name]}
    assert len(RECORDED) >= 6
    assert len(confused) <= len(RECORDED) / 10, confused


@given(st.data())
def test_json_that_is_cut_short_keeps_what_came_before(data):
    value = data.draw(
        st.lists(
            st.dictionaries(st.text(), st.text() | st.integers() | st.none(), min_size=1),
            min_size=2,
            max_size=4,
        )
    )
    text = json.dumps(value)
    cut = data.draw(st.integers(len(json.dumps(value[:1])), len(text) - 1))
    found = shapes.mended(text[:cut])
    assert found[0] == value[0]
    assert all(a.items() <= b.items() for a, b in zip(found, value, strict=False))


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_no_text_breaks_a_reader(text):
    shapes.mended(text)
    shapes.described(text)
    shapes.rows(text)
    shapes.moment(text)
    shapes.decoded(text.encode())
