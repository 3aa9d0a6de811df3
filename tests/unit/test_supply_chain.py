"""Secrets, locks, bills of materials, and the probe's walk over all files."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate.container import lock, sbom, secrets
from splatgate.container.probe import walk
from splatgate.evidence import Contents, Distribution, Image, Package
from splatgate.expectations import OCI

SECRET = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "HF_TOKEN": "x9",
    "DB_PASSWORD": "hunter2",
    "WANDB_API_KEY": "0a1b",
    "AWS_ACCESS_KEY_ID": "ASIAIOSFODNN7EXAMPLE",
    "PIP_INDEX_URL": "https://user:hunter2@pypi.example/simple",
    "ANYTHING": "ghp_" + "a" * 36,
    "PEM": "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
}
#: Names and values of real images that only sound like secrets.
NO_SECRET = {
    "GPG_KEY": "7169605F62C751356D054A26A821E680E5FA6305",
    "TOKENIZERS_PARALLELISM": "false",
    "MAX_TOKENS": "512",
    "API_TOKEN": "",
    "USE_AUTH_TOKEN": "true",
    "GOOGLE_APPLICATION_CREDENTIALS": "/run/secrets/gcp.json",
    "DB_PASSWORD_FILE": "/run/secrets/db",
    "TOKEN": "$CI_TOKEN",
    "PATH": "/opt/venv/bin:/usr/bin",
    "PIP_INDEX_URL": "https://pypi.example:8080/simple",
    "REPOSITORY": "git@github.com:org/repo.git",
    "NVIDIA_REQUIRE_CUDA": "cuda>=12.4 brand=tesla,driver>=470",
}


@pytest.mark.parametrize("name", SECRET)
def test_a_secret_is_known_by_its_name_or_form(name):
    assert list(secrets.in_environment({name: SECRET[name]})) == [name]
    assert list(secrets.in_text(f'ENV {name}="{SECRET[name]}"'))


@pytest.mark.parametrize("name", NO_SECRET)
def test_what_only_sounds_like_a_secret_is_none(name):
    assert not list(secrets.in_environment({name: NO_SECRET[name]}))
    assert not list(secrets.in_text(f"ENV {name}={NO_SECRET[name]}"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("RUN |1 NETRC_PASSWORD=hunter2 /bin/sh -c pip install x", True),
        ("ARG GITHUB_TOKEN=abc", True),
        ("RUN git clone https://me:pw@git.example/x.git", True),
        ("RUN /bin/sh -c docker login --password-stdin # buildkit", False),
        ("RUN --mount=type=secret,id=token TOKEN=$(cat /run/secrets/token) make", False),
        ('RUN curl -H "Authorization: Bearer ${TOKEN}" https://x.example', False),
    ],
    ids=["build-arg", "arg", "clone", "stdin", "mounted", "expanded"],
)
def test_a_command_of_the_history(text, found):
    assert bool(list(secrets.in_text(text))) is found


@given(st.text(max_size=200), st.text(alphabet="ABCDEFGHKMPQRSTUVWXYZ23456789", min_size=16))
def test_an_answer_never_holds_the_secret(around, value):
    text = f"{around} X_TOKEN=zz{value} https://a:zz{value}@h/ "
    assert not [what for what in secrets.in_text(text) if value in what]


def test_a_lock_is_read_with_its_hashes():
    text = (
        "# comment\n--index-url https://x.example\n-r other.txt\n"
        "Torch==2.10.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "typing-extensions==4.16.0 ; python_version < '3.14' --hash=sha256:cc # via torch\n"
        "loose>=1\nwild==1.*  --hash=sha256:dd\n"
    )
    assert lock.read(text) == [
        lock.Pin("torch", "2.10.0", 2),
        lock.Pin("typing-extensions", "4.16.0", 1),
        lock.Pin("loose", None, 0),
        lock.Pin("wild", None, 1),
    ]


@pytest.mark.parametrize(
    ("name", "version", "allowed"),
    [
        ("Typing_Extensions", "4.16.0", True),
        ("torch", "2.10.0+cu128", True),
        ("torch", "2.11.0", False),
        ("rich", "15.0.0", False),
    ],
    ids=["spelling", "local", "other", "absent"],
)
def test_a_lock_allows_its_versions_alone(name, version, allowed):
    pins = [lock.Pin("typing-extensions", "4.16.0", 1), lock.Pin("torch", "2.10.0", 1)]
    assert lock.allows(pins, name, version) is allowed


def test_a_bill_of_materials_names_each_package_by_its_url():
    labels = {f"{OCI}title": "trainer", f"{OCI}version": "0.1.0"}
    image = Image("r", "sha256:0", None, "linux", "amd64", (), (), {}, "", "/", labels, 1)
    seen = Contents(
        python="python",
        version="3.13.0",
        machine="x86_64",
        entry_script=None,
        entry_script_mode=None,
        sources=(),
        distributions=(
            Distribution("typing_extensions", "4.16.0"),
            Distribution("torch", "2.10.0+cu128"),
        ),
        libraries=(),
        compilers=(),
        packages=(Package("libgomp1", "1:14.2.0-19+b1", "amd64"),),
    )
    bom = sbom.cyclonedx(image, seen)
    assert [c["purl"] for c in bom["components"]] == [
        "pkg:pypi/typing-extensions@4.16.0",
        "pkg:pypi/torch@2.10.0%2Bcu128",
        "pkg:deb/debian/libgomp1@1%3A14.2.0-19%2Bb1?arch=amd64",
    ]
    assert bom == sbom.cyclonedx(image, seen)
    assert ("torch", "2.10.0+cu128") in sbom.listed(bom)


@pytest.fixture
def root(tmp_path):
    """A file system with one of each leftover, and the oddities that are none."""

    def put(path, text="x", mode=0o644):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    put("work/=2.0")
    put("work/.git/HEAD")
    put("work/.env", "A=1")
    put("vendored/glm/.git", "gitdir: ../../.git/modules/glm")
    put("root/.aws/credentials", "[default]")
    put("root/.ssh/id_rsa", "-----BEGIN OPENSSH PRIVATE KEY-----\nx")
    put("root/.ssh/id_ed25519.pub", "ssh-ed25519 AAAA")
    put("etc/ssl/cert.pem", "-----BEGIN CERTIFICATE-----\nx")
    put("etc/pip.conf", "[global]\nindex-url = https://u:p@pypi.example/simple\n")
    put("etc/apt/sources.list", "deb http://mirror.example/debian trixie main\n")
    put("root/.cache/pip/http/a/b", "y" * 100)
    put("var/cache/apt/pkgcache.bin", "y" * 10)
    put("usr/bin/own", mode=0o4755)
    put("opt/open", mode=0o666)
    put("mounted/.env")
    for path, mode in (("tmp", 0o1777), ("shared", 0o777), ("var/lib/apt/lists", 0o755)):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path).chmod(mode)
    (tmp_path / "link").symlink_to("opt/open")
    (tmp_path / "loop").symlink_to(".")
    return tmp_path


def test_the_walk_finds_each_leftover_and_no_more(root):
    seen = walk.files(str(root), [str(root / "mounted")])
    left = {os.path.relpath(x["path"], root): x["kind"] for x in seen["leftovers"]}
    assert left == {
        "work/=2.0": "redirected",
        "work/.git": "git",
        "work/.env": "credentials",
        "root/.aws/credentials": "credentials",
        "root/.ssh/id_rsa": "credentials",
        "etc/pip.conf": "credentials",
        "root/.cache/pip": "cache",
        "var/cache/apt": "cache",
    }
    sizes = {x["path"]: x["bytes"] for x in seen["leftovers"] if x["kind"] == "cache"}
    assert sizes == {str(root / "root/.cache/pip"): 100, str(root / "var/cache/apt"): 10}
    assert seen["setuid"] == [str(root / "usr/bin/own")]
    assert seen["world_writable"] == [str(root / "opt/open"), str(root / "shared")]
    assert seen["complete"]


def test_a_walk_out_of_time_says_so(root):
    assert walk.files(str(root), [], limit=-1)["complete"] is False


def test_installed_packages_are_read_from_dpkg(tmp_path):
    (tmp_path / "status").write_text(
        "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\n"
        "Description: x\n Package: not this\n\n"
        "Package: b\nStatus: deinstall ok config-files\nVersion: 1\n\n"
    )
    assert walk.packages(str(tmp_path / "status")) == [
        {"name": "a", "version": "1:2-3", "architecture": "amd64"}
    ]
    assert walk.packages(str(tmp_path / "none")) == []
