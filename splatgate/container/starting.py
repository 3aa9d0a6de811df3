"""Installing and starting an engine where none runs and that is allowed, and stopping only what was
started here.

What was started is remembered in ``build/engine/started.json``; the daemon's log is beside it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from splatgate import evidence
from splatgate.container.engine import Endpoint, EngineError, endpoint, say, trouble

FOLDER = Path(__file__).resolve().parents[2] / "build" / "engine"
#: Present where systemd is process 1 (sd_booted(3)).
SYSTEMD = Path("/run/systemd/system")
#: Debian's packages of an engine, and those that only newer releases have apart from it.
PACKAGES = ("docker.io", "iptables", "debootstrap")
WANTED = ("docker-cli", "docker-buildx")
#: A daemon answers in about two seconds on an idle machine; a slow disk needs longer for its first
#: start.
START_SECONDS = 90.0
#: dockerd gives its containers ten seconds each, in parallel, before it ends.
STOP_SECONDS = 60.0
INSTALL_SECONDS = 900.0


@dataclass(frozen=True)
class Started:
    """An engine that was started here. ``pid`` is the daemon's, or 0 where systemd keeps it."""

    how: str
    pid: int
    #: When the process started, in clock ticks after boot: tells it from a later one of that
    #: number.
    ticks: int = 0


def ensure(folder: Path = FOLDER, ask: Callable[[str], bool] | None = None) -> Endpoint:
    """An engine that answers: the one that runs, or one installed and started here.

    Starts one only on Debian or Ubuntu, as root or with a sudo that asks nothing, when DOCKER_HOST
    is unset. Says so first; on a terminal it asks.

    Args:
        folder: where the daemon's log and what was started are written.
        ask: puts a question to a person; by default on the terminal, and yes where there is none.

    Raises:
        EngineError: none answers, and none may be or could be started.
    """
    where = endpoint()
    problem = trouble(where)
    if problem is None:
        return where
    # Whatever is named (DOCKER_HOST, a context) is the user's to mend; so is a socket closed to
    # this user.
    if where.source != "default" or "no container engine" not in problem.what:
        raise problem
    sudo = privilege()
    if sudo is None or not debian():
        raise problem
    missing = not shutil.which("dockerd", path=_path())
    plan = f"install {', '.join(PACKAGES)} and start an engine" if missing else "start dockerd"
    say(f"engine: {problem.what}; going to {plan}")
    if not (ask or ask_on_terminal)(f"{plan}?"):
        raise problem
    if missing:
        install(sudo, PACKAGES, WANTED)
    if trouble(where) is not None:
        _start(sudo, folder)
    else:
        # The package's own script has started it, under systemd.
        _remember(folder, Started("systemd", 0))
    say("engine: answers")
    return where


def privilege() -> list[str] | None:
    """What to put before a command to run it as root: nothing, sudo, or None where that is not
    allowed.
    """
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if (
        sudo
        and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return [sudo, "-n"]
    return None


def debian(release: Path = Path("/etc/os-release")) -> bool:
    """Whether this is Debian, Ubuntu or made from them, with apt."""
    try:
        lines = release.read_text().splitlines()
    except OSError:
        return False
    names = [
        value
        for line in lines
        if line.startswith(("ID=", "ID_LIKE="))
        for value in shlex.split(line.partition("=")[2])
    ]
    return any(name in ("debian", "ubuntu") for text in names for name in text.split()) and bool(
        shutil.which("apt-get")
    )


def ask_on_terminal(question: str) -> bool:
    """Ask a person; yes where there is no terminal, and by default."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    sys.stderr.write(f"{question} [Y/n] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")


def install(sudo: Sequence[str], packages: Sequence[str], wanted: Sequence[str] = ()) -> None:
    """Install Debian packages; of ``wanted`` only those that this release has.

    Raises:
        EngineError: apt failed; says its last line.
    """
    apt = [
        *sudo,
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-qq",
        "-o",
        "Acquire::Retries=3",
    ]
    _run([*apt, "update"], "apt-get update")
    here = [name for name in wanted if _run_quiet(["apt-cache", "show", "--no-all-versions", name])]
    say(f"engine: installing {' '.join([*packages, *here])}")
    _run([*apt, "install", "-y", "--no-install-recommends", *packages, *here], "apt-get install")


def _run(argv: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
        lines = (done.stderr or done.stdout).strip().splitlines()
        status: object = done.returncode
    except subprocess.TimeoutExpired:
        lines, status = [f"did not end in {INSTALL_SECONDS:.0f} s"], "timeout"
    if status != 0:
        last = next(
            (line for line in reversed(lines) if line.startswith("E: ")), lines[-1] if lines else ""
        )
        raise EngineError(
            f"{what} failed ({status}): {last}", "install Docker by hand, or set DOCKER_HOST"
        )


def _run_quiet(argv: Sequence[str]) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _path() -> str:
    """PATH with the administrator's folders, which an ordinary user's lacks."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _start(sudo: Sequence[str], folder: Path) -> None:
    """Start the daemon and wait until it answers.

    Raises:
        EngineError: it ended or did not answer in time; says the end of its log.
    """
    if SYSTEMD.is_dir():
        _run([*sudo, "systemctl", "start", "docker"], "systemctl start docker")
        _remember(folder, Started("systemd", 0))
        _await_answer(None, None)
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.resolve() / "dockerd.log"
    program = shutil.which("dockerd", path=_path()) or "dockerd"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*sudo, program],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, "PATH": _path()},
            start_new_session=True,
        )
    say(f"engine: dockerd started as process {process.pid}, log {log}")
    _remember(folder, Started("dockerd", process.pid, ticks(process.pid)))
    try:
        _await_answer(process, log)
    except BaseException:
        stop_ours(folder)
        raise


def _await_answer(process: subprocess.Popen[bytes] | None, log: Path | None) -> None:
    where = endpoint()
    deadline = time.monotonic() + START_SECONDS
    told = time.monotonic()
    while (problem := trouble(where, 5)) is not None:
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            why = (
                f"ended with {process.returncode}"
                if ended and process
                else f"is silent ({problem.what})"
            )
            raise EngineError(f"dockerd {why}", _remedy(log) + _tail(log))
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"engine: waiting for dockerd to answer, {START_SECONDS - (deadline - told):.0f} s")
        time.sleep(0.2)


def _tail(log: Path | None, lines: int = 4) -> str:
    if log is None:
        return "; see journalctl -u docker"
    text = [
        line
        for line in log.read_text(errors="replace").splitlines()
        if line.strip() and "level=info" not in line
    ]
    return f"; the end of {log}:\n  " + "\n  ".join(text[-lines:])


def _remedy(log: Path | None) -> str:
    """A way out that fits what the daemon said."""
    text = log.read_text(errors="replace") if log else ""
    if "iptables" in text:
        return "apt install iptables (the kernel must allow it), or set DOCKER_HOST"
    if "cgroup" in text.lower():
        return "mount the cgroup file systems (apt install cgroupfs-mount), or set DOCKER_HOST"
    return "mend what the log says, or set DOCKER_HOST to an engine elsewhere"


def _remember(folder: Path, started: Started) -> None:
    evidence.write_bytes(folder / "started.json", json.dumps(asdict(started)).encode())


def ticks(pid: int) -> int:
    """When a process started, in clock ticks after boot; 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def ticks_of_ours(folder: Path = FOLDER) -> int:
    """When the engine that ``ensure`` started was started, if it still runs; else 0."""
    try:
        started = Started(**json.loads((folder / "started.json").read_text()))
    except (OSError, ValueError, TypeError):
        return 0
    return started.ticks if started.ticks == ticks(started.pid) else 0


def stop_ours(folder: Path = FOLDER) -> bool:
    """Stop the engine that ``ensure`` started, if it did and it still runs. Returns whether it
    stopped one.
    """
    record = folder / "started.json"
    try:
        started = Started(**json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):
        return False
    sudo = privilege() or []
    stopped = False
    if started.how == "systemd":
        stopped = _run_quiet([*sudo, "systemctl", "stop", "docker.service", "docker.socket"])
    elif started.ticks and ticks(started.pid) == started.ticks:
        if sudo:
            # sudo hands the signal on to the daemon.
            _run_quiet([*sudo, "kill", "-TERM", str(started.pid)])
        else:
            os.kill(started.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while ticks(started.pid) == started.ticks and time.monotonic() < deadline:
            if _reaped(started.pid):
                break
            time.sleep(0.1)
        else:
            if ticks(started.pid) == started.ticks:
                raise EngineError(
                    f"dockerd, process {started.pid}, was told to end and still runs",
                    f"look at its log in {folder}, and end it by hand",
                )
        stopped = True
    record.unlink(missing_ok=True)
    return stopped


def _reaped(pid: int) -> bool:
    """Collect the daemon where it is this process's child, so that it does not stay as a zombie."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False
