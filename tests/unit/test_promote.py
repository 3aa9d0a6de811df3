"""Promotion against a real registry on loopback: the bytes that were judged, or nothing."""

import hashlib
import json
import shutil
from dataclasses import replace

import boto3
import pytest
from moto import mock_aws

from splatgate.container import registry
from splatgate.container.distribution import INDEXES, OCI, SCHEMA2
from splatgate.diagnose import emergency
from splatgate.evidence import BadInput, Header, Image, read, write
from splatgate.record import Record, State
from splatgate.signoff import attest, cli
from splatgate.signoff.promote import NotPromoted, promote, staged
from splatgate.signoff.push import as_schema2
from splatgate.signoff.store import Store
from tests.unit import registries
from tests.unit.signoffs import PAST, gate, judged, policies, rewrite, with_states
from tests.unit.test_attest import independent


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return judged(tmp_path_factory.mktemp("promote") / "run")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    if not registries.INSTALLED:
        pytest.skip("docker-registry is not installed")
    with registries.running(tmp_path_factory.mktemp("registry")) as found:
        yield found


def serves(ref):
    return registry.ask(ref)[0].served


@pytest.fixture
def there(host, tmp_path):
    """A repository of this test's own."""
    return registries.Repository(host, tmp_path.name.replace("_", "-").lower())


@pytest.fixture
def judge(recorded, tmp_path):
    """Evidence and record of the recorded run, as if seen on another image."""

    def of(image_id, digest=None, name="run", **changes):
        run = tmp_path / name
        shutil.copytree(recorded, run)
        record = read(run / "record.json", Record)
        for file, kind in (("evidence.json", Header), ("image.json", Image)):
            path = run / "evidence" / file
            write(path, replace(read(path, kind), image_id=image_id))
        image = replace(record.image, image_id=image_id, manifest_digest=digest)
        rewrite(run, record, image=image, **changes)
        return run

    return of


@pytest.fixture
def rules(recorded, tmp_path):
    return policies(tmp_path / "policy.toml", read(recorded / "record.json", Record))


def test_a_conformant_image_is_released_signed_and_verified(there, judge, rules, tmp_path, capsys):
    from tests.unit.test_signoff import make_key

    key, name = make_key(tmp_path)
    manifest, image_id = there.image("staging-1")
    before = registry.client(staged(f"{there.ref}:staging-1")[0]).manifest("staging-1")
    run = judge(image_id, manifest["digest"])
    ref = f"{there.ref}@{manifest['digest']}"
    where = ("--policy", "good", "--policies", rules, "--image", ref, "--key", key)
    release = ("--promote", "1.2.3", "--promote", "latest", "--approver", "Ada")
    status, found, words = gate(tmp_path, capsys, run, *where, *release)
    assert (status, found["verdict"]) == (0, "conformant")
    released = found["released"]
    assert (released["tag"], released["also"]) == ("1.2.3", ["latest"])
    assert (released["digest"], released["media_type"]) == (manifest["digest"], SCHEMA2)
    for tag in ("1.2.3", "latest"):
        _, after = staged(f"{there.ref}:{tag}")
        assert (after.data, after.media_type) == (before.data, SCHEMA2)
    assert "released" in words

    # A year later, from the store alone.
    store = tmp_path / "store"
    shutil.rmtree(tmp_path / "gate")
    public = ("--key", str(key), "--store", str(store))
    assert cli.verify([manifest["digest"], *public]) == 0
    assert name in capsys.readouterr().err
    known = attest.Public.of(attest.private_key(key).public_key())
    said = []
    (good,) = emergency.of_signoffs(Store(str(store)), known, said.append)
    assert (good.digest, good.by, said) == (manifest["digest"], "sign-off", [])
    envelope = Store(str(store)).file(manifest["digest"], "intoto.json")
    _, statement = independent(envelope, attest.private_key(key))
    assert statement.subject[0].digest["sha256"] == manifest["digest"].removeprefix("sha256:")
    signoff = store / f"{Store.key(manifest['digest'])}.json"
    signoff.write_bytes(signoff.read_bytes().replace(b"conformant", b"perfect"))
    assert cli.verify([manifest["digest"], *public]) == 1
    assert "not the one signed" in capsys.readouterr().err
    assert emergency.of_signoffs(Store(str(store)), known, said.append) == []
    assert "not the one signed" in said[0]


def test_no_later_look_takes_the_place_of_a_release(there, judge, rules, tmp_path, capsys):
    manifest, image_id = there.image("staging-7")
    where = ("--policies", rules, "--image", f"{there.ref}@{manifest['digest']}", "--approver", "A")
    run = judge(image_id, manifest["digest"])
    gate(tmp_path, capsys, run, "--policy", "good", *where, "--promote", "1")
    stale = judge(image_id, manifest["digest"], "stale", created=PAST)
    store, digest = Store(str(tmp_path / "store")), manifest["digest"]
    released = store.get(digest)
    for policy in ("good", "other"):
        status, found, _ = gate(tmp_path, capsys, stale, "--policy", policy, *where)
        assert status == 2
        assert store.get(digest) == released
    assert [bool(past["released"]) for past in found["history"]] == [True, False]
    assert len(store.every()) == 3


def unsigned_follows_signed(store, run, where, tmp_path, capsys):
    """The attestation of one sign-off does not stand beside the next."""
    from tests.unit.test_signoff import make_key

    key, _ = make_key(tmp_path)
    digest, public = "sha256:" + "f" * 64, ("--key", str(key), "--store", store)
    gate(tmp_path, capsys, run, *where, "--key", key, store=store)
    assert cli.verify([digest, *public]) == 0
    gate(tmp_path, capsys, run, *where, store=store)
    with pytest.raises(BadInput, match="no signed sign-off"):
        cli.verify([digest, *public])
    signed = [n for n in Store(store).place.names() if n.endswith(".intoto.json")]
    assert len(signed) == 1


def test_an_unsigned_sign_off_has_no_attestation(judge, rules, tmp_path, capsys):
    run = judge("sha256:" + "e" * 64, "sha256:" + "f" * 64)
    where = ("--policy", "good", "--policies", rules)
    unsigned_follows_signed(str(tmp_path / "kept"), run, where, tmp_path, capsys)
    with pytest.raises(BadInput, match="No such file or directory; give --store"):
        Store(str(tmp_path / "kept")).place.remove("never written")


def test_a_faults_image_is_not_released(there, judge, rules, tmp_path, capsys):
    manifest, image_id = there.image("staging-2")
    record = read(judge(image_id, manifest["digest"], "seen") / "record.json", Record)
    failed = with_states(record, {"test_imports_resolve": State.FAILED})
    run = judge(image_id, manifest["digest"], checks=failed)
    ref = f"{there.ref}@{manifest['digest']}"
    where = ("--policy", "good", "--policies", rules, "--image", ref)
    status, found, words = gate(tmp_path, capsys, run, *where, "--promote", "1", "--approver", "A")
    assert (status, found["released"]) == (1, None)
    assert "not released" in words
    assert serves(f"{there.ref}:1") is None


def test_an_override_releases_and_stands_for_ever(there, judge, rules, tmp_path, capsys):
    manifest, image_id = there.image("staging-3")
    record = read(judge(image_id, manifest["digest"], "seen") / "record.json", Record)
    failed = with_states(record, {"test_imports_resolve": State.FAILED})
    run = judge(image_id, manifest["digest"], checks=failed)
    ref = f"{there.ref}@{manifest['digest']}"
    where = ("--policy", "good", "--policies", rules, "--image", ref, "--approver", "Ada")
    for missing in (["--override", "x"], ["--promote", "1", "--override", " "]):
        with pytest.raises(BadInput, match="needs a reason"):
            gate(tmp_path, capsys, run, *where, *missing)
    release = ("--promote", "1", "--override", "production is down")
    status, found, _ = gate(tmp_path, capsys, run, *where, *release)
    assert (status, found["verdict"]) == (1, "non-conformant")
    assert found["override"]["reason"] == "production is down"
    assert serves(f"{there.ref}:1").digest == manifest["digest"]
    mended = judge(image_id, manifest["digest"], "mended")
    _, later, _ = gate(tmp_path, capsys, mended, *where)
    assert later["override"] is None
    assert later["history"][-1]["override"]["by"] == "Ada"
    assert "production is down" in (tmp_path / "gate" / "signoff.html").read_text()


def test_another_image_than_was_judged_is_refused(there, judge, rules, tmp_path, capsys):
    judged_one, image_id = there.image("staging-4")
    other, _ = there.image("staging-5", variant="v2")
    assert judged_one["digest"] != other["digest"]
    run = judge(image_id)
    where = ("--policy", "good", "--policies", rules, "--image", f"{there.ref}@{other['digest']}")
    status, found, _ = gate(tmp_path, capsys, run, *where, "--promote", "1", "--approver", "A")
    assert (status, [r["code"] for r in found["refused"]]) == (2, ["other-image"])
    assert serves(f"{there.ref}:1") is None


def test_a_manifest_of_another_kind_is_refused(there):
    manifest, image_id = there.image("oci", kind=OCI)
    where, served = staged(f"{there.ref}@{manifest['digest']}")
    with pytest.raises(NotPromoted, match="not one Docker schema 2 manifest"):
        promote(where, served, ["1"], image_id)


@pytest.mark.parametrize("shape", ["manifest", "index", "zstd"])
def test_an_image_pushed_in_ocis_form_is_stored_as_schema_2_too(there, shape):
    oci, image_id = there.image("staging-1", kind=OCI)
    judged = oci["digest"]
    if shape == "index":
        attests = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
        index = {
            "schemaVersion": 2,
            "mediaType": INDEXES[0],
            "manifests": [oci, {**oci, **attests}],
        }
        judged = there.manifest(index, "staging-1")["digest"]
    if shape == "zstd":
        document = staged(f"{there.ref}:staging-1")[1].document
        document["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
        judged = there.manifest(document, "staging-1")["digest"]
    where, pushed = staged(f"{there.ref}:staging-1")
    tag, made, problem = as_schema2(where, pushed, judged)
    if shape == "zstd":
        assert (tag, made) == ("staging-1", pushed)
        assert "not one Docker schema 2 manifest" in problem
        return
    assert (tag, problem) == ("staging-1-schema2", "")
    _, served = staged(f"{there.ref}:{tag}")
    assert (served, served.media_type, served.image_id) == (made, SCHEMA2, image_id)
    assert staged(f"{there.ref}:staging-1")[1] == pushed
    _, _, other = as_schema2(where, pushed, "sha256:another")
    assert "sha256:another was judged" in other


def test_a_release_tag_never_moves_and_nothing_is_half_released(there):
    there.image("1.0", variant="old")
    new, image_id = there.image("staging-6")
    where, manifest = staged(f"{there.ref}@{new['digest']}")
    with pytest.raises(NotPromoted, match="a release tag never moves"):
        promote(where, manifest, ["2.0", "1.0"], image_id)
    assert serves(f"{there.ref}:2.0") is None
    assert promote(where, manifest, ["2.0"], image_id).before is None
    assert promote(where, manifest, ["2.0"], image_id).before == new["digest"]


MANIFEST = {
    "schemaVersion": 2,
    "mediaType": SCHEMA2,
    "config": {"mediaType": "c", "digest": "sha256:" + "c" * 64, "size": 1},
    "layers": [],
}


@pytest.fixture
def ecr(monkeypatch):
    """ECR as moto plays it: the claim is about what we ask of it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        api = boto3.client("ecr", region_name="us-west-2")

        def repository(mutability):
            api.create_repository(repositoryName="trainer", imageTagMutability=mutability)
            found = []
            for tag, size in (("staging", 1), ("latest", 2)):
                config = {**MANIFEST["config"], "size": size}
                document = json.dumps({**MANIFEST, "config": config})
                digest = "sha256:" + hashlib.sha256(document.encode()).hexdigest()
                api.put_image(
                    repositoryName="trainer", imageManifest=document, imageTag=tag,
                    imageManifestMediaType=SCHEMA2, imageDigest=digest,
                )  # fmt: skip
                found.append(digest)
            return f"123456789012.dkr.ecr.us-west-2.amazonaws.com/trainer@{found[0]}"

        yield repository


@pytest.mark.parametrize("mutability", ["MUTABLE", "IMMUTABLE"])
def test_ecrs_immutable_tags_are_respected_before_anything_is_written(ecr, mutability):
    where, manifest = staged(ecr(mutability))
    image_id = MANIFEST["config"]["digest"]
    if mutability == "MUTABLE":
        assert promote(where, manifest, ["1", "latest"], image_id).also == ("latest",)
        return
    with pytest.raises(NotPromoted, match="immutable"):
        promote(where, manifest, ["1", "latest"], image_id)
    assert registry.client(where).manifest("1") is None
    assert promote(where, manifest, ["1"], image_id).digest == manifest.digest


def test_sign_offs_are_kept_in_a_bucket(monkeypatch, judge, rules, tmp_path, capsys):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="kept")
        run = judge("sha256:" + "e" * 64, "sha256:" + "f" * 64)
        where = ("--policy", "good", "--policies", rules)
        gate(tmp_path, capsys, run, *where, store="s3://kept/sign-offs/")
        store = Store("s3://kept/sign-offs")
        assert store.get("sha256:" + "f" * 64).verdict == "conformant"
        assert len(store.every()) == 1
        assert store.get("sha256:" + "0" * 64) is None
        unsigned_follows_signed("s3://kept/sign-offs", run, where, tmp_path, capsys)
        with pytest.raises(BadInput, match="check bucket"):
            Store("s3://none").place.write("x", b"")
