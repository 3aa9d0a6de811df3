"""Finding a container engine that answers, and a ``docker`` that can build with it.

``client()`` never installs or starts anything; ``starting.ensure()`` may. The docker SDK is
imported only when a connection is wanted, so that everything that needs no engine runs without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import docker

GB = 10**9

#: Python that the suite needs.
PYTHON = (3, 11)
#: Engine whose own Dockerfile reader knows ``RUN --mount`` without a ``# syntax`` line (moby 20.10,
#: BuildKit 0.8).
ENGINE = (20, 10)
#: Free disk where the engine keeps its data. Measured, a first build: image 7.7 GB, compiler 0.9,
#: downloads 3.2; the rest is for a second version of torch's layer. With the stages cached, a
#: changed lock costs at most some hundred MB.
BUILD_BYTES = 20 * GB
CACHED_BYTES = 5 * GB
#: An engine on this machine answers in milliseconds; one far away needs seconds.
PING_SECONDS = 10.0
#: Time limit of the SDK's other calls: filling a volume takes longer than a ping.
CALL_SECONDS = 120
#: An engine writes a whole image to its disk before it sends the first byte of it: 8 GB took more
#: than two minutes on a busy machine.
EXPORT_SECONDS = 1200
#: The platform that SageMaker runs; on an arm64 laptop images of it are built and inspected.
PLATFORM = "linux/amd64"
DEFAULT_HOST = "unix:///var/run/docker.sock"


class EngineError(Exception):
    """No usable engine. One line: ``what`` is wrong, and ``how`` to mend it."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"{what}; {how}")
        self.what = what
        self.how = how


def say(text: str) -> None:
    """One line of progress, on standard error and at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Endpoint:
    """Where an engine is looked for. ``source`` is what named it: a variable, a context, or
    ``default``.
    """

    host: str
    source: str

    @property
    def local(self) -> bool:
        """Whether it is on this machine, so that its disk can be seen."""
        return self.host.startswith("unix://")


def endpoint(env: Mapping[str, str] | None = None, home: Path | None = None) -> Endpoint:
    """The engine that ``docker`` itself would use: DOCKER_HOST, then the context, then the default
    socket.

    Raises:
        EngineError: the context that is selected does not exist.
    """
    env = os.environ if env is None else env
    if env.get("DOCKER_HOST"):
        return Endpoint(env["DOCKER_HOST"], "DOCKER_HOST")
    config = Path(env.get("DOCKER_CONFIG") or (home or Path.home()) / ".docker")
    name = env.get("DOCKER_CONTEXT") or _field(config / "config.json", "currentContext")
    if name and name != "default":
        meta = (
            config / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
        )
        host = _field(meta, "Endpoints", "docker", "Host")
        if not host:
            raise EngineError(
                f"the docker context {name} is selected, and {meta} names no engine",
                "docker context use default, or set DOCKER_HOST",
            )
        return Endpoint(host, f"context {name}")
    rootless = Path(env.get("XDG_RUNTIME_DIR") or "/nonexistent") / "docker.sock"
    if not Path(DEFAULT_HOST.removeprefix("unix://")).exists() and rootless.exists():
        return Endpoint(f"unix://{rootless}", "rootless")
    return Endpoint(DEFAULT_HOST, "default")


def _field(path: Path, *keys: str) -> str:
    """One text out of a JSON file, or ``""`` where the file or the field is missing."""
    try:
        value = json.loads(path.read_text())
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return value if isinstance(value, str) else ""


def trouble(where: Endpoint, seconds: float = PING_SECONDS) -> EngineError | None:
    """Why no engine answers at ``where``, or None when one does.

    Asks with the standard library alone, since the SDK reports every cause as the same error.
    """
    kind, _, rest = where.host.partition("://")
    if kind == "unix":
        return _unix_trouble(where, rest, seconds)
    if kind in ("tcp", "http", "https"):
        name, _, port = rest.split("/")[0].rpartition(":")
        try:
            socket.create_connection((name.strip("[]"), int(port)), timeout=seconds).close()
        except (OSError, ValueError) as error:
            return unreachable(where, str(error))
        return None
    if kind == "ssh":
        # The SDK needs a client of its own for it, which would not read the user's ssh settings.
        return EngineError(
            f"{where.source} is {where.host}, and an engine is not asked over ssh",
            f"forward its socket: ssh -fNT -L /tmp/engine.sock:/var/run/docker.sock {rest}, then "
            "DOCKER_HOST=unix:///tmp/engine.sock",
        )
    return EngineError(
        f"{where.source} is {where.host}, which names no engine",
        "write unix:///path/docker.sock or tcp://host:port, or unset it",
    )


def _unix_trouble(where: Endpoint, path: str, seconds: float) -> EngineError | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(seconds)
        try:
            link.connect(path)
            link.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            status = link.recv(64).split(b"\r\n")[0].decode("ascii", "replace")
        except PermissionError:
            return EngineError(
                f"this user may not open the engine's socket {path}",
                "run `sudo usermod -aG docker $USER` and log in again",
            )
        except (FileNotFoundError, ConnectionRefusedError):
            if where.source == "default":
                return EngineError(
                    "no container engine runs on this machine",
                    "start Docker, or set DOCKER_HOST to one elsewhere; "
                    "as root on Debian or Ubuntu `make image` installs and starts one",
                )
            return unreachable(where, "nobody listens there")
        except OSError as error:
            return unreachable(where, str(error) or type(error).__name__)
    if " 200 " not in f"{status} ":
        return unreachable(where, f"it answers {status!r}")
    return None


def unreachable(where: Endpoint, why: str) -> EngineError:
    """The error for an engine that is named and does not answer."""
    source = {"default": "the default socket", "rootless": "the rootless socket"}.get(
        where.source, where.source
    )
    return EngineError(
        f"the engine at {where.host} ({source}) does not answer: {why}",
        f"check {where.source}, or unset it to use this machine's engine"
        if where.source == "DOCKER_HOST"
        else "start it, or set DOCKER_HOST to one that runs",
    )


def client(where: Endpoint | None = None, seconds: float = PING_SECONDS) -> docker.DockerClient:
    """A client of the engine that answers. Starts nothing.

    Args:
        where: the engine; by default the one that ``docker`` itself would use.
        seconds: time limit of the first answer.

    Raises:
        EngineError: none answers; says which of the known causes it is, and the way out.
    """
    where = where or endpoint()
    problem = trouble(where, seconds)
    if problem is not None:
        raise problem
    try:
        import docker
        import docker.errors
        import requests.exceptions
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the Python package {error.name} is missing", "pip install -r requirements/suite.txt"
        ) from None
    try:
        link = docker.from_env(
            timeout=int(seconds),
            environment={**os.environ, "DOCKER_HOST": where.host},
        )
        link.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise unreachable(where, " ".join(str(error).split())[:200]) from None
    link.api.timeout = CALL_SECONDS
    return link


def export(image_id: str) -> Iterator[bytes]:
    """An image as `docker save` writes it, in chunks, over a connection that waits for it."""
    link = client()
    link.api.timeout = EXPORT_SECONDS
    chunks: Iterator[bytes] = link.images.get(image_id).save()
    return chunks


@dataclass(frozen=True)
class Builder:
    """A ``docker`` command that builds with BuildKit, and the environment it needs."""

    program: str
    argv: tuple[str, ...]
    version: str
    env: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The environment to run it in. A context would fight DOCKER_HOST."""
        own = {key: value for key, value in os.environ.items() if key != "DOCKER_CONTEXT"}
        return {**own, **self.env}


def builder(host: str, programs: Iterable[str] | None = None) -> Builder:
    """The first ``docker`` on PATH that can build with BuildKit.

    Two kinds can: a client with the buildx plugin, and a client older than 23, which asks the
    engine's own BuildKit when DOCKER_BUILDKIT=1 is set. From 23 on a client without the plugin
    cannot.

    Args:
        host: the engine to build on; goes to the command as DOCKER_HOST, so that SDK and command
            agree.
        programs: candidates, in order; by default each ``docker`` on PATH and /usr/bin/docker.

    Raises:
        EngineError: there is no docker command, or none that can.
    """
    seen: list[str] = []
    for program in _programs() if programs is None else programs:
        plugin = _answer(program, "buildx", "version")
        if plugin is not None:
            version = parse_version(plugin)
            argv = [program, "buildx", "build", "--builder", "default", "--load"]
            if version >= (0, 10):
                # Attestations would make an index of the image; SageMaker wants one plain manifest.
                argv += ["--provenance=false", "--sbom=false"]
            label = f"buildx {'.'.join(map(str, version))}"
            return Builder(program, tuple(argv), label, {"DOCKER_HOST": host})
        version = client_version(_answer(program, "--version") or "")
        if (18, 9) <= version < (23,):
            env = {"DOCKER_HOST": host, "DOCKER_BUILDKIT": "1"}
            return Builder(
                program, (program, "build"), f"docker {'.'.join(map(str, version))}", env
            )
        seen.append(f"{program} {'.'.join(map(str, version)) or 'unknown'}")
    if not seen:
        raise EngineError(
            "there is no docker command on PATH", "apt install docker.io docker-buildx"
        )
    raise EngineError(
        f"no docker command here can build with BuildKit (found {', '.join(seen)})",
        "apt install docker-buildx (Debian, Ubuntu) or docker-buildx-plugin (from Docker)",
    )


def client_version(text: str) -> tuple[int, ...]:
    """The version in what ``docker --version`` prints; ``()`` when it is no Docker client (podman's
    shim).
    """
    return parse_version(text) if text.startswith("Docker version") else ()


def parse_version(text: str) -> tuple[int, ...]:
    """The first dotted number in ``text``, as numbers: ``v0.10.4``, ``20.10.24+dfsg1``; ``()`` when
    there is none.
    """
    found = re.search(r"(?<![\w.])v?(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def _programs() -> list[str]:
    """Each different ``docker`` on PATH, in order, and the distribution's."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin"]
    found: dict[str, str] = {}
    for folder in folders:
        program = shutil.which("docker", path=folder) if folder else None
        if program:
            found.setdefault(os.path.realpath(program), program)
    return list(found.values())


def _answer(program: str, *args: str) -> str | None:
    """What a command prints, or None when it fails."""
    try:
        done = subprocess.run(
            [program, *args], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def containerd_store(link: docker.DockerClient) -> bool:
    """Whether the engine keeps its images in containerd's store, and so in OCI's form."""
    status = link.info().get("DriverStatus") or ()
    return ["driver-type", "io.containerd.snapshotter.v1"] in [list(pair) for pair in status]


def preflight(link: docker.DockerClient, where: Endpoint, need: int = BUILD_BYTES) -> list[str]:
    """Whether this machine and engine can build. Returns remarks that do not stop the build.

    Args:
        link: the engine.
        where: where it is; its disk is looked at only when it is on this machine.
        need: bytes that must be free there.

    Raises:
        EngineError: Python or the engine is too old, it builds for another system, or its disk is
            too full.
    """
    check_python()
    info = link.info()
    if parse_version(info.get("ServerVersion", "")) < ENGINE:
        raise EngineError(
            f"the engine is {info.get('ServerVersion')}, the build needs {ENGINE[0]}.{ENGINE[1]}",
            "upgrade Docker",
        )
    if info.get("OSType", "linux") != "linux":
        raise EngineError(
            f"the engine runs {info['OSType']} containers", "switch it to Linux containers"
        )
    remarks = []
    if info.get("Architecture") not in ("x86_64", "amd64"):
        remarks.append(
            f"the engine is {info.get('Architecture')}: {PLATFORM} is emulated, building takes "
            "hours and training stays not verified"
        )
    if where.local:
        folder = Path(info.get("DockerRootDir") or "/var/lib/docker")
        free = check_disk(folder, need)
        remarks.append(f"needs {need / GB:.0f} GB in {folder}, {free / GB:.0f} GB are free")
    return remarks


def check_python(version: tuple[int, ...] | None = None) -> None:
    """Refuse a Python older than the suite needs.

    Raises:
        EngineError: it is older.
    """
    version = sys.version_info[:2] if version is None else version
    if version < PYTHON:
        raise EngineError(
            f"this is Python {platform.python_version()}",
            f"use Python {PYTHON[0]}.{PYTHON[1]} or newer",
        )


def check_disk(folder: Path, need: int) -> int:
    """Refuse when fewer than ``need`` bytes are free where ``folder`` is or would be made. Returns
    the bytes that are free.

    Raises:
        EngineError: there is too little; says how much is free and where.
    """
    while True:
        try:
            free = shutil.disk_usage(folder).free
            break
        except OSError:
            # The engine's folder may be closed to this user, or be inside its virtual machine.
            if folder == folder.parent:
                return need
            folder = folder.parent
    if free < need:
        raise EngineError(
            f"{folder} has {free / GB:.1f} GB free, and the build needs {need / GB:.0f} GB",
            "free some (docker system prune) or move the engine's data-root",
        )
    return free
