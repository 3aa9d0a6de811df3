"""The catalogue of faults is sound, and an outcome is weighed by item, reason and collateral."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest

from splatgate import verdict
from splatgate.evidence import BadInput, Job, read
from splatgate.evidence.missing import QUICK
from splatgate.judge import in_process
from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.proof import bench, catalogue, cli, report
from splatgate.proof.edit import Edit
from splatgate.record import Check, Record, State

from .test_verdict import CHECKLIST, record

FAULT = catalogue.Fault(
    story="s", origin="K12, trap 1", kind="image", item="runtime.cuda", message="no code"
)


def check(item, state, reason="", node=None):
    lane = CHECKLIST.by_id[item].required[0]
    return Check(node or f"{item}::test_x", item, "must", lane, state, reason=reason)


GOOD = record([check("runtime.cuda", State.PASSED), check("build.platform", State.PASSED)])


def test_every_folder_of_the_catalogue_is_sound():
    found = catalogue.load(ROOT / "tests" / "faults")
    assert sum(f.control for f in found.values()) >= 3
    for name, fault in found.items():
        maker = "Dockerfile" if fault.kind == "image" else "make.py"
        assert fault.edit or (ROOT / "tests" / "faults" / name / maker).exists(), name


def test_caught_by_item_and_reason():
    bad = record([check("runtime.cuda", State.FAILED, "no code for 75")])
    found = report.weigh("f", FAULT, bad, GOOD)
    assert (found.status, found.reason_matched, found.collateral) == ("caught", True, ())


def test_the_wrong_reason_is_a_miss():
    bad = record([check("runtime.cuda", State.FAILED, "something else")])
    found = report.weigh("f", FAULT, bad, GOOD)
    assert (found.status, found.reason_matched) == ("missed", False)


def test_another_items_failure_is_collateral():
    bad = record(
        [check("runtime.cuda", State.FAILED, "no code"), check("build.platform", State.FAILED)]
    )
    assert report.weigh("f", FAULT, bad, GOOD).collateral == ("build.platform",)


def test_what_already_failed_is_no_collateral():
    broken = check("build.platform", State.FAILED)
    bad = record([check("runtime.cuda", State.FAILED, "no code"), broken])
    assert report.weigh("f", FAULT, bad, record([broken])).collateral == ()


def test_an_item_without_a_check_is_open():
    found = report.weigh("f", replace(FAULT, item="build.pushed"), GOOD, GOOD)
    assert found.status == "open"


def test_a_control_disturbs_by_any_changed_state():
    changed = record(
        [check("runtime.cuda", State.NOT_VERIFIED), check("build.platform", State.PASSED)]
    )
    assert [d.split(":")[0] for d in report.disturbed(changed, GOOD)] == ["runtime.cuda"]
    assert report.disturbed(GOOD, GOOD) == ()


def test_lists_split_by_what_was_caught():
    outcome = report.weigh(
        "f", FAULT, record([check("runtime.cuda", State.FAILED, "no code")]), GOOD
    )
    found = report.lists({"f": FAULT}, [outcome])
    assert found["K"]["caught"] == ("K12",)
    assert found["traps"]["caught"] == ("trap 1",)
    assert "trap 13" in found["traps"]["open"]
    assert found["items"]["caught"] == ("runtime.cuda",)
    assert verdict.items(CHECKLIST, ()).keys() == set(found["items"]["caught"]) | set(
        found["items"]["open"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('story = "s"', "origin"),
        ('story="s"\norigin="K1"\nkind="cake"\n', "kind"),
        ('story="s"\norigin="K1"\nkind="image"\nitem="no.such"\nmessage="m"', "checklist"),
        ('story="s"\norigin="K1"\nkind="image"\nitem="runtime.cuda"', "message"),
        ("story = ", "Invalid value"),
    ],
    ids=["missing", "kind", "item", "message", "toml"],
)
def test_a_broken_fault_is_refused_in_one_line(tmp_path, text, said):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "fault.toml").write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        catalogue.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no \*/fault\.toml"):
        catalogue.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "Expected `str`"),
        ("\n".join(f'K0{n} = "why"' for n in range(6)), "more than 5"),
        ('K01 = """a\nb"""', "lines"),
    ],
    ids=["no-text", "too-many", "two-lines"],
)
def test_few_excuses_of_a_line_each(tmp_path, text, said):
    assert catalogue.excuses(tmp_path) == {}
    (tmp_path / "excused.toml").write_text(text)
    with pytest.raises(BadInput, match=said):
        catalogue.excuses(tmp_path)


def test_the_excused_is_neither_caught_nor_open():
    found = report.lists({}, [], {"K01": "a host of its own"})
    assert found["K"]["excused"] == ("K01",)
    assert "K01" not in found["K"]["open"]


def test_redundant_is_what_the_good_image_passes_and_no_caught_fault_needs():
    bad = record([check("runtime.cuda", State.FAILED, "no code")])
    caught = report.weigh("f", FAULT, bad, GOOD)
    assert report.redundant([GOOD], [caught]) == ("build.platform::test_x",)
    not_run = replace(caught, status="not-run", item="build.platform")
    assert report.redundant([GOOD], [caught, not_run]) == ()


@pytest.mark.parametrize(
    ("lacked", "status"), [({"f"}, 0), (set(), 3)], ids=["by-the-machine", "unmade"]
)
def test_what_the_machine_lacks_is_told_and_is_no_failure(lacked, status, capsys):
    bad = record([check("runtime.cuda", State.FAILED, "no code")])
    unrun = replace(report.weigh("f", FAULT, bad, GOOD), status="not-run")
    found = report.Report(faults=(unrun,), controls=(), redundant=(), lists={}, excused={})
    assert cli._close(found, lacked) == status
    assert "1 not run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "is_quick"),
    [
        ({}, False),
        ({"quick": True}, True),
        ({"lane": "container"}, True),
        ({"lane": "container", "trains": True}, False),
    ],
    ids=["whole", "quick", "lane", "training-lane"],
)
def test_a_fault_that_shows_while_training_is_not_judged_with_quick(keys, is_quick):
    assert replace(FAULT, **keys).is_quick is is_quick


def test_what_quick_leaves_out_disturbs_nothing():
    left_out = record(
        [check("runtime.cuda", State.NOT_VERIFIED, QUICK), check("build.platform", State.PASSED)]
    )
    assert report.disturbed(left_out, GOOD) == ()


def evidence(tmp_path):
    (tmp_path / "image.json").write_text('{"env": {"A": "1"}, "layers": [{"name": "x"}]}')
    (tmp_path / "build.log").write_text("fine\n")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Edit("image.json", ("env", "A"), "2"), {"env": {"A": "2"}, "layers": [{"name": "x"}]}),
        (Edit("image.json", ("env", "B"), "2"), {"env": {"A": "1", "B": "2"}}),
        (Edit("*.json", ("layers", "x", "bytes"), 1), {"layers": [{"name": "x", "bytes": 1}]}),
        (Edit("image.json", ("layers",), add=1), {"layers": [{"name": "x"}, 1]}),
    ],
    ids=["value", "new", "by-name", "add"],
)
def test_an_edit_changes_what_it_says(tmp_path, change, expected):
    change.apply(evidence(tmp_path))
    found = json.loads((tmp_path / "image.json").read_text())
    assert found == {**found, **expected}


def test_an_edit_of_a_log_appends(tmp_path):
    Edit("build.log", append="ERROR: x\n").apply(evidence(tmp_path))
    assert (tmp_path / "build.log").read_text() == "fine\nERROR: x\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Edit("none.json"), "no such file"),
        (Edit("image.json", ("env", "A"), "1"), "changes nothing"),
        (Edit("image.json", ("layers", "no", "x"), "1"), "changes nothing"),
        (Edit("image.json", ("nothing",), add="1"), "nothing"),
    ],
    ids=["file", "same", "element", "list"],
)
def test_an_edit_that_edits_nothing_is_refused(tmp_path, change, said):
    with pytest.raises(BadInput, match=said):
        change.apply(evidence(tmp_path))


def test_evidence_is_judged_in_this_process_as_the_verb_does(tmp_path):
    found = in_process.judged(bench.RECORDED, DEFAULT_SCENE)
    told = read(bench.RECORDED / "record.json", Record)
    assert {c.name for c in told.checks} <= {c.name for c in found.checks}
    assert all(c.item and c.needs is not None for c in found.checks)
    assert not any(c.state == State.FAILED for c in found.checks)


def test_an_edited_artefact_is_the_jobs_own(tmp_path):
    shutil.copytree(ROOT / "tests" / "evidence" / "good", tmp_path / "edited")
    (path,) = (tmp_path / "edited").glob("jobs/truth-*/model/metrics.json")
    path.write_text("{}")
    bench.remember("artefact", tmp_path / "edited")
    job = read(path.parent.parent / "job.json", Job)
    (member,) = (m for m in job.members if m.path == "metrics.json")
    assert (member.bytes, member.sha256) == (2, hashlib.sha256(b"{}").hexdigest())
