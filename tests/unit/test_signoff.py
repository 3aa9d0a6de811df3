"""Records become one decision; each doubt is a refusal with a code of its own."""

import json
import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splatgate import checklist
from splatgate.container.budget import budget
from splatgate.evidence import BadInput, Header, Machine, read, write
from splatgate.record import Record, State
from splatgate.signoff import attest, cli, policy, validation
from tests.unit.signoffs import (
    DIGEST,
    PAST,
    gate,
    judged,
    on_a_gpu_machine,
    policies,
    rewrite,
    with_states,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return judged(tmp_path_factory.mktemp("signoff") / "run")


@pytest.fixture
def run(recorded, tmp_path):
    """A folder as `judge` leaves it, to spoil."""
    shutil.copytree(recorded, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def rules(recorded, tmp_path):
    return lambda **fields: policies(
        tmp_path / "policy.toml", read(recorded / "record.json", Record), **fields
    )


def test_what_holds_is_conformant_and_bound_to_the_digest(run, rules, tmp_path, capsys):
    status, found, _ = gate(tmp_path, capsys, run, "--policy", "good", "--policies", rules())
    assert (status, found["verdict"], found["missing"]) == (0, "conformant", [])
    assert found["manifest_digest"] == DIGEST
    assert found["policy_sha256"] == policy.load(rules(), "good", checklist.load()).sha256
    assert found["checklist_sha256"] == checklist.load().sha256


def other_image(run, record):
    other = "sha256:" + "e" * 64
    header = read(run / "evidence" / "evidence.json", Header)
    write(run / "evidence" / "evidence.json", replace(header, image_id=other))
    rewrite(run, record, image=replace(record.image, image_id=other))


def edited_record(run, record):
    text = (run / "record.json").read_text()
    (run / "record.json").write_text(text.replace('"state": "passed"', '"state": "blocked"', 1))


def edited_evidence(run, record):
    path = run / "evidence" / "container" / "facts.json"
    path.write_text(path.read_text().replace("sm_75", "sm_86") + " ")


def process(run, record):
    path = run / "evidence" / "evidence.json"
    header = replace(read(path, Header), extra={"runtime": "process"}, image_id=None)
    write(path, header)
    rewrite(run, record, image=replace(record.image, image_id=None))


def on_another_gpu(run, record):
    checks = with_states(record, {"test_trains_on_the_gpu": State.PASSED})
    rewrite(run, record, checks=checks, machine=Machine(gpu="NVIDIA H100, 9.0, 570.1"))


SPOILT = {
    "altered": edited_record,
    "other-image": other_image,
    "stale": lambda run, record: rewrite(run, record, created=PAST),
    "dirty-tree": lambda r, x: rewrite(r, x, suite=replace(x.suite, dirty=True)),
    "other-checklist": lambda r, x: rewrite(r, x, suite=replace(x.suite, checklist_sha256="0")),
    "unsigned": lambda run, record: None,
    "supporting-only": process,
    "other-gpu": on_another_gpu,
    "expired-waiver": lambda run, record: None,
}
WAIVER = {"item": "runtime.cuda", "reason": "known", "owner": "ops", "expires": "2999-01-01"}
POLICY = {
    "unsigned": {"signed": True, "keys": ["0" * 64]},
    "supporting-only": {"lanes": ["container", "gpu"]},
    "other-gpu": {"lanes": ["container", "gpu"], "gpu": ["T4"]},
    "expired-waiver": {"waiver": [{**WAIVER, "expires": "2020-01-01"}]},
}


@pytest.mark.parametrize("code", SPOILT)
def test_each_doubt_is_refused_with_a_code_of_its_own(code, run, recorded, rules, tmp_path, capsys):
    SPOILT[code](run, read(run / "record.json", Record))
    given = [recorded, run] if code in ("other-image", "supporting-only") else [run]
    where = ("--policy", "other", "--policies", rules(**POLICY.get(code, {})))
    status, found, words = gate(tmp_path, capsys, *given, *where)
    assert {r["code"] for r in found["refused"]} == {code}
    assert (status, found["verdict"]) == (2, "partial")
    assert code in words
    assert all(r["reason"] and r["remedy"] for r in found["refused"])


def test_edited_evidence_is_refused_by_name(run, rules, tmp_path, capsys):
    edited_evidence(run, None)
    status, found, _ = gate(tmp_path, capsys, run, "--policy", "good", "--policies", rules())
    (refused,) = found["refused"]
    assert (status, refused["code"]) == (2, "altered")
    assert "container/facts.json" in refused["reason"]


def test_a_signed_record_is_taken_where_the_policy_wants_it(run, rules, tmp_path, capsys):
    key, name = make_key(tmp_path)
    assert cli.sign([str(run), "--key", str(key)]) == 0
    assert capsys.readouterr().out.strip() == name
    where = ("--policy", "other", "--policies", rules(signed=True, keys=[name]), "--trust", key)
    status, found, _ = gate(tmp_path, capsys, run, *where)
    assert (status, found["sources"][0]["signed_by"]) == (0, name)


def make_key(folder):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "key.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return path, attest.Public.of(key.public_key()).id


def test_a_failed_item_is_non_conformant_and_named(run, rules, tmp_path, capsys):
    record = read(run / "record.json", Record)
    rewrite(run, record, checks=with_states(record, {"test_imports_resolve": State.FAILED}))
    status, found, _ = gate(tmp_path, capsys, run, "--policy", "good", "--policies", rules())
    assert (status, found["verdict"]) == (1, "non-conformant")
    assert "Python dependencies installed correctly" in found["why"]


def test_a_waived_failure_is_counted_in_the_verdict(run, rules, tmp_path, capsys):
    record = read(run / "record.json", Record)
    failed = with_states(record, {"test_declared_driver_floor_is_enough_for_cuda": State.FAILED})
    rewrite(run, record, checks=failed)
    where = rules(waiver=[WAIVER])
    status, found, words = gate(tmp_path, capsys, run, "--policy", "other", "--policies", where)
    assert (status, found["verdict"]) == (0, "conformant")
    assert [(w["item"], w["state"]) for w in found["waived"]] == [("runtime.cuda", "failed")]
    assert "conformant (1 waived)" in words


def test_what_a_run_left_out_is_missing(run, rules, tmp_path, capsys):
    record = read(run / "record.json", Record)
    kept = tuple(c for c in record.checks if c.name != "test_torch_is_built_for_cuda")
    rewrite(run, record, checks=kept)
    status, found, _ = gate(tmp_path, capsys, run, "--policy", "good", "--policies", rules())
    assert (status, [m["item"] for m in found["missing"]]) == (2, ["runtime.cuda"])
    assert "--lane container" in found["missing"][0]["command"]


def test_the_graver_of_two_answers_stands(run, recorded, rules, tmp_path, capsys):
    record = read(run / "record.json", Record)
    checks = with_states(record, {"test_torch_is_built_for_cuda": State.FAILED})
    rewrite(run, record, checks=checks, run="another")
    for order in ([run, recorded], [recorded, run]):
        status, _, _ = gate(tmp_path, capsys, *order, "--policy", "good", "--policies", rules())
        assert status == 1


def test_a_gpu_record_from_outside_the_image_releases_nothing(recorded, tmp_path, capsys):
    """It is shown and never counted: what is missing is named, with what would show it."""
    on_a_gpu_machine(recorded, tmp_path / "gpu")
    given = (recorded, tmp_path / "gpu", "--policy", "release")
    status, found, words = gate(tmp_path, capsys, *given)
    assert (status, found["verdict"]) == (2, "partial")
    assert [r["code"] for r in found["refused"]] == ["supporting-only"]
    wanted = {i.id for i in checklist.load().item if "gpu" in i.required}
    assert {m["item"] for m in found["missing"]} == wanted
    assert all("--lane gpu  # " in m["command"] and "T4" in m["command"] for m in found["missing"])
    (cuda,) = [x for x in found["lines"] if x["id"] == "runtime.cuda"]
    assert any(c["supporting"] and c["state"] == "passed" for c in cuda["checks"])
    # Nor does what it measured keep to a bound.
    assert [(b["threshold"]["measure"], b["value"]) for b in found["bounds"]] == [
        ("gpu.projected_seconds", None)
    ]
    beside = [s["key"] for s in found["measured"]["steps"] if s["supporting"]]
    assert [key.partition("-")[0] for key in beside] == ["gpu"]
    page, summary = (tmp_path / "gate" / n for n in ("signoff.html", "summary.md"))
    for text in (words, page.read_text(), summary.read_text()):
        assert "Not to be released yet" in text
        assert "process runtime (NVIDIA H200), outside the image" in text


def test_a_threshold_decides(run, rules, tmp_path, capsys):
    for limit, expected in ((1, 1), (10**12, 0)):
        bound = {"measure": "image.bytes", "max": limit, "why": "small is quick"}
        where = rules(threshold=[bound])
        status, _, _ = gate(tmp_path, capsys, run, "--policy", "other", "--policies", where)
        assert status == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lanes": ["kontainer"]}, "unknown lane kontainer"),
        ({"items": ["runtime.cude"]}, "unknown item runtime.cude"),
        ({"items": []}, "no items"),
        ({"lanes": []}, "no lanes"),
        ({"items": ["runtime.cuda"], "lanes": ["sagemaker"]}, "requires nothing"),
        ({"signed": True}, "needs keys"),
        ({"max_age": 3}, "max_age: unknown key; did you mean max_age_days"),
        (
            {
                "waiver": [
                    {"item": "runtime.cuda", "reason": " ", "owner": "o", "expires": "2999-01-01"}
                ]
            },
            "needs a reason",
        ),
    ],
    ids=["lane", "item", "no-items", "no-lanes", "nothing", "keys", "field", "reason"],
)
def test_a_policy_that_says_nothing_known_is_refused(fields, said, rules):
    with pytest.raises(BadInput, match=said):
        policy.load(rules(**fields), "other", checklist.load())


def test_the_policies_of_the_repository_are_sound():
    for name in ("staging", "release"):
        assert policy.load(policy.FILE, name, checklist.load()).cells(checklist.load())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no .budget."),
        ("[budget]\nbytes = 1", "layers"),
        ("[budget]\nbytes = 1\nlayers = 2\nlayer = 3", "layer: unknown key"),
    ],
    ids=["none", "half", "misspelt"],
)
def test_a_budget_that_bounds_nothing_is_refused(tmp_path, text, said):
    path = tmp_path / "policy.toml"
    path.write_text(f"schema = 1\n[policy]\n{text}\n")
    with pytest.raises(BadInput, match=said):
        budget(path)


def test_what_is_no_record_is_one_line(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(BadInput, match="record it anew"):
        validation.take(validation.find(str(tmp_path)))
    with pytest.raises(BadInput, match=r"no record\.json"):
        validation.find(str(tmp_path / "none"))


def test_every_form_of_the_sign_off_tells_the_same(run, rules, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    record = read(run / "record.json", Record)
    rewrite(run, record, checks=with_states(record, {"test_imports_resolve": State.FAILED}))
    _, found, _ = gate(tmp_path, capsys, run, "--policy", "good", "--policies", rules())
    out = tmp_path / "gate"
    assert json.loads((out / "signoff.json").read_text()) == found
    text = (tmp_path / "step.md").read_text()
    assert text == (out / "summary.md").read_text()
    assert "non-conformant" in text
    assert all(line["sentence"] in text for line in found["lines"])
    cases = ElementTree.parse(out / "junit.xml").getroot().iter("testcase")
    failed = {case.get("classname") for case in cases if case.find("failure") is not None}
    assert failed == {x["id"] for x in found["lines"] if x["state"] == "failed"}
    predicate = json.loads((out / "predicate.json").read_text())
    assert predicate["result"] == "FAILED"
    assert failed <= set(predicate["failedTests"])
    assert not set(predicate["passedTests"]) & set(predicate["failedTests"])


WORDS = st.sampled_from(["container", "gpu", "runtime.cuda", "T4", "", "image.bytes"])
VALUES = st.one_of(WORDS, st.booleans(), st.integers(-3, 3), st.lists(WORDS, max_size=3))
FIELDS = st.sampled_from([f.name for f in fields(policy.Policy)] + ["max_age"])


def loaded(path):
    """A policy, or why it is refused."""
    try:
        return policy.load(path, "p", checklist.load())
    except BadInput as error:
        return str(error)


@settings(deadline=None)
@given(st.dictionaries(FIELDS, VALUES, max_size=5))
def test_any_policy_is_sound_or_refused_in_one_line(given_fields):
    lines = [f"{name} = {json.dumps(value)}" for name, value in given_fields.items()]
    text = "\n".join(["schema = 1", "[policy.p]", *lines])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.toml"
        path.write_text(text)
        found = loaded(path)
    lines = found.splitlines() if isinstance(found, str) else []
    assert len(lines) == 1 if isinstance(found, str) else found.cells(checklist.load())


def test_bad_input_is_one_line_and_exit_3(tmp_path, capsys):
    from splatgate.cli import main

    assert main(["gate", str(tmp_path), "--policy", "staging"]) == 3
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "gate").exists()
