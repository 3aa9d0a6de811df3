"""The right line of the checklist comes first, and a healthy job explains nothing."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate.diagnose import shapes
from splatgate.diagnose.explain import explain
from splatgate.diagnose.kinds import classify, kinds
from splatgate.diagnose.load import load
from splatgate.diagnose.stages import stages_of
from splatgate.paths import ROOT
from tests.unit import strangers
from tests.unit.bundles import TABLE, History, write

FAILURES = {name: entry for name, entry in TABLE.items() if "item" in entry}


@pytest.fixture(scope="module")
def diagnoses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {name: explain(load(write(e, folder / name))) for name, e in FAILURES.items()}


@pytest.mark.parametrize("name", FAILURES)
def test_the_right_line_comes_first(diagnoses, name):
    entry, found = FAILURES[name], diagnoses[name]
    ranked = [e.item for e in found.ranked]
    assert ranked[:1] == [entry["item"]], ranked
    assert set(entry.get("within", ())) <= set(ranked[:3]), ranked
    assert found.verdict == entry.get("verdict", "cause")
    assert entry.get("names", "") in found.ranked[0].cause + found.ranked[0].remedy


@pytest.mark.parametrize("name", FAILURES)
def test_a_log_that_ends_in_an_error_is_never_well(tmp_path, name):
    lines = FAILURES[name].get("log", "").strip("\n")
    if lines:
        (tmp_path / "run.log").write_text(lines)
        assert explain(load(tmp_path / "run.log")).verdict != "well"


HEALTHY = [name for name, entry in TABLE.items() if entry.get("well")]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_bundle_is_well_and_explains_nothing(tmp_path, name):
    found = explain(load(write(TABLE[name], tmp_path)))
    assert (found.verdict, found.ranked) == ("well", ())


def test_a_log_alone_is_never_well(tmp_path):
    (tmp_path / "run.log").write_text(TABLE["good"]["log"])
    found = explain(load(tmp_path))
    assert (found.verdict, found.ranked) == ("unknown", ())


def test_an_unheard_of_failure_says_so_and_gives_its_last_words(tmp_path):
    found = explain(load(write(TABLE["unheard-of"], tmp_path)))
    assert (found.verdict, found.ranked) == ("unknown", ())
    assert found.last_words.error.line == "WidgetError: the flux is misaligned"


def test_last_words_hold_the_exception_its_place_and_what_came_before(tmp_path):
    found = explain(load(write(TABLE["K22"], tmp_path))).last_words
    assert found.error.line.startswith("RuntimeError: The size of tensor a (13402)")
    assert found.frame == "/opt/ml/code/train.py:377 in densify"
    assert len(found.context) == 4
    assert "exit 1" in found.ending


@pytest.mark.parametrize("name", strangers.TABLE)
def test_what_others_hand_over_is_read_and_explained_or_said_to_be_unknown(tmp_path, name):
    entry = strangers.TABLE[name]
    found = explain(load(strangers.write(entry, tmp_path)))
    ranked = [e.item for e in found.ranked]
    if entry["item"]:
        assert set(ranked[:1]) & set(entry["item"]), ranked
    else:
        assert found.verdict != "cause"
        assert all(e.strength == "points" for e in found.ranked), ranked


RAN = ROOT / "tests" / "evidence" / "failed"
EXPECTED = tomllib.loads((RAN / "expected.toml").read_text())


RECORDED = sorted(path.parent.name for path in RAN.glob("*/job.json"))


@pytest.mark.parametrize("name", RECORDED)
def test_a_fault_that_was_run_on_the_training_host_is_among_the_first_three(name):
    found = explain(load(RAN / name))
    assert EXPECTED[name] in [e.item for e in found.ranked][:3]
    assert found.verdict == ("unknown" if name == "says-nothing" else "cause")


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
    shapes.events(text)


REPORTS = tomllib.loads((ROOT / "tests" / "unit" / "reports.toml").read_text())["report"]
TRACEBACK = 'Traceback (most recent call last):\n  File "/app/train.py", line 7, in fit\n    go()\n'


SERVICE = ("SageMaker.", "Lambda.", "States.", "KeyError: {")
REASON = ("AlgorithmError:", "ClientError:", "CapacityError:", "InternalServerError:", "Unexpected")


def reported(folder, report):
    """Write a job whose log ends in a report, or whose service gives it as the reason."""
    said = report["said"].replace("~", TRACEBACK)
    if said.startswith(SERVICE):
        error, _, cause = said.partition(": ")
        told = History().add("TaskStateEntered", 0, name="Train")
        told.add("ExecutionFailed", 1, error=error, cause=cause)
        (folder / "history.json").write_text(json.dumps({"events": told.events}))
        return folder
    reason = said.startswith(REASON)
    entry = {"kind": "plain", **({"reason": said} if reason else {"log": f"loading\n{said}"})}
    return write(entry, folder)


@pytest.mark.parametrize("report", REPORTS, ids=range(len(REPORTS)))
def test_a_report_is_read_by_what_it_says(tmp_path, report):
    ranked = [e.item for e in explain(load(reported(tmp_path, report))).ranked]
    assert set(ranked[:1]) & set(report["first"]) if report["first"] else not ranked


def test_every_row_of_the_table_is_needed(tmp_path, diagnoses):
    """A row that no bundle, report or recorded failure fits first is a row to delete."""
    used = set()
    known = {kind.match: kind for kind in kinds()}
    folders = [tmp_path / name for name in FAILURES]
    for name, folder in zip(FAILURES, folders, strict=True):
        write(FAILURES[name], folder)
    for number, report in enumerate(REPORTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        folders.append(reported(folder, report))
    for name, entry in strangers.TABLE.items():
        folder = tmp_path / f"strangers-{name}"
        folder.mkdir()
        folders.append(strangers.write(entry, folder))
    folders += [RAN / name for name in RECORDED]
    folders += [
        path.parent / "bundle" for path in (ROOT / "tests" / "bundles").glob("*/expected.toml")
    ]
    for folder in folders:
        bundle = load(folder)
        for stage in stages_of(bundle, bundle.statements()):
            fits = (classify(fault, stage.role)[0] for fault in stage.faults)
            used |= {kind.match for kind in fits if kind is not None}
            used |= {
                kind.match
                for kind in kinds()
                if kind.quiet and any(kind.search.search(s.text) for s in stage.statements)
            }
    assert [known[match].cause for match in known.keys() - used] == []
