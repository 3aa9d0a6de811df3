"""testinfra's modules give the same answers from layers as from a machine, and its documented
examples hold.
"""

import datetime
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testinfra.host import Host, get_host

from splatgate.container.backends import Recording, ReplayBackend
from splatgate.container.layers import entries
from splatgate.container.layers.backend import LayersBackend
from splatgate.container.layers.tree import Tree
from splatgate.evidence.missing import NotVerified
from tests.unit.layered import SITE, File, debian, folder, link, program, rpm_database, tar, wheel
from tests.unit.test_contents import an_image


def a_host(tmp_path, *layers, **image):
    merged = Tree([entries.read_layer(iter([tar(layer)])) for layer in layers])
    return Host(LayersBackend(an_image(**image), merged, Recording(tmp_path / "c.jsonl")))


@pytest.fixture
def host(tmp_path):
    more = {
        "usr/bin/nginx": program("#!/bin/sh\n"),
        "var/lock": link("/run/lock"),
        "run/lock": folder(),
        "etc/cafe.conf": "caf\u00e9\nlisten 80;\n",
        "opt/venv/bin/pip": program("#!/opt/venv/bin/python\n"),
    }
    return a_host(tmp_path, debian(), more, wheel("Django", "1.10.2"), wheel("psycopg2", "2.6.2"))


# The examples of testinfra's documentation ("Modules"), with the values of this image.


def test_examples_of_file(host):
    assert host.file("/etc/passwd").exists
    assert not host.file("/nonexistent").exists
    assert host.file("/var/lock").is_symlink
    assert host.file("/var/lock").linked_to == "/run/lock"
    assert host.file("/etc/passwd").user == host.file("/etc/passwd").group == "root"
    assert (host.file("/etc/passwd").uid, host.file("/etc/shadow").gid) == (0, 42)
    assert host.file("/etc/shadow").mode == 0o640
    assert host.file("/etc/cafe.conf").content == "caf\u00e9\nlisten 80;\n".encode()
    assert host.file("/etc/passwd").contains("root")
    assert host.file("/etc/passwd").content_string.startswith("root:x:0:0")
    assert host.file("/usr/bin/nginx").is_executable
    assert host.file("/etc/passwd").mtime == datetime.datetime.fromtimestamp(1_700_000_000)
    assert host.file("/opt/venv").listdir() == ["bin", "lib", "pyvenv.cfg"]
    assert host.file("/etc/passwd").size == len(host.file("/etc/passwd").content)


def test_examples_of_package(host):
    libc = host.package("libc6")
    assert libc.is_installed
    assert libc.version == "2.36-9"
    assert not host.package("gone").is_installed
    assert not host.package("nginx").is_installed


def test_examples_of_pip(host):
    assert host.pip("Django").is_installed
    assert host.pip("django").version == "1.10.2"
    assert not host.pip("numpy").is_installed
    assert host.pip.get_packages(pip_path="/opt/venv/bin/pip") == {
        "Django": {"version": "1.10.2"},
        "psycopg2": {"version": "2.6.2"},
    }


def test_examples_of_user_and_group(host):
    assert host.user("root").exists
    assert not host.user("nosuchuser").exists
    assert host.user().name == "root"
    www = host.user("www")
    assert (www.uid, www.gid, www.group, www.gids) == (33, 33, "www", [33, 44])
    assert (www.groups, www.home, www.gecos) == (["www", "video"], "/var/www", "web")
    assert www.shell == "/usr/sbin/nologin"
    assert host.user("root").password_max_days == 99999
    assert host.user("root").expiration_date is None
    assert host.user().get_all_users == host.user().get_local_users == ["root", "www"]
    assert host.group("video").exists
    assert not host.group("nosuchgroup").exists
    assert (host.group("video").gid, host.group("video").members) == (44, ["www"])
    assert host.group("any").get_local_groups == ["root", "www", "video"]


def test_examples_of_system_info_environment_and_commands(host):
    info = host.system_info
    assert (info.type, info.distribution, info.release) == ("linux", "debian", "12")
    assert (info.codename, info.arch) == ("bookworm", "x86_64")
    assert host.environment()["PATH"] == "/opt/venv/bin:/usr/bin:/bin"
    assert host.exists("nginx")
    assert not host.exists("nosuchprogram")
    assert host.find_command("nginx") == "/usr/bin/nginx"
    with pytest.raises(ValueError, match="cannot find"):
        host.find_command("nosuchprogram")


def test_packages_of_alpine_and_of_rpm(tmp_path):
    alpine = a_host(
        tmp_path / "a",
        {
            "etc/os-release": "ID=alpine\nVERSION_ID=3.22\n",
            "sbin/apk": program(),
            "lib/apk/db/installed": "P:musl\nV:1.2.5-r0\nA:x86_64\n",
        },
    )
    alpine.backend.image.env["PATH"] = "/sbin"
    musl = alpine.package("musl")
    assert (musl.is_installed, musl.version, musl.release) == (True, "1.2.5", "r0")
    rocky = a_host(
        tmp_path / "r",
        {
            "etc/os-release": 'ID="rocky"\n',
            "var/lib/rpm/rpmdb.sqlite": rpm_database([("bash", "5.2", "1.el9", "x86_64")]),
        },
    )
    bash = rocky.package("bash")
    assert (bash.is_installed, bash.version, bash.release) == (True, "5.2", "1.el9")
    assert not rocky.package("nginx").is_installed
    older = a_host(tmp_path / "o", {"etc/os-release": "ID=centos\n", "var/lib/rpm/Packages": "bdb"})
    with pytest.raises(NotVerified, match="of an older form"):
        _ = older.package("bash").is_installed


@pytest.mark.parametrize(
    "ask",
    [
        lambda host: host.run("ls /"),
        lambda host: host.check_output("true"),
        lambda host: host.process.filter(),
        lambda host: host.service("nginx").is_running,
        lambda host: host.socket("tcp://80").is_listening,
        lambda host: host.mount_point("/").exists,
        lambda host: host.sysctl("kernel.ostype"),
        lambda host: host.pip.check(),
        lambda host: host.file("/usr/bin/python3.11").md5sum,
        lambda host: host.file(f"/{SITE}/big.bin").content,
        lambda host: host.file("/etc/passwd").contains(r"a\|b"),
        lambda host: host.file("/usr/lib").mtime,
    ],
    ids=(
        "run",
        "check_output",
        "process",
        "service",
        "socket",
        "mount",
        "sysctl",
        "pip",
        "md5",
        "content",
        "pattern",
        "mtime",
    ),
)
def test_what_needs_a_process_is_not_verified(tmp_path, ask):
    tools = {f"usr/bin/{name}": program() for name in ("service", "ss", "sysctl")}
    host = a_host(tmp_path, debian(), tools, {f"{SITE}/big.bin": bytes(300)})
    with pytest.raises(NotVerified, match="needs a running container"):
        ask(host)


def test_answers_are_recorded_and_replayed(host, tmp_path):
    first = [host.file("/etc/shadow").mode, host.package("libc6").version, host.exists("nginx")]
    again = Host(ReplayBackend("r", Recording(tmp_path / "c.jsonl")))
    assert [
        again.file("/etc/shadow").mode,
        again.package("libc6").version,
        again.exists("nginx"),
    ] == first


# The same questions, of this machine's own tools and of the layer of the same files.

#: (name, what is there) below a folder.
KINDS = ("file", "dir", "link", "broken", "loop", "pipe", "hard", "deep/inner", "missing")
QUESTIONS = {
    name: (lambda f, name=name: getattr(f, name))
    for name in (
        *("exists", "is_file", "is_directory", "is_executable", "is_pipe", "is_socket"),
        *("is_symlink", "linked_to", "user", "uid", "group", "gid", "mode", "mtime", "sha256sum"),
        *("content", "content_string"),
    )
} | {
    "listdir": lambda f: sorted(f.listdir()),
    "contains": lambda f: f.contains("^li.*e$"),
    "contains literally": lambda f: f.contains("a+b(c)"),
    "contains not": lambda f: f.contains("nothing"),
}


def answered(ask, file):
    """An answer, or how it fails."""
    try:
        return ask(file)
    except (AssertionError, RuntimeError, ValueError) as error:
        return type(error)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder of this machine, and the layer of the same files, at one path."""
    base = tmp_path_factory.mktemp("both")
    root = base / "root"
    (root / "deep").mkdir(parents=True, mode=0o750)
    (root / "dir").mkdir()
    (root / "dir" / "one").write_text("1")
    (root / "file").write_text("line\na+b(c)\n")
    (root / "file").chmod(0o4751)
    (root / "deep" / "inner").symlink_to("../file")
    (root / "link").symlink_to(root / "dir")
    (root / "broken").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    os.link(root / "file", root / "hard")
    layer = base / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        archive.add(root, str(root))
        for path in ("/etc/passwd", "/etc/group"):
            archive.add(Path(path).resolve(), path)
    merged = Tree([entries.read_layer(iter([layer.read_bytes()]))])
    recording = Recording(base / "c.jsonl")
    return root, get_host("local://"), Host(LayersBackend(an_image(), merged, recording))


@pytest.mark.parametrize("kind", KINDS)
def test_files_answer_as_this_machine_does(both, kind):
    root, machine, layers = both
    path = str(root / kind)
    differ = {}
    for name, ask in QUESTIONS.items():
        # Nothing writes to a pipe: a machine would wait for it.
        if kind == "pipe" and ("contain" in name or "content" in name or name == "sha256sum"):
            continue
        want = answered(ask, machine.file(path))
        # What is in a file is told where a program would need its text.
        got = answered(ask, layers.file(path))
        if want != got:
            differ[name] = (want, got)
    assert differ == {}


def test_users_and_groups_answer_as_this_machine_does(both):
    _, machine, layers = both
    for name in ("root", "daemon", "nobody", "nosuchuser"):
        for what in ("exists", "uid", "gid", "group", "gids", "groups", "home", "shell", "gecos"):
            want = answered(lambda u, w=what: getattr(u, w), machine.user(name))
            assert answered(lambda u, w=what: getattr(u, w), layers.user(name)) == want, name
    for name in ("root", "daemon", "nosuchgroup"):
        for what in ("exists", "gid", "members"):
            want = answered(lambda u, w=what: getattr(u, w), machine.group(name))
            assert answered(lambda u, w=what: getattr(u, w), layers.group(name)) == want, name


@settings(max_examples=25)
@given(st.text("ab.+*?()|{}^$[]-", max_size=5), st.text("ab.+*()|\n", max_size=12))
def test_a_pattern_is_found_as_grep_finds_it(tmp_path_factory, pattern, text):
    base = tmp_path_factory.mktemp("p")
    (base / "text").write_text(text)
    host = a_host(base, {"etc/text": File(text)})
    try:
        found = host.file("/etc/text").contains(pattern)
    except NotVerified:
        return
    grep = subprocess.run(["grep", "-qs", "--", pattern, base / "text"], check=False)
    assert found is (grep.returncode == 0)
