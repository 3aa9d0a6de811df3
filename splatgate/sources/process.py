"""The process door: trains the source tree beside the suite on this machine's GPU, and writes down
what it sees.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from splatgate.evidence import BadInput, Header, Job, Machine, Use, write
from splatgate.evidence.gpu import mebibytes, report
from splatgate.evidence.missing import NotVerified
from splatgate.paths import PACKAGE, ROOT
from splatgate.sagemaker import process, variants
from splatgate.sagemaker.channels import files_below, tree_hash
from splatgate.sources import resume
from splatgate.sources.recorded import JobSpec, Recorded, stop_when

if TYPE_CHECKING:
    from splatgate.sources.run import Run


#: What nvidia-smi is asked about a GPU, in the order of ``Machine.gpu``.
FIELDS = ("name", "compute_cap", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm")
#: Name of the hash that evidence of the process runtime is bound to.
SOURCE = "source_sha256"
#: Scenes that a job may ask for by name, beside the run's.
SCENES = ("brighton_beach", "banana")
#: Longest time that the kernels' self-test may take, seconds.
SELFTEST = 300


def gpu(fields: tuple[str, ...] = FIELDS) -> str | None:
    """Facts of the first GPU here, as nvidia-smi tells them; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout else None


def source_hash(source: Path) -> str:
    """Content hash (sha256, hex) of a trainer's source tree and what is compiled in it, less its
    tests and what Python caches.
    """
    total = hashlib.sha256()
    for name, path in files_below(source):
        if not {"__pycache__", "tests"} & set(name.split("/")):
            total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def memory_used() -> int | None:
    """Bytes of the first GPU's memory in use, by all programs together; None without one."""
    said = gpu(("memory.used",))
    return mebibytes(said) if said else None


@contextmanager
def alone() -> Iterator[None]:
    """One program at a time on this machine's GPU, over all runs of this user."""
    with FileLock(Path(tempfile.gettempdir()) / f"splatgate-gpu.{os.getuid()}.lock"):
        yield


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Alone on the GPU, run a job whose evidence goes to ``folder``, and add what it left there."""
    with alone():
        before = memory_used()
        yield
        write(folder / "gpu.json", Use(before, memory_used()))


class Process(Recorded):
    """Evidence of image/ as a source tree, collected in the current interpreter."""

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        super().__init__(run.folder, run.scene, run.request, say)
        self.run = run
        self.source = run.source
        with FileLock(self.lock_path("evidence")):
            if not (self.folder / "evidence.json").exists():
                self._open()

    def lock_path(self, name: str) -> str:
        """Path of a lock in the run's folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return str(self.folder / f"{name}.lock")

    def _open(self) -> None:
        shutil.copyfile(
            self.run.subject or self.source / "subject.toml", self.folder / "subject.toml"
        )
        header = Header(
            run=self.run.id,
            image_id=None,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=Machine(gpu=gpu()),
            scene=tree_hash(self.scene_path),
            scene_name=self.scene_path.name,
            extra={
                "runtime": "process",
                SOURCE: source_hash(self.source),
                resume.SUITE: source_hash(PACKAGE),
            },
        )
        write(self.folder / "evidence.json", resume.take_over(self.run, header, self.say))

    def job(self, spec: JobSpec) -> Job:
        """Run the job of ``spec`` here.

        Raises:
            NotVerified: no GPU on this machine.
        """
        if self.header.machine.gpu is None:
            raise NotVerified("no GPU on this machine: nvidia-smi shows none")
        key = self.job_key(spec)
        folder = self.folder / "jobs" / key
        with FileLock(self.lock_path(f"jobs.{key}")):
            if not (folder / "job.json").exists():
                with watched(folder), self.run.timed(f"job {spec.name}"):
                    process.run(
                        self.source / "train_gaussian_production.py",
                        self.request(spec),
                        self.channel(spec),
                        folder,
                        key=key,
                        deadline=spec.deadline,
                        say=self.say,
                        stop_when=stop_when(spec.stop_on),
                    )
        return super().job(spec)

    def channel(self, spec: JobSpec) -> Path:
        """What the training channel of a job holds."""
        if spec.data == "scene" or spec.data in SCENES:
            return channel(spec.data, self.scene_path)
        folder = self.folder / "channels" / spec.data
        with FileLock(self.lock_path(f"channels.{spec.data}")):
            if not folder.exists():
                variants.make(self.scene_path, spec.data, folder)
        return folder

    def kernels(self) -> dict[str, Any]:
        """Run the kernels' self-test here, or hand out its report.

        Raises:
            NotVerified: the subject profile names none, or it ended without a report.
        """
        name = self.profile().selftest
        if name is None:
            raise NotVerified("the subject profile names no self-test of its kernels")
        path = self.folder / "gpu" / "kernels.json"
        with FileLock(self.lock_path("kernels")):
            if not path.exists():
                self.say("kernels against their reference (about half a minute)")
                with alone(), self.run.timed("kernels"):
                    write(path, self_test([sys.executable, str(self.source / name)]))
        return super().kernels()


def self_test(command: list[str]) -> dict[str, Any]:
    """What a self-test prints.

    Raises:
        NotVerified: it ended without a report, or not in time.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SELFTEST, check=False
        )
        return report(done.stdout, "self-test")
    except subprocess.TimeoutExpired:
        raise NotVerified(f"the kernels' self-test took more than {SELFTEST} s") from None
    except BadInput as error:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise NotVerified(f"{error}; exit {done.returncode}: {last}") from None


def channel(data: str, scene: Path) -> Path:
    """The run's scene, or another of the suite's by name."""
    return scene if data == "scene" else ROOT / "tests" / "scenes" / data
