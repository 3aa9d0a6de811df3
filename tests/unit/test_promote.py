"""Promotion against a real registry on loopback: the bytes that were judged, or nothing."""

import hashlib
import json
import shutil

import boto3
import pytest
from cryptography.hazmat.primitives import serialization
from moto import mock_aws

from splatgate import checklist
from splatgate.container import registry
from splatgate.container.distribution import INDEXES, OCI, SCHEMA2
from splatgate.container.reference import parse
from splatgate.diagnose import emergency
from splatgate.evidence import BadInput, read
from splatgate.record import Record
from splatgate.signoff import attest, cli, policy
from splatgate.signoff.promote import NotPromoted, promote, staged
from splatgate.signoff.push import as_schema2
from splatgate.signoff.store import Store
from tests.unit import registries, signoffs
from tests.unit.signoffs import (
    DIGEST,
    IMAGE_ID,
    PAST,
    SETTINGS,
    edit,
    fails,
    judged,
    policies,
    sealed_again,
)
from tests.unit.test_attest import independent
from tests.unit.test_signoff import SIGNER, dated, make_key, statement


def gate(tmp_path, capsys, *arguments, **more):
    """The verb, told whom to trust."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(SIGNER.public_key().public_bytes(serialization.Encoding.PEM, form))
    return signoffs.gate(tmp_path, capsys, *arguments, "--trust", trusted, **more)


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
    """The recorded evidence, to spoil, and signed as it then is."""

    def of(name="run", spoil=None):
        run = tmp_path / name
        shutil.copytree(recorded, run)
        if spoil:
            spoil(run)
        (run / "record.intoto.json").write_bytes(attest.sign(statement(run), SIGNER))
        return run

    return of


@pytest.fixture
def image(there):
    """Push the recorded image's configuration; the manifest's descriptor."""

    def push(tag, **extra):
        manifest, image_id = there.image(tag, **(SETTINGS | extra))
        assert extra or image_id == IMAGE_ID
        return manifest

    return push


@pytest.fixture
def release(there):
    """What a release is asked for by."""
    return ("--to", f"{there.ref}-release", "--approver", "Ada")


@pytest.fixture
def rules(recorded, tmp_path):
    record = read(recorded / "record.json", Record)
    return policies(tmp_path / "policy.toml", record, release=True, may_release=False)


def test_a_conformant_image_is_released_signed_and_verified(
    there, image, judge, rules, release, tmp_path, capsys
):
    key, name = make_key(tmp_path)
    manifest = image("staging-1")
    before = registry.client(staged(f"{there.ref}:staging-1")[0]).manifest("staging-1")
    ref = f"{there.ref}@{manifest['digest']}"
    where = ("--policy", "good", "--policies", rules, "--image", ref, "--key", key)
    tags = ("--promote", "1.2.3", "--promote", "latest")
    status, found, words = gate(tmp_path, capsys, judge(), *where, *release, *tags)
    assert (status, found["verdict"]) == (0, "conformant")
    released = found["released"]
    assert (released["tag"], released["also"]) == ("1.2.3", ["latest"])
    assert released["repository"] == f"{there.ref}-release"
    assert (released["digest"], released["media_type"]) == (manifest["digest"], SCHEMA2)
    for tag in ("1.2.3", "latest"):
        _, after = staged(f"{there.ref}-release:{tag}")
        assert (after.data, after.media_type) == (before.data, SCHEMA2)
        assert serves(f"{there.ref}:{tag}") is None
    assert "released" in words

    # A year later, from the store alone.
    store = tmp_path / "store"
    shutil.rmtree(tmp_path / "gate")
    public = ("--key", str(key), "--store", str(store))
    assert cli.verify([ref, *public]) == 0
    said = capsys.readouterr().err
    assert all(word in said for word in (name, "good", found["policy_sha256"], "Ada"))
    known = attest.Public.of(attest.private_key(key).public_key())
    said = []
    (good,) = emergency.of_signoffs(Store(str(store)), known, said.append)
    assert (good.digest, good.by, said) == (manifest["digest"], "sign-off", [])
    envelope = Store(str(store)).file(manifest["digest"], "intoto.json")
    _, statement = independent(envelope, attest.private_key(key))
    assert statement.subject[0].digest["sha256"] == manifest["digest"].removeprefix("sha256:")

    # A later look that fails.
    status, _, _ = gate(tmp_path, capsys, judge("later", fails), *where)
    assert status == 1
    assert cli.verify([ref, *public]) == 1
    assert "later sign-off is not conformant" in capsys.readouterr().err

    signoff = store / f"{Store.key(manifest['digest'])}.json"
    signoff.write_bytes(signoff.read_bytes().replace(b"conformant", b"perfect"))
    assert cli.verify([manifest["digest"], *public]) == 1
    assert "not the one signed" in capsys.readouterr().err
    assert emergency.of_signoffs(Store(str(store)), known, said.append) == []
    assert "not the one signed" in said[0]


def test_a_policy_that_may_not_release_releases_nothing(
    there, image, judge, rules, release, tmp_path, capsys
):
    """Whatever the verdict and the tag, and with a reason to override it."""
    ref = f"{there.ref}@{image('staging-8')['digest']}"
    where = ("--policy", "other", "--policies", rules, "--image", ref, *release)
    for run in (judge(), judge("bad", fails)):
        for more in (["1"], ["latest"], ["1", "--override", "production is down"]):
            status, found, words = gate(tmp_path, capsys, run, *where, "--promote", *more)
            assert (status, found["released"]) == (2, None)
            assert "may_release" in words
    assert serves(f"{there.ref}-release:1") is None
    assert policy.load(policy.FILE, "staging", checklist.load()).policy.may_release is False


def test_staging_is_not_where_releases_lie(there, image, judge, rules, tmp_path, capsys):
    ref = f"{there.ref}@{image('staging-9')['digest']}"
    where = ("--policy", "good", "--policies", rules, "--image", ref, "--approver", "A")
    run = judge()
    for to in ([], ["--to", there.ref], ["--to", f"{there.ref}:1"], ["--to", "name"]):
        with pytest.raises(BadInput, match="--to"):
            gate(tmp_path, capsys, run, *where, "--promote", "1", *to)
    assert not (tmp_path / "store").exists()


def test_no_later_look_takes_the_place_of_a_release(
    there, image, judge, rules, release, tmp_path, capsys
):
    digest = image("staging-7")["digest"]
    where = ("--policies", rules, "--image", f"{there.ref}@{digest}", *release)
    gate(tmp_path, capsys, judge(), "--policy", "good", *where, "--promote", "1")
    stale = judge("stale", lambda run: dated(run, PAST))
    store = Store(str(tmp_path / "store"))
    released = store.get(digest)
    for name in ("good", "other"):
        status, found, _ = gate(tmp_path, capsys, stale, "--policy", name, *where)
        assert status == 2
        assert store.get(digest) == released
    assert [bool(past["released"]) for past in found["history"]] == [True, False]
    assert len(store.every()) == 3


def unsigned_follows_signed(store, run, where, tmp_path, capsys):
    """The attestation of one sign-off does not stand beside the next."""
    key, _ = make_key(tmp_path)
    public = ("--key", str(key), "--store", store)
    gate(tmp_path, capsys, run, *where, "--key", key, store=store)
    assert cli.verify([DIGEST, *public]) == 0
    gate(tmp_path, capsys, run, *where, store=store)
    with pytest.raises(BadInput, match="no signed sign-off"):
        cli.verify([DIGEST, *public])
    signed = [n for n in Store(store).place.names() if n.endswith(".intoto.json")]
    assert len(signed) == 1


def test_an_unsigned_sign_off_has_no_attestation(judge, rules, tmp_path, capsys):
    where = ("--policy", "good", "--policies", rules)
    unsigned_follows_signed(str(tmp_path / "kept"), judge(), where, tmp_path, capsys)
    with pytest.raises(BadInput, match="No such file or directory; give --store"):
        Store(str(tmp_path / "kept")).place.remove("never written")


def test_a_faults_image_is_not_released(there, image, judge, rules, release, tmp_path, capsys):
    ref = f"{there.ref}@{image('staging-2')['digest']}"
    where = ("--policy", "good", "--policies", rules, "--image", ref)
    run = judge(spoil=fails)
    status, found, words = gate(tmp_path, capsys, run, *where, *release, "--promote", "1")
    assert (status, found["released"]) == (1, None)
    assert "not released" in words
    assert serves(f"{there.ref}-release:1") is None


def test_an_override_releases_and_stands_for_ever(
    there, image, judge, rules, release, tmp_path, capsys
):
    digest = image("staging-3")["digest"]
    ref = f"{there.ref}@{digest}"
    where = ("--policy", "good", "--policies", rules, "--image", ref, *release)
    run = judge(spoil=fails)
    for missing in (["--override", "x"], ["--promote", "1", "--override", " "]):
        with pytest.raises(BadInput, match="needs a reason"):
            gate(tmp_path, capsys, run, *where, *missing)
    asked = ("--promote", "1", "--override", "production is down")
    status, found, _ = gate(tmp_path, capsys, run, *where, *asked)
    assert (status, found["verdict"]) == (1, "non-conformant")
    assert found["override"]["reason"] == "production is down"
    assert serves(f"{there.ref}-release:1").digest == digest
    _, later, _ = gate(tmp_path, capsys, judge("mended"), *where)
    assert later["override"] is None
    assert later["history"][-1]["override"]["by"] == "Ada"
    assert "production is down" in (tmp_path / "gate" / "signoff.html").read_text()


def test_another_image_than_was_judged_is_refused(
    there, image, judge, rules, release, tmp_path, capsys
):
    judged_one, other = image("staging-4"), image("staging-5", variant="v2")
    assert judged_one["digest"] != other["digest"]
    where = ("--policy", "good", "--policies", rules, "--image", f"{there.ref}@{other['digest']}")
    run = judge()
    status, found, _ = gate(tmp_path, capsys, run, *where, *release, "--promote", "1")
    assert (status, {r["code"] for r in found["refused"]}) == (2, {"other-image"})
    assert serves(f"{there.ref}-release:1") is None


def test_a_swapped_image_is_not_released(there, image, judge, rules, release, tmp_path, capsys):
    """Evidence of a good image, given another image's id in record and header, or everywhere."""
    other = image("other", config={"Entrypoint": ["/bin/false"]})
    ref = f"{there.ref}@{other['digest']}"
    _, manifest = staged(ref)

    def everywhere(run):
        for path in (run / "evidence").rglob("*.json"):
            path.write_text(path.read_text().replace(IMAGE_ID, manifest.image_id))
        sealed_again(run)

    def header(run):
        edit(run / "evidence" / "evidence.json", image_id=manifest.image_id)
        sealed_again(run)

    for name, spoil in (("header", header), ("everywhere", everywhere)):
        where = ("--policy", "good", "--policies", rules, "--image", ref)
        run = judge(name, spoil)
        status, found, _ = gate(tmp_path, capsys, run, *where, *release, "--promote", "6.6.6")
        assert (status, {r["code"] for r in found["refused"]}) == (2, {"other-image"})
    assert serves(f"{there.ref}-release:6.6.6") is None


def test_a_manifest_of_another_kind_is_refused(there):
    manifest, image_id = there.image("oci", kind=OCI)
    where, served = staged(f"{there.ref}@{manifest['digest']}")
    with pytest.raises(NotPromoted, match="not one Docker schema 2 manifest"):
        promote(where, served, apart(there), ["1"], image_id)


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


def apart(there):
    return parse(f"{there.ref}-release")


def test_a_release_tag_never_moves_and_nothing_is_half_released(there, host):
    released = registries.Repository(host, f"{there.ref.partition('/')[2]}-release")
    released.image("1.0", variant="old")
    new, image_id = there.image("staging-6")
    where, manifest = staged(f"{there.ref}@{new['digest']}")
    with pytest.raises(NotPromoted, match="a release tag never moves"):
        promote(where, manifest, apart(there), ["2.0", "1.0"], image_id)
    assert serves(f"{released.ref}:2.0") is None
    assert promote(where, manifest, apart(there), ["2.0"], image_id).before is None
    assert promote(where, manifest, apart(there), ["2.0"], image_id).before == new["digest"]


def test_blobs_are_sent_where_two_registries_hold_them(there, tmp_path):
    new, image_id = there.image("staging-10")
    where, manifest = staged(f"{there.ref}@{new['digest']}")
    with registries.running(tmp_path) as other:
        to = parse(f"{other}/released")
        assert promote(where, manifest, to, ["1"], image_id).digest == new["digest"]
        blob = registry.client(to).blob(manifest.document["layers"][0]["digest"])
    assert blob == b"layer"


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
        assert promote(where, manifest, where, ["1", "latest"], image_id).also == ("latest",)
        return
    with pytest.raises(NotPromoted, match="immutable"):
        promote(where, manifest, where, ["1", "latest"], image_id)
    assert registry.client(where).manifest("1") is None
    assert promote(where, manifest, where, ["1"], image_id).digest == manifest.digest


def test_sign_offs_are_kept_in_a_bucket(monkeypatch, judge, rules, tmp_path, capsys):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="kept")
        run = judge()
        where = ("--policy", "good", "--policies", rules)
        gate(tmp_path, capsys, run, *where, store="s3://kept/sign-offs/")
        store = Store("s3://kept/sign-offs")
        assert store.get(DIGEST).verdict == "conformant"
        assert len(store.every()) == 1
        assert store.get("sha256:" + "0" * 64) is None
        unsigned_follows_signed("s3://kept/sign-offs", run, where, tmp_path, capsys)
        with pytest.raises(BadInput, match="check bucket"):
            Store("s3://none").place.write("x", b"")
