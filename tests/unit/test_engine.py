"""Finding an engine and a docker that can build, and the line said when there is none."""

import hashlib
import json
import os
import socket
import subprocess
import threading
from types import SimpleNamespace

import pytest

from splatgate.container import engine, starting
from splatgate.container.engine import Endpoint, EngineError


def program(folder, name, script):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def docker(folder, version, plugin=None):
    """A fake docker: `--version`, and `buildx version` when it has the plugin."""
    known = f'echo "{plugin}"; exit 0' if plugin else "exit 1"
    return program(
        folder, "docker", f'case "$1" in\n--version) echo "{version}";;\nbuildx) {known};;\nesac'
    )


OLD = "Docker version 20.10.24+dfsg1, build 297e128"
NEW = "Docker version 28.2.2, build e6534b4"
BUILDX = "github.com/docker/buildx v0.24.0 d0e5e86"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(OLD, (20, 10, 24), id="debian"),
        pytest.param(NEW, (28, 2, 2), id="docker"),
        pytest.param("Docker version 27.5.1-ce, build x", (27, 5, 1), id="suffix"),
        pytest.param("podman version 4.3.1", (), id="podman"),
        pytest.param("", (), id="nothing"),
    ],
)
def test_client_version_is_read_from_dockers_own_words(text, expected):
    assert engine.client_version(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(BUILDX, (0, 24, 0), id="docker"),
        pytest.param("github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3", (0, 13, 1), id="debian"),
        pytest.param("no number", (), id="none"),
    ],
)
def test_version_is_the_first_dotted_number(text, expected):
    assert engine.parse_version(text) == expected


def test_client_with_buildx_builds_without_attestations(tmp_path):
    found = engine.builder("unix:///s", [docker(tmp_path, NEW, BUILDX)])
    assert found.argv[1:3] == ("buildx", "build")
    assert {"--load", "--provenance=false", "--sbom=false"} <= set(found.argv)
    assert found.env == {"DOCKER_HOST": "unix:///s"}
    assert found.version == "buildx 0.24.0"


def test_buildx_before_attestations_is_not_given_their_options(tmp_path):
    found = engine.builder(
        "unix:///s", [docker(tmp_path, OLD, "github.com/docker/buildx v0.9.1 x")]
    )
    assert "--provenance=false" not in found.argv


def test_new_client_without_the_plugin_is_passed_over_for_an_old_one(tmp_path):
    new = docker(tmp_path / "new", NEW)
    old = docker(tmp_path / "old", OLD)
    found = engine.builder("unix:///s", [new, old])
    assert found.argv == (old, "build")
    assert found.env["DOCKER_BUILDKIT"] == "1"


def test_no_client_with_buildkit_is_one_line_with_the_way_out(tmp_path):
    new = docker(tmp_path, NEW)
    with pytest.raises(EngineError, match=r"28\.2\.2\); apt install docker-buildx") as caught:
        engine.builder("unix:///s", [new])
    assert "\n" not in str(caught.value)


def test_podman_in_dockers_name_is_no_client(tmp_path):
    with pytest.raises(EngineError, match="no docker command here can build"):
        engine.builder("unix:///s", [docker(tmp_path, "podman version 4.3.1")])


def test_no_docker_command_says_what_to_install():
    with pytest.raises(EngineError, match="no docker command on PATH; apt install"):
        engine.builder("unix:///s", [])


def test_a_missing_program_is_passed_over(tmp_path):
    old = docker(tmp_path, OLD)
    assert engine.builder("unix:///s", [str(tmp_path / "gone"), old]).program == old


def test_builders_environment_has_the_engine_and_no_context(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    env = engine.builder("tcp://e:1", [docker(tmp_path, OLD)]).environment()
    assert env["DOCKER_HOST"] == "tcp://e:1"
    assert "DOCKER_CONTEXT" not in env


def test_docker_host_wins_over_a_context():
    env = {"DOCKER_HOST": "tcp://a:1", "DOCKER_CONTEXT": "b"}
    assert engine.endpoint(env) == Endpoint("tcp://a:1", "DOCKER_HOST")


def context(home, name, host):
    digest = hashlib.sha256(name.encode()).hexdigest()
    folder = home / ".docker" / "contexts" / "meta" / digest
    folder.mkdir(parents=True)
    meta = {"Name": name, "Endpoints": {"docker": {"Host": host}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    (home / ".docker" / "config.json").write_text(json.dumps({"currentContext": name}))


def test_the_selected_context_names_the_engine(tmp_path):
    context(tmp_path, "lab", "ssh://lab")
    assert engine.endpoint({}, tmp_path) == Endpoint("ssh://lab", "context lab")


def test_a_selected_context_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"context gone is selected.*docker context use default"):
        engine.endpoint({"DOCKER_CONTEXT": "gone"}, tmp_path)


def test_no_engine_is_one_line_with_the_ways_out(tmp_path):
    problem = engine.trouble(Endpoint(f"unix://{tmp_path}/none.sock", "default"))
    assert problem is not None
    assert problem.what == "no container engine runs on this machine"
    assert "DOCKER_HOST" in problem.how
    assert "\n" not in str(problem)


def test_a_named_engine_that_is_silent_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"none\.sock.*DOCKER_HOST.*does not answer.*unset it"):
        engine.client(Endpoint(f"unix://{tmp_path}/none.sock", "DOCKER_HOST"))


def test_an_export_waits_longer_than_other_calls_for_its_first_byte(monkeypatch):
    class Image:
        def save(self):
            return iter([b"%d" % link.api.timeout])

    link = SimpleNamespace(
        api=SimpleNamespace(timeout=engine.CALL_SECONDS), images={"sha256:1": Image()}
    )
    monkeypatch.setattr(engine, "client", lambda: link)
    waits = int(b"".join(engine.export("sha256:1")))
    assert waits > engine.CALL_SECONDS


def test_an_unreachable_host_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    problem = engine.trouble(Endpoint(f"tcp://127.0.0.1:{port}", "DOCKER_HOST"), 2)
    assert problem is not None
    assert "does not answer" in problem.what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_closed_socket_is_a_matter_of_the_docker_group(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        problem = engine.trouble(Endpoint(f"unix://{path}", "default"))
    assert problem is not None
    assert "usermod -aG docker" in problem.how


def test_no_permission_on_the_socket_names_the_group(monkeypatch):
    class Closed(socket.socket):
        def connect(self, address):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(engine.socket, "socket", Closed)
    problem = engine.trouble(Endpoint("unix:///s", "default"))
    assert problem is not None
    assert "may not open the engine's socket /s; run `sudo usermod -aG docker $USER`" in str(
        problem
    )


def test_what_is_no_address_is_refused():
    problem = engine.trouble(Endpoint("docker.example", "DOCKER_HOST"))
    assert problem is not None
    assert "names no engine" in problem.what


def served(folder, answer):
    """A socket that answers one request."""
    path = folder / "s"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve():
        link, _ = server.accept()
        link.recv(1000)
        link.sendall(answer)
        link.close()
        server.close()

    threading.Thread(target=serve, daemon=True).start()
    return Endpoint(f"unix://{path}", "default")


def test_an_engine_that_answers_is_no_trouble(tmp_path):
    assert engine.trouble(served(tmp_path, b"HTTP/1.1 200 OK\r\n\r\nOK"), 2) is None


def test_an_engine_that_answers_with_an_error_is_trouble(tmp_path):
    problem = engine.trouble(served(tmp_path, b"HTTP/1.1 503 Busy\r\n\r\n"), 2)
    assert problem is not None
    assert "503" in problem.what


def test_too_little_disk_says_how_much_is_needed_and_where(tmp_path):
    with pytest.raises(EngineError, match=r"GB free, and the build needs 1000000000 GB; free some"):
        engine.check_disk(tmp_path / "not" / "made", 10**18)


def test_enough_disk_is_not_mentioned(tmp_path):
    engine.check_disk(tmp_path, 1)


def test_an_old_python_is_refused():
    with pytest.raises(EngineError, match=r"use Python 3\.11 or newer"):
        engine.check_python((3, 10))


class Link:
    """An engine that describes itself."""

    def __init__(self, **info):
        self._info = {"ServerVersion": "27.0", "OSType": "linux", "Architecture": "x86_64", **info}

    def info(self):
        return self._info


REMOTE = Endpoint("tcp://far:2376", "DOCKER_HOST")


def test_an_engine_over_ssh_is_refused_with_the_way_to_it():
    problem = engine.trouble(Endpoint("ssh://me@far", "DOCKER_HOST"))
    assert "ssh -fNT -L /tmp/engine.sock:/var/run/docker.sock me@far" in str(problem)
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        # As `docker info` of moby 20.10 and 28 answers, and of 28 with the containerd store.
        pytest.param(
            [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]], False, id="own"
        ),
        pytest.param([["driver-type", "io.containerd.snapshotter.v1"]], True, id="containerd"),
        pytest.param(None, False, id="none"),
    ],
)
def test_the_engines_image_store_is_known_by_its_own_word(status, expected):
    assert engine.containerd_store(Link(DriverStatus=status)) is expected


def test_the_disk_that_is_needed_is_told_before_the_build(tmp_path):
    link, here = Link(DockerRootDir=str(tmp_path)), Endpoint("unix:///s", "default")
    (told,) = engine.preflight(link, here, need=10**9)
    assert told.startswith(f"needs 1 GB in {tmp_path}, ")
    with pytest.raises(EngineError, match="GB free, and the build needs"):
        engine.preflight(link, here, need=10**18)


def test_an_arm64_engine_builds_with_a_remark():
    (remark,) = engine.preflight(Link(Architecture="aarch64"), REMOTE)
    assert "not verified" in remark


def test_a_windows_engine_is_refused():
    with pytest.raises(EngineError, match="windows containers"):
        engine.preflight(Link(OSType="windows"), REMOTE)


def test_an_engine_without_buildkits_mounts_is_refused():
    with pytest.raises(EngineError, match=r"the engine is 19\.3\.1.*upgrade Docker"):
        engine.preflight(Link(ServerVersion="19.3.1"), REMOTE)


def test_a_remote_engines_disk_is_not_judged_by_this_one():
    assert engine.preflight(Link(), REMOTE, need=10**18) == []


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        pytest.param("ID=debian\n", True, id="debian"),
        pytest.param('ID=linuxmint\nID_LIKE="ubuntu debian"\n', True, id="made from ubuntu"),
        pytest.param("ID=fedora\n", False, id="fedora"),
    ],
)
def test_debian_is_known_by_its_release_file(tmp_path, monkeypatch, release, expected):
    program(tmp_path / "bin", "apt-get", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "os-release").write_text(release)
    assert starting.debian(tmp_path / "os-release") is expected


@pytest.fixture
def no_engine(tmp_path, monkeypatch):
    """A machine where no engine runs; starting one would fail the test."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(
        starting, "endpoint", lambda: Endpoint(f"unix://{tmp_path}/none.sock", "default")
    )
    monkeypatch.setattr(starting, "privilege", lambda: [])
    monkeypatch.setattr(starting, "debian", lambda: True)
    monkeypatch.setattr(starting, "install", lambda *_: pytest.fail("installed"))
    monkeypatch.setattr(starting, "_start", lambda *_: pytest.fail("started"))


@pytest.mark.usefixtures("no_engine")
def test_nothing_is_started_when_the_person_says_no(tmp_path):
    with pytest.raises(EngineError, match="no container engine runs"):
        starting.ensure(tmp_path, ask=lambda _: False)


@pytest.mark.usefixtures("no_engine")
def test_nothing_is_started_without_root(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "privilege", lambda: None)
    with pytest.raises(EngineError, match="no container engine runs"):
        starting.ensure(tmp_path, ask=lambda _: True)


@pytest.mark.usefixtures("no_engine")
def test_nothing_is_started_for_an_engine_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        starting, "endpoint", lambda: Endpoint(f"unix://{tmp_path}/none.sock", "DOCKER_HOST")
    )
    with pytest.raises(EngineError, match="does not answer"):
        starting.ensure(tmp_path, ask=lambda _: True)


@pytest.mark.usefixtures("no_engine")
def test_starting_is_said_before_it_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(starting.shutil, "which", lambda *_, **__: "/usr/sbin/dockerd")
    monkeypatch.setattr(starting, "_start", lambda *_: None)
    starting.ensure(tmp_path, ask=lambda _: True)
    assert "going to start dockerd" in capsys.readouterr().err


def test_a_daemon_that_ends_is_reported_with_the_end_of_its_log(tmp_path, monkeypatch):
    daemon = program(tmp_path, "dockerd", 'echo "failed to start: iptables not found"; exit 1')
    monkeypatch.setattr(starting.shutil, "which", lambda *_, **__: daemon)
    monkeypatch.setattr(starting, "SYSTEMD", tmp_path / "none")
    monkeypatch.setattr(
        starting, "endpoint", lambda: Endpoint(f"unix://{tmp_path}/none.sock", "default")
    )
    with pytest.raises(
        EngineError, match=r"ended with 1; apt install iptables(?s:.)*iptables not found"
    ):
        starting._start([], tmp_path / "e")
    assert not (tmp_path / "e" / "started.json").exists()


def test_only_the_daemon_that_was_started_is_stopped(tmp_path):
    record = {"how": "dockerd", "pid": os.getpid(), "ticks": starting.ticks(os.getpid()) + 1}
    (tmp_path / "started.json").write_text(json.dumps(record))
    assert starting.stop_ours(tmp_path) is False
    assert not (tmp_path / "started.json").exists()


def test_nothing_is_stopped_where_nothing_was_started(tmp_path):
    assert starting.stop_ours(tmp_path) is False


def test_our_own_daemon_is_stopped(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    record = {"how": "dockerd", "pid": process.pid, "ticks": starting.ticks(process.pid)}
    (tmp_path / "started.json").write_text(json.dumps(record))
    assert starting.stop_ours(tmp_path) is True
    process.wait()


def test_a_daemon_that_does_not_end_is_not_called_stopped(tmp_path, monkeypatch):
    code = "trap '' TERM; echo 1; read line"
    daemon = subprocess.Popen(["sh", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert daemon.stdout.readline() == b"1\n"
        record = {"how": "dockerd", "pid": daemon.pid, "ticks": starting.ticks(daemon.pid)}
        (tmp_path / "started.json").write_text(json.dumps(record))
        monkeypatch.setattr(starting, "STOP_SECONDS", 0.3)
        monkeypatch.setattr(starting, "privilege", lambda: None)
        with pytest.raises(EngineError, match="still runs"):
            starting.stop_ours(tmp_path)
        assert (tmp_path / "started.json").exists()
    finally:
        daemon.kill()
        daemon.communicate()
