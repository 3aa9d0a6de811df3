"""The process door: trains the source tree beside the suite on this machine's GPU, and writes down
what it sees.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from filelock import FileLock

from splatgate.doors import JobSpec, Recorded, stop_when
from splatgate.evidence import Header, Job, Machine, write
from splatgate.outcomes import NotVerified
from splatgate.sagemaker import process
from splatgate.sagemaker.channels import tree_hash

if TYPE_CHECKING:
    from splatgate.run import Run


def gpu() -> str | None:
    """Name, compute capability and driver of the first GPU here, as nvidia-smi tells; None without
    one.
    """
    if shutil.which("nvidia-smi") is None:
        return None
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout else None


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
        write(
            self.folder / "evidence.json",
            Header(
                run=self.run.id,
                image_id=None,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                machine=Machine(gpu=gpu()),
                scene=tree_hash(self.scene_path),
                scene_name=self.scene_path.name,
                extra={"runtime": "process", "source_sha256": tree_hash(self.source / "trainer")},
            ),
        )

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
                with self.run.timed(f"job {spec.name}"):
                    process.run(
                        self.source / "train_gaussian_production.py",
                        self.request(spec),
                        self.scene_path,
                        folder,
                        key=key,
                        deadline=spec.deadline,
                        say=self.say,
                        stop_when=stop_when(spec.stop_on),
                    )
        return super().job(spec)
