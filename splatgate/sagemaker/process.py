"""The process runtime: the trainer's source tree in the current interpreter, for GPU machines
without an engine.

Nothing isolates it: no limits, no mounts, the machine's own packages. What it gives is supporting
evidence, bound to the hash of the source tree, and never counted towards a release (design,
decision 9).
"""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from splatgate.evidence import Job, Limits, LogLine, Member, Origin, write
from splatgate.expectations import GRACE
from splatgate.sagemaker.assumptions import Assumptions
from splatgate.sagemaker.channels import files_below, tree_hash
from splatgate.sagemaker.environment import config_files
from splatgate.sagemaker.request import Request
from splatgate.sagemaker.result import ending

#: What a process of the machine needs to find its interpreter, its packages and its driver.
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "CUDA_HOME", "PYTHONPATH")


def run(
    script: Path,
    request: Request,
    channel: Path,
    folder: Path,
    *,
    key: str,
    deadline: float,
    say: Callable[[str], None],
    stop_when: Callable[[str], bool] | None = None,
) -> Job:
    """Run the trainer's entry script as one job and write its evidence to ``folder``, whole or not
    at all.

    ``script`` gets SAGEMAKER_BASE_DIR, a folder laid out as /opt/ml; ``deadline`` is in seconds.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
        base = Path(work) / "ml"
        for name in ("model", "output/data", "checkpoints", "input/config", "input/data"):
            (base / name).mkdir(parents=True)
        for name, data in config_files(request, Assumptions()).items():
            (base / name).write_bytes(data)
        (base / "input" / "data" / "training").symlink_to(channel.resolve())
        own = {"HOME": Path(work) / "home", "TMPDIR": Path(work) / "tmp"}
        for path in own.values():
            path.mkdir()
        environment = {k: os.environ[k] for k in PASSED_ON if k in os.environ}
        environment |= {k: str(path) for k, path in own.items()}
        environment |= dict(request.environment)
        environment |= {
            "TRAINING_JOB_NAME": request.name,
            "TRAINING_JOB_ARN": request.arn,
            "SAGEMAKER_BASE_DIR": str(base),
            "PYTHONUNBUFFERED": "1",
            # Packages of the user's own are not below that empty home.
            "PYTHONUSERBASE": site.getuserbase(),
        }
        command = (sys.executable, str(script), "train")
        started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
        )
        try:
            log, ended_by, stop = _follow(process, began + deadline, say, stop_when)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        failure = base / "output" / "failure"
        text = failure.read_text(errors="replace") if failure.is_file() else None
        end = ending(process.returncode, ended_by, text)
        job = Job(
            key=key,
            name=request.name,
            image_id="",
            request=dict(request.raw),
            channels={"training": tree_hash(channel)},
            status=end.status,
            secondary_status=end.secondary,
            failure_reason=end.reason,
            exit=process.returncode,
            oom=False,
            ended_by=ended_by,
            stop_seconds=stop,
            # By names: where they lie on this machine is no fact of the job.
            command=tuple(Path(word).name for word in command),
            limits_asked=Limits(),
            limits_applied=Limits(),
            phases={"Training": round(time.monotonic() - began, 2)},
            log=tuple(log),
            failure=text,
            env_names=tuple(sorted(environment)),
            members=tuple(members(base / "model")),
            output_members=tuple(members(base / "output" / "data")),
            checkpoint_members=tuple(members(base / "checkpoints")),
            writes_outside=tuple(
                f"{shown}/{name}"
                for shown, path in (("~", own["HOME"]), ("/tmp", own["TMPDIR"]))
                for name in left_in(path)
            ),
            unverified=("process runtime: no limits, no mounts, this machine's packages",),
            started=started,
            origin=Origin.GPU,
        )
        shutil.copytree(base / "model", Path(work) / "job" / "model")
        (Path(work) / "job" / "log.txt").write_text(job.text + "\n")
        write(Path(work) / "job" / "job.json", job)
        (Path(work) / "job").rename(folder)
    return job


def _follow(
    process: subprocess.Popen[bytes],
    until: float,
    say: Callable[[str], None],
    stop_when: Callable[[str], bool] | None,
) -> tuple[list[LogLine], str | None, float | None]:
    """Read the log to its end; stop the process when asked to, or when the time is up."""
    began = time.monotonic()
    lines: queue.Queue[bytes | None] = queue.Queue()

    def pump() -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            lines.put(raw)
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    log: list[LogLine] = []
    ended_by, stopped_at, said = None, None, began
    while True:
        try:
            raw = lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            if stopped_at is not None:
                process.kill()
            else:
                ended_by, stopped_at = "Deadline", time.monotonic()
                process.send_signal(signal.SIGTERM)
                until = stopped_at + GRACE
            continue
        if raw is None:
            break
        text = raw.decode(errors="replace").rstrip("\r\n")
        log.append(LogLine(round(time.monotonic() - began, 3), "stdout", text))
        if time.monotonic() - said > 5:
            said = time.monotonic()
            say(text)
        if stop_when is not None and stopped_at is None and stop_when(text):
            ended_by, stopped_at = "StopTrainingJob", time.monotonic()
            process.send_signal(signal.SIGTERM)
            until = stopped_at + GRACE
    process.wait()
    took = None if stopped_at is None else round(time.monotonic() - stopped_at, 2)
    return log, ended_by, took


def left_in(folder: Path) -> list[str]:
    """What lies below a folder that is no folder itself, by its path there."""
    found = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def members(folder: Path) -> Iterator[Member]:
    """The files below a folder."""
    for name, path in files_below(folder):
        data = path.read_bytes()
        kind = "symlink" if path.is_symlink() else "file"
        digest = hashlib.sha256(data).hexdigest()
        yield Member(name, len(data), digest, kind, path.stat().st_mode & 0o7777)
