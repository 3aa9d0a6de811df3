"""Evidence becomes one decision; each doubt is a refusal with a code of its own."""

import json
import shutil
import tempfile
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from splatgate import checklist
from splatgate.container.budget import budget
from splatgate.evidence import BadInput, Machine, read, write
from splatgate.record import Check, Record, State, evidence_sha256, fingerprint, sealed
from splatgate.signoff import attest, cli, policy, validation
from tests.unit.signoffs import (
    CLEAN,
    CONFIG,
    DIGEST,
    IMAGE_ID,
    PAST,
    edit,
    fails,
    gate,
    judged,
    on_a_gpu_machine,
    policies,
    sealed_again,
)

SIGNER = Ed25519PrivateKey.generate()
SOON = str((datetime.now(UTC) + timedelta(days=30)).date())


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


@pytest.fixture
def good(rules, tmp_path, capsys):
    """The gate under the policy that the recorded evidence keeps."""
    return lambda *given: gate(tmp_path, capsys, *given, "--policy", "good", "--policies", rules())


def codes(found):
    return {r["code"] for r in found["refused"]}


def test_what_holds_is_conformant_and_bound_to_the_digest(run, rules, good):
    status, found, _ = good(run)
    assert (status, found["verdict"], found["missing"]) == (0, "conformant", [])
    assert found["manifest_digest"] == DIGEST
    assert found["policy_sha256"] == policy.load(rules(), "good", checklist.load()).sha256
    assert found["checklist_sha256"] == checklist.load().sha256


def test_evidence_alone_is_enough(run, good):
    (run / "record.json").unlink()
    for folder in (run, run / "evidence"):
        assert good(folder)[0] == 0


def other_image(run):
    """Record and header of another image, the rest as it was."""
    edit(run / "evidence" / "evidence.json", image_id="sha256:" + "e" * 64)
    sealed_again(run)


def edited_record(run):
    text = (run / "record.json").read_text()
    (run / "record.json").write_text(text.replace('"state": "passed"', '"state": "blocked"', 1))


def edited_evidence(run):
    edit(run / "evidence" / "sbom.cdx.json", more=1)


def without_configuration(run):
    (run / "evidence" / "config.json").unlink()
    sealed_again(run)


def other_job(run):
    """One job ran another image."""
    (path,) = (run / "evidence" / "jobs").glob("smoke-*/job.json")
    edit(path, image_id="sha256:" + "e" * 64)
    sealed_again(run)


def dirty(run):
    edit(run / "evidence" / "evidence.json", extra={"suite": msgspec.to_builtins(DIRTY)})
    sealed_again(run)


def dated(run, created):
    edit(run / "evidence" / "evidence.json", created=created)
    sealed_again(run)


def process(run):
    """The header calls the runtime the process one: no way around the other questions."""
    path = run / "evidence" / "evidence.json"
    edit(path, extra=json.loads(path.read_text())["extra"] | {"runtime": "process"})
    sealed_again(run)


def old_job(run):
    (path,) = (run / "evidence" / "jobs").glob("smoke-*/job.json")
    edit(path, started=PAST, attempts=[])
    sealed_again(run)


DIRTY = replace(CLEAN, dirty=True)
SPOILT = {
    "record-edited": ("altered", edited_record),
    "evidence-edited": ("altered", edited_evidence),
    "image": ("other-image", other_image),
    "image-of-a-job": ("other-image", other_job),
    "configuration": ("no-configuration", without_configuration),
    "stale": ("stale", lambda run: dated(run, PAST)),
    "stale-job": ("stale", old_job),
    "future": ("stale", lambda run: dated(run, "2999-01-01T00:00:00+00:00")),
    "dirty-tree": ("dirty-tree", dirty),
    "unsigned": ("unsigned", lambda run: None),
    "process": ("supporting-only", process),
    "expired-waiver": ("expired-waiver", lambda run: None),
    "long-waiver": ("long-waiver", lambda run: None),
}
WAIVER = {"item": "runtime.cuda", "reason": "known", "owner": "ops", "expires": SOON}
POLICY = {
    "unsigned": {"signed": True},
    "process": {"lanes": ["container", "gpu"]},
    "expired-waiver": {"waiver": [{**WAIVER, "expires": "2020-01-01"}]},
    "long-waiver": {"waiver": [{**WAIVER, "expires": "2999-01-01"}]},
}


@pytest.mark.parametrize("case", SPOILT)
def test_each_doubt_is_refused_with_a_code_of_its_own(case, run, recorded, rules, tmp_path, capsys):
    code, spoil = SPOILT[case]
    spoil(run)
    where = ("--policy", "other", "--policies", rules(**POLICY.get(case, {})))
    status, found, words = gate(tmp_path, capsys, run, *where)
    assert codes(found) == {code}
    assert (status, found["verdict"]) == (2, "partial")
    assert code in words
    assert all(r["reason"] and r["remedy"] for r in found["refused"])


def test_a_checkout_that_differs_from_its_commit_decides_nothing(run, rules, tmp_path, capsys):
    where = ("--policy", "good", "--policies", rules())
    status, found, _ = gate(tmp_path, capsys, run, *where, clean=False)
    assert (status, codes(found)) == (2, {"dirty-tree"})


def test_a_record_decides_nothing(run, good):
    """A failing check that the record calls passed, should, of another lane or item, or leaves out:
    the checks of this checkout say what it is, over the evidence.
    """
    fails(run)
    record = read(run / "record.json", Record)
    lies = (
        {"state": State.PASSED},
        {"level": "should"},
        {"lane": "gpu"},
        {"item": "production.ply"},
        {"supporting": True},
        {"node": "tests/container/test_other.py::test_other"},
    )
    for lie in lies:
        checks = tuple(replace(c, **lie) if c.state == "failed" else c for c in record.checks)
        write(run / "record.json", sealed(replace(record, checks=checks)))
        status, found, _ = good(run)
        assert (status, found["verdict"], found["refused"]) == (1, "non-conformant", [])
    write(run / "record.json", sealed(replace(record, checks=(), created=PAST, machine=Machine())))
    assert good(run)[0] == 1


def test_the_graver_of_two_answers_stands(run, recorded, good):
    fails(run)
    for order in ([run, recorded], [recorded, run]):
        assert good(*order)[0] == 1


def test_a_digest_is_one_before_it_is_part_of_a_path(run, rules, tmp_path):
    edit(run / "evidence" / "evidence.json", image_id="../../elsewhere")
    sealed_again(run)
    arguments = ("--policy", "good", "--policies", str(rules()), "--store", str(tmp_path / "s"))
    with pytest.raises(BadInput, match="is no digest"):
        cli.main([str(run), *arguments, "--no-pictures", "--out", str(tmp_path / "o")])
    assert not (tmp_path / "s").exists()
    with pytest.raises(BadInput, match="is no digest"):
        cli.Store(str(tmp_path / "s")).key("../../elsewhere")


def test_a_reference_is_fit_for_a_command_line(run, good):
    edit(run / "evidence" / "image.json", ref="r.example/x; touch y `z`\x1b[31m\n")
    sealed_again(run)
    _, found, words = good(run)
    assert found["image"]["ref"] == "REF"
    assert "touch" not in words + json.dumps([m["command"] for m in found["missing"]])


@pytest.fixture
def signed(run, tmp_path, capsys):
    """The folder, signed; the key's file and its id."""
    key, name = make_key(tmp_path)
    assert sign(run, key) == 0
    assert capsys.readouterr().out.strip() == name
    return run, key, name


def sign(run, key, suite=CLEAN):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "suite", lambda sha256: suite)
        return cli.sign([str(run), "--key", str(key)])


def test_signed_evidence_is_taken_where_the_policy_wants_it(signed, rules, tmp_path, capsys):
    run, key, name = signed
    for keys in ([], [name]):
        where = ("--policy", "other", "--policies", rules(signed=True, keys=keys), "--trust", key)
        status, found, _ = gate(tmp_path, capsys, run, *where)
        assert (status, found["sources"][0]["signed_by"]) == (0, name)
    (tmp_path / "stranger").mkdir()
    stranger, _ = make_key(tmp_path / "stranger")
    for trusted, keys in ((stranger, []), (key, ["0" * 64])):
        rule = rules(signed=True, keys=keys)
        where = ("--policy", "other", "--policies", rule, "--trust", trusted)
        status, found, _ = gate(tmp_path, capsys, run, *where)
        assert (status, codes(found)) == (2, {"unsigned"})


def test_a_revoked_key_counts_up_to_its_day(signed, rules, tmp_path, capsys):
    run, key, name = signed
    for since, expected in ((SOON, set()), (str(datetime.now(UTC).date()), {"revoked-key"})):
        revoked = [{"key": name, "since": since, "reason": "lost"}]
        where = ("--policy", "other", "--policies", rules(signed=True, revoked=revoked))
        _, found, _ = gate(tmp_path, capsys, run, *where, "--trust", key)
        assert codes(found) == expected


def test_what_a_dirty_tree_signed_does_not_count(run, rules, tmp_path, capsys):
    key, _ = make_key(tmp_path)
    sign(run, key, DIRTY)
    capsys.readouterr()
    where = ("--policy", "other", "--policies", rules(signed=True), "--trust", key)
    _, found, _ = gate(tmp_path, capsys, run, *where)
    assert codes(found) == {"dirty-tree"}


def test_altered_evidence_is_not_signed(run, tmp_path):
    key, _ = make_key(tmp_path)
    assert sign(run, key) == sign(run, key) == 0
    signed = (run / "record.intoto.json").read_bytes()
    edited_evidence(run)
    with pytest.raises(BadInput, match="not to be signed"):
        sign(run, key)
    assert (run / "record.intoto.json").read_bytes() == signed


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_after_signing_every_edit_is_refused(recorded, data):
    """Whatever file of the evidence or record is changed, added or removed."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        for name in ("record.json", "evidence/evidence.json", "evidence/jobs/smoke/job.json"):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_bytes((recorded / "evidence" / "evidence.json").read_bytes())
        write(run / "record.json", read(recorded / "record.json", Record))
        key = SIGNER
        envelope = attest.sign(statement(run), key)
        (run / "record.intoto.json").write_bytes(envelope)
        trusted = [attest.Public.of(key.public_key())]
        sha256 = evidence_sha256(fingerprint(run / "evidence"))
        found, altered = validation.signature(run / "record.json", sha256, trusted)
        assert found
        assert not altered
        names = sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())
        names.remove("record.intoto.json")
        path = run / data.draw(st.sampled_from(names))
        match data.draw(st.sampled_from(["change", "remove", "add"])):
            case "change":
                content = bytearray(path.read_bytes() or b" ")
                at = data.draw(st.integers(0, len(content) - 1))
                content[at] ^= data.draw(st.integers(1, 255))
                path.write_bytes(content)
            case "remove":
                path.unlink()
            case "add":
                (run / "evidence" / "new").write_bytes(b"")
        sha256 = evidence_sha256(fingerprint(run / "evidence"))
        found, altered = validation.signature(run / "record.json", sha256, trusted)
        assert found is None
        assert altered


def statement(run):
    taken = validation.Taken(
        str(run), run / "evidence", None, read(run / "record.json", Record),
        evidence_sha256(fingerprint(run / "evidence")),
    )  # fmt: skip
    return validation.statement(taken, run / "record.json", CLEAN, "2026-01-01T00:00:00+00:00")


FIELDS_BOUND = ("os", "architecture", "entrypoint", "cmd", "env", "user", "workdir", "labels")


@pytest.mark.parametrize("field", [*FIELDS_BOUND, "digests", "image_id"])
def test_the_configuration_says_what_the_image_is(field, run, good):
    """Whatever image.json says otherwise, unsigned and sealed anew, is of another image."""
    path = run / "evidence" / "image.json"
    was = json.loads(path.read_text())[field]
    edit(path, **{field: "x" if isinstance(was, str) else type(was)()})
    if json.loads(path.read_text())[field] == was:
        edit(path, **{field: ["x"]})
    sealed_again(run)
    status, found, _ = good(run)
    assert status == 2
    assert codes(found) == {"other-image"}


def test_a_configuration_of_other_bytes_is_none(run, good):
    (run / "evidence" / "config.json").write_bytes(CONFIG + b" ")
    sealed_again(run)
    _, found, _ = good(run)
    assert (codes(found), found["manifest_digest"]) == ({"other-image"}, None)


def test_a_manifest_that_names_another_configuration_is_not_the_images(run, good):
    (run / "evidence" / "manifest.json").write_text(json.dumps({"config": {"digest": DIGEST}}))
    sealed_again(run)
    _, found, _ = good(run)
    assert (found["manifest_digest"], found["image"]["image_id"]) == (None, IMAGE_ID)


def make_key(folder):
    from cryptography.hazmat.primitives import serialization

    key = Ed25519PrivateKey.generate()
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "key.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return path, attest.Public.of(key.public_key()).id


def test_a_failed_item_is_non_conformant_and_named(run, good):
    fails(run)
    status, found, _ = good(run)
    assert (status, found["verdict"]) == (1, "non-conformant")
    assert "CUDA/GPU libraries available and compatible" in found["why"]


def test_a_waived_failure_is_counted_in_the_verdict(run, rules, tmp_path, capsys):
    fails(run)
    where = rules(waiver=[WAIVER])
    status, found, words = gate(tmp_path, capsys, run, "--policy", "other", "--policies", where)
    assert (status, found["verdict"]) == (0, "conformant")
    assert [(w["item"], w["state"]) for w in found["waived"]] == [("runtime.cuda", "failed")]
    assert "conformant (1 waived)" in words


def test_what_a_run_left_out_is_missing(run, good):
    (run / "evidence" / "layers.json").unlink()
    sealed_again(run)
    status, found, _ = good(run)
    assert (status, [m["item"] for m in found["missing"]]) == (2, ["build.supply-chain"])
    assert "--lane container" in found["missing"][0]["command"]


def test_evidence_of_another_gpu_is_refused(recorded):
    record = replace(
        read(recorded / "record.json", Record),
        machine=Machine(gpu="NVIDIA H100, 9.0, 570.1"),
        checks=(Check("x", "runtime.cuda", "must", "gpu", State.PASSED),),
    )
    assert "H100" in validation.other_gpu(record, ["T4"])
    assert validation.other_gpu(record, ["H100"]) == ""


def test_a_gpu_record_from_outside_the_image_releases_nothing(recorded, tmp_path, capsys):
    """It is shown and never counted: what is missing is named, with what would show it."""
    on_a_gpu_machine(tmp_path / "gpu")
    key, _ = make_key(tmp_path)
    for folder in (recorded, tmp_path / "gpu"):
        shutil.copytree(folder, tmp_path / "signed" / folder.name)
        sign(tmp_path / "signed" / folder.name, key)
    capsys.readouterr()
    given = [tmp_path / "signed" / name for name in (recorded.name, "gpu")]
    status, found, words = gate(tmp_path, capsys, *given, "--policy", "release", "--trust", key)
    assert (status, found["verdict"]) == (2, "partial")
    assert [r["code"] for r in found["refused"]] == ["supporting-only"]
    wanted = {i.id for i in checklist.load().item if "gpu" in i.required}
    wanted |= {"build.pushed", "build.platform"}  # no registry was asked
    assert {m["item"] for m in found["missing"]} == wanted
    beside = [m["command"] for m in found["missing"] if m["lane"] == "gpu"]
    assert all("--lane gpu  # " in command and "T4" in command for command in beside)
    (cuda,) = [x for x in found["lines"] if x["id"] == "runtime.cuda"]
    assert any(c["supporting"] and c["state"] == "passed" for c in cuda["checks"])
    # Nor does what it measured keep to a bound.
    assert [(b["threshold"]["measure"], b["value"]) for b in found["bounds"]] == [
        ("gpu.projected_seconds", None)
    ]
    beside = [s["key"] for s in found["measured"]["steps"] if s["supporting"]]
    assert {key.partition("-")[0] for key in beside} == {"gpu"}
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
        ({"keys": ["0"]}, "set signed = true"),
        ({"may_release": True}, "needs signed = true"),
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
    ids=["lane", "item", "no-items", "no-lanes", "nothing", "keys", "release", "field", "reason"],
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


def test_what_is_no_evidence_is_one_line(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(BadInput, match="record it anew"):
        validation.find(str(tmp_path))
    with pytest.raises(BadInput, match="no evidence there"):
        validation.find(str(tmp_path / "none"))


def test_every_form_of_the_sign_off_tells_the_same(run, rules, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    fails(run)
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
