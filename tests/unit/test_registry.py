"""What a registry serves: references, the distribution API against a real registry, ECR's requests.

moto stands for ECR: the claim is about what we ask it, and its digests are not AWS's.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import docker.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate.container import distribution, image, registry
from splatgate.container.distribution import INDEXES, OCI, SCHEMA2, Manifest, RegistryError
from splatgate.container.ecr import Ecr
from splatgate.container.reference import Reference, parse
from splatgate.evidence import BadInput
from tests.unit import registries

DIGEST = "sha256:" + 64 * "a"
ECR = "123456789012.dkr.ecr.us-west-2.amazonaws.com"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("debian", Reference(None, "debian", None, None)),
        ("team/trainer:v1", Reference(None, "team/trainer", "v1", None)),
        ("localhost/a", Reference("localhost", "a", None, None)),
        ("localhost:5000/a/b:v1", Reference("localhost:5000", "a/b", "v1", None)),
        ("[::1]:5000/a", Reference("[::1]:5000", "a", None, None)),
        (f"{ECR}/t:1@{DIGEST}", Reference(ECR, "t", "1", DIGEST)),
        ("ghcr.io/o/n", Reference("ghcr.io", "o/n", None, None)),
    ],
)
def test_references_are_read_as_docker_reads_them(text, read):
    assert parse(text) == read


@pytest.mark.parametrize(
    "text", ["", "A", "a/B", "a:", "a:b/c", "host:5000/", "a@sha256:12", "a@", "a b", "-x", "a:é"]
)
def test_what_is_no_reference_is_refused_in_one_line(text):
    with pytest.raises(BadInput) as refused:
        parse(text)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        read = parse(text)
    except BadInput:
        return
    tag = f":{read.tag}" if read.tag is not None else ""
    assert text == f"{read.repository}{tag}" + (f"@{read.digest}" if read.digest else "")


@pytest.mark.parametrize(
    ("host", "place"),
    [
        (ECR, ("123456789012", "us-west-2")),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", ("123456789012", "cn-north-1")),
        (
            "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
            ("123456789012", "us-gov-west-1"),
        ),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", ("123456789012", "eu-west-1")),
        ("public.ecr.aws", None),
        ("12345.dkr.ecr.us-west-2.amazonaws.com", None),
        (f"{ECR}.evil.example", None),
    ],
)
def test_ecr_is_known_by_its_host(host, place):
    found = Reference(host, "t", None, None).ecr
    assert (found and (found["account"], found["region"])) == place


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True), ("[::1]:1", True),
     ("127.example.org", False), ("registry.example.org", False), (None, False)],
)  # fmt: skip
def test_only_this_machine_is_asked_without_tls(host, here):
    assert Reference(host, "t", None, None).loopback is here


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    if not registries.INSTALLED:
        pytest.skip("docker-registry is not installed")
    with registries.running(tmp_path_factory.mktemp("registry")) as found:
        yield found


def test_a_tag_is_resolved_to_manifest_and_image(host):
    there = registries.Repository(host, "team/plain")
    manifest, image_id = there.image("v1")
    there.image("v0", author="before")
    seen = registry.look(f"{there.ref}:v1")
    served = seen.image.served
    assert served.digest == manifest["digest"]
    assert (served.image_id, served.media_type) == (image_id, SCHEMA2)
    assert served.bytes == len(b"layer")
    assert seen.tags["v1"] == manifest["digest"] != seen.tags["v0"]
    assert seen.tags_complete
    assert (
        registry.look(f"{there.ref}@{manifest['digest']}").image.served.digest == manifest["digest"]
    )


def test_an_index_shows_its_images_and_its_attestation(host):
    there = registries.Repository(host, "index")
    image, image_id = there.image("amd64", OCI)
    statement, _ = there.image("attestation", OCI, os="unknown")
    index = {
        "schemaVersion": 2,
        "mediaType": INDEXES[0],
        "manifests": [
            {**image, "platform": {"os": "linux", "architecture": "amd64"}},
            {
                **statement,
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {registry.ATTESTATION: "attestation-manifest"},
            },
        ],
    }
    there.manifest(index, "v1")
    served = registry.look(f"{there.ref}:v1").image.served
    assert served.media_type == INDEXES[0]
    assert served.image_id is None
    assert [(c.platform, c.attests, c.image_id) for c in served.children] == [
        ("linux/amd64", None, image_id),
        ("unknown/unknown", "attestation-manifest", None),
    ]


def test_what_is_not_there_is_told_as_missing(host):
    there = registries.Repository(host, "few")
    there.image("v1")
    assert registry.look(f"{there.ref}:v2").image.served is None
    assert registry.look(f"{host}/none:v1").image.served is None
    seen = registry.look(f"{there.ref}:v1", requested=f"{there.ref}:latest")
    assert seen.image.served is not None
    assert seen.request.served is None


def test_the_bytes_of_manifest_and_configuration_are_those_of_their_digests(host):
    there = registries.Repository(host, "bytes")
    manifest, image_id = there.image("v1")
    found = registry.bytes_of(registry.look(f"{there.ref}:v1").image)
    digests = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in found.items()}
    assert digests == {"manifest.json": manifest["digest"], "config.json": image_id}
    assert registry.bytes_of(registry.look(f"{there.ref}:v2").image) == {}


@pytest.mark.parametrize("n", [1, 3], ids=["one-page", "more-than-were-asked"])
def test_tags_are_asked_for_up_to_a_bound(host, monkeypatch, n):
    monkeypatch.setattr(distribution, "TAGS", 2)
    there = registries.Repository(host, f"tags{n}")
    for number in range(n):
        there.image(f"v{number}")
    seen = registry.look(f"{there.ref}:v0")
    assert (len(seen.tags), seen.tags_complete) == (min(n, 2), n == 1)


def test_who_does_not_answer_is_named(unused_port):
    seen = registry.look(f"127.0.0.1:{unused_port}/a:v1")
    assert f"127.0.0.1:{unused_port}: does not answer" in seen.image.error


@pytest.fixture
def unused_port():
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return server.server_port


class Guarded(BaseHTTPRequestHandler):
    """A registry that wants a token for its scope, or a password; its own token service."""

    challenge = "Bearer"

    def do_GET(self):
        given = self.headers.get("Authorization", "")
        here = f"http://127.0.0.1:{self.server.server_port}"
        self.server.asked.append((self.path, given))
        if self.path.startswith("/token"):
            user = given == "Basic dXNlcjp3b3Jk"  # user:word
            return self.answer(200 if user else 401, {"token": "t0k"})
        if given not in ("Bearer t0k", "Basic dXNlcjp3b3Jk"):
            scope = f'Bearer realm="{here}/token",service="s",scope="repository:a:pull,push"'
            asks = scope if self.challenge == "Bearer" else 'Basic realm="r"'
            return self.answer(
                401, {"errors": [{"code": "UNAUTHORIZED"}]}, ("WWW-Authenticate", asks)
            )
        return self.answer(200, {"schemaVersion": 2}, ("Content-Type", SCHEMA2))

    def answer(self, status, body, *headers):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture(params=["Bearer", "Basic"])
def guarded(request):
    handler = type("Handler", (Guarded,), {"challenge": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def login(monkeypatch, tmp_path, host, auth):
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def test_dockers_own_login_opens_a_guarded_registry(guarded, monkeypatch, tmp_path):
    host = f"127.0.0.1:{guarded.server_port}"
    login(monkeypatch, tmp_path, host, "dXNlcjp3b3Jk")
    found = registry.client(parse(f"{host}/a:v1")).manifest("v1")
    assert found.media_type == SCHEMA2
    tokens = [path for path, _ in guarded.asked if path.startswith("/token")]
    assert not tokens or tokens == ["/token?service=s&scope=repository%3Aa%3Apull%2Cpush"]


def test_without_a_login_the_way_to_one_is_told(guarded, monkeypatch, tmp_path):
    host = f"127.0.0.1:{guarded.server_port}"
    login(monkeypatch, tmp_path, "elsewhere.example", "dXNlcjp3b3Jk")
    assert f"docker login {host}" in registry.look(f"{host}/a:v1").image.error


def test_a_manifest_that_is_another_is_refused():
    with pytest.raises(RegistryError, match="asked for"):
        distribution.checked(Manifest(b"{}", SCHEMA2), DIGEST, None, "r")


@pytest.fixture
def ecr(monkeypatch):
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        api = boto3.client("ecr", region_name="us-west-2")
        api.create_repository(repositoryName="trainer")
        yield api


def manifest_of(image_id=DIGEST):
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 7}
    return Manifest(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": SCHEMA2,
                "config": {**config, "digest": image_id},
                "layers": [{"digest": image_id, "size": 40}],
            },
            indent=3,
        ).encode(),
        SCHEMA2,
    )


def test_ecr_is_asked_for_manifest_tags_age_and_mutability(ecr):
    manifest = manifest_of()
    Ecr(parse(f"{ECR}/trainer:v1")).put(manifest, "v1")
    seen = registry.look(f"{ECR}/trainer:v1", requested=f"{ECR}/trainer:latest")
    assert (seen.image.served.digest, seen.image.served.image_id) == (manifest.digest, DIGEST)
    assert seen.tags == {"v1": manifest.digest}
    assert seen.image.mutable is True
    assert seen.image.pushed
    assert seen.request.served is None
    assert registry.look(f"{ECR}/none:v1").image.served is None


def test_who_may_only_pull_from_ecr_is_told_what_is_served(ecr, monkeypatch):
    Ecr(parse(f"{ECR}/trainer:v1")).put(manifest_of(), "v1")

    def denied(self):
        raise RegistryError("AccessDeniedException")

    monkeypatch.setattr(Ecr, "details", denied)
    seen = registry.look(f"{ECR}/trainer:v1")
    assert seen.image.served.image_id == DIGEST
    assert (seen.image.pushed, seen.tags, seen.tags_complete) == (None, {}, False)


def test_ecr_stores_the_bytes_and_twice_is_no_error(ecr):
    manifest = manifest_of()
    for _ in range(2):
        Ecr(parse(f"{ECR}/trainer")).put(manifest, "v1")
    stored = ecr.batch_get_image(repositoryName="trainer", imageIds=[{"imageTag": "v1"}])
    assert stored["images"][0]["imageManifest"].encode() == manifest.data


def test_a_tag_of_ecr_that_stays_is_not_moved(ecr):
    ecr.put_image_tag_mutability(repositoryName="trainer", imageTagMutability="IMMUTABLE")
    there = Ecr(parse(f"{ECR}/trainer"))
    there.put(manifest_of(), "v1")
    there.put(manifest_of("sha256:" + 64 * "b"), "v2")
    assert registry.look(f"{ECR}/trainer:v1").image.mutable is False
    there.put(manifest_of("sha256:" + 64 * "b"), "v1")
    assert there.manifest("v1").digest == manifest_of().digest


def test_an_image_of_ecr_is_pulled_with_a_login_of_its_own(ecr):
    ref, pulled = f"{ECR}/trainer:v1", {}

    class Images:
        """The engine's, which has none."""

        def get(self, name):
            if not pulled:
                raise docker.errors.ImageNotFound(name)
            attrs = {"Id": DIGEST, "Os": "linux", "Architecture": "amd64", "Size": 1}
            return SimpleNamespace(attrs=attrs, history=list)

        def pull(self, name, **asked):
            pulled.update(asked, name=name)

    assert image.see(SimpleNamespace(images=Images()), ref).ref == ref
    assert (pulled["name"], pulled["platform"]) == (ref, "linux/amd64")
    assert pulled["auth_config"]["username"] == "AWS"


@pytest.mark.parametrize(
    ("setting", "filters", "mutable"),
    [
        ("MUTABLE", [], True),
        ("IMMUTABLE_WITH_EXCLUSION", ["latest"], True),
        ("IMMUTABLE_WITH_EXCLUSION", ["dev*"], False),
        ("MUTABLE_WITH_EXCLUSION", ["*est"], False),
    ],
)
def test_exclusions_decide_which_tags_move(ecr, setting, filters, mutable):
    there = Ecr(parse(f"{ECR}/trainer"))
    shown = {
        "imageTagMutability": setting,
        "imageTagMutabilityExclusionFilters": [
            {"filterType": "WILDCARD", "filter": text} for text in filters
        ],
    }
    there.api.describe_repositories = lambda **asked: {"repositories": [shown]}
    assert there.mutable("latest") is mutable


def test_ecr_gives_a_login_for_docker(ecr):
    assert Ecr(parse(f"{ECR}/trainer")).login()["username"] == "AWS"


def test_aws_that_refuses_is_told_in_one_line(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    error = registry.look(f"{ECR}/trainer:v1").image.error
    assert "AWS_PROFILE" in error
    assert "\n" not in error
