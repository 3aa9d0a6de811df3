"""The account source: one training job in a real AWS account, kept as evidence of lane ``live``.

Every other job that a check asks for is not verified here: one job is what the ceiling pays for.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from splatgate.container import registry
from splatgate.evidence import (
    BadInput,
    Header,
    Job,
    Limits,
    Machine,
    Member,
    Origin,
    write,
    write_bytes,
)
from splatgate.evidence.header import ACCOUNT
from splatgate.evidence.missing import NotVerified
from splatgate.sagemaker.account import Account as AccountJob
from splatgate.sagemaker.account import Ended, seconds_for
from splatgate.sagemaker.aws import clients
from splatgate.sagemaker.channels import tree_hash
from splatgate.sagemaker.request import Request, smoke_request
from splatgate.sagemaker.s3 import split_uri
from splatgate.sagemaker.validate import validate
from splatgate.sources.recorded import REQUEST, JobSpec, Recorded, account_job

if TYPE_CHECKING:
    from splatgate.sources.run import Account as Asked
    from splatgate.sources.run import Run


class Account(Recorded):
    """Evidence of one job in an account, collected as it is asked for.

    Raises:
        BadInput: the request would be refused, or its cost is not bounded.
    """

    def __init__(
        self,
        run: Run,
        asked: Asked,
        say: Callable[[str], None],
        client: Callable[[str], Any] | None = None,
    ) -> None:
        super().__init__(run.folder, run.scene, None, say)
        self.run, self.asked = run, asked
        self._client = client
        with self._lock("evidence"):
            if not (self.folder / "evidence.json").exists():
                self._open()

    def _lock(self, name: str) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{name}.lock")

    def _open(self) -> None:
        if self.run.image is None:
            raise BadInput("--live needs --image REF: an image in a registry that SageMaker pulls")
        given = self.run.given.get("subject.toml")
        if given is None:
            raise BadInput("--live needs --subject FILE: how to ask the trainer for a short run")
        request = self._document()
        seen = registry.look(self.run.image)
        if seen.image.served is None:
            why = seen.image.error or "it has no such image"
            raise BadInput(f"--image {self.run.image}: {why}; push it, and name it by digest")
        write_bytes(self.folder / "subject.toml", given.read_bytes())
        write(self.folder / "registry.json", seen)
        write(self.folder / REQUEST, request)
        write(
            self.folder / "evidence.json",
            Header(
                run=self.run.id,
                image_id=seen.image.served.image_id,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                machine=Machine(),
                scene=tree_hash(self.scene_path),
                scene_name=self.scene_path.name,
                extra={"runtime": ACCOUNT},
            ),
        )

    def _document(self) -> dict[str, Any]:
        """The request without its name and parameters.

        Raises:
            BadInput: the service would refuse it; names the member.
        """
        kinds = self.run.instance_types
        base = smoke_request(
            self.run.image or "", max_runtime=seconds_for(self.asked.price, self.asked.ceiling)
        ).raw
        found = {**base, "RoleArn": self.asked.role}
        found["OutputDataConfig"] = {
            "S3OutputPath": self.asked.output,
            "CompressionType": "GZIP",
        }
        if kinds:
            found["ResourceConfig"] = {**base["ResourceConfig"], "InstanceType": kinds[0]}
        bucket, prefix = split_uri(self.asked.output)
        own = f"{prefix.rstrip('/')}/splatgate-input-{self.run.id}/".lstrip("/")
        channel = base["InputDataConfig"][0]
        source = {**channel["DataSource"]["S3DataSource"], "S3Uri": f"s3://{bucket}/{own}"}
        found["InputDataConfig"] = [{**channel, "DataSource": {"S3DataSource": source}}]
        if refused := validate(found):
            raise BadInput(f"the service would refuse this request: {'; '.join(refused)}")
        return found

    def job(self, spec: JobSpec) -> Job:
        """Run the one job, or hand out its record.

        Raises:
            NotVerified: it is another job than the one that is run in an account.
            BadInput: it could not be created or followed.
        """
        if spec.name != account_job(self.run.id):
            raise NotVerified(f"in an account one job is run, and not {spec.name}")
        key, request = self.job_key(spec), self.request(spec)
        folder = self.folder / "jobs" / key
        with self._lock(f"jobs.{key}"):
            if not (folder / "job.json").exists():
                client = self._client or clients(None, request.region)
                started = AccountJob(client, dict(request.raw), self.say)
                with self.run.timed(f"job {spec.name}"):
                    ended = started.run(self.scene_path)
                self._keep(folder, ended, request)
        return super().job(spec)

    def _keep(self, folder: Path, ended: Ended, request: Request) -> None:
        """Write the record of the job, whole or not at all."""
        work = folder.with_name(f".{folder.name}")
        shutil.rmtree(work, ignore_errors=True)
        (work / "model").mkdir(parents=True)
        job = described(ended, request, unpacked(ended.archive, work / "model"))
        channels = {"training": self.header.scene or ""}
        job = replace(job, key=folder.name, image_id=self.header.image_id or "", channels=channels)
        (work / "log.txt").write_text(job.text + "\n")
        write(work / "job.json", job)
        work.rename(folder)


def described(ended: Ended, request: Request, members: tuple[Member, ...]) -> Job:
    """A job's record, of what DescribeTrainingJob and CloudWatch tell of it."""
    said = ended.description
    steps = said.get("SecondaryStatusTransitions", ())
    phases = {s["Status"]: _seconds(s) for s in steps if s.get("EndTime")}
    reason, secondary = str(said.get("FailureReason") or ""), str(said["SecondaryStatus"])
    status, ended_by, code = str(said["TrainingJobStatus"]), None, None
    if status == "Stopped":
        ended_by = "StopTrainingJob" if secondary == "Stopped" else secondary
    elif reason.startswith("InternalServerError"):
        ended_by = "InternalServerError"
    elif status == "Completed":
        code = 0
    elif found := re.search(r"exit code: (\d+)", reason):
        code = int(found.group(1))
    return Job(
        key="",
        name=request.name,
        image_id="",
        request=dict(request.raw),
        channels={},
        status=status,
        secondary_status=secondary,
        failure_reason=reason,
        exit=code,
        oom=False,
        ended_by=ended_by,
        stop_seconds=phases.get("Stopping", 0.0) if status == "Stopped" else None,
        command=(),
        limits_asked=Limits(),
        limits_applied=Limits(),
        phases=phases,
        log=ended.log,
        failure=None,
        env_names=(),
        members=members,
        output_members=(),
        checkpoint_members=(),
        writes_outside=(),
        started=next((s["StartTime"].isoformat() for s in steps if s["Status"] == "Training"), ""),
        origin=Origin.LIVE,
    )


def _seconds(step: dict[str, Any]) -> float:
    taken: timedelta = step["EndTime"] - step["StartTime"]
    return round(taken.total_seconds(), 2)


def unpacked(archive: bytes | None, folder: Path) -> tuple[Member, ...]:
    """The members of model.tar.gz, the files among them written below ``folder``."""
    found: list[Member] = []
    if archive is None:
        return ()
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for entry in tar:
                name, data = entry.name.removeprefix("./"), b""
                if entry.isdir() or not name:
                    continue
                if entry.isfile() and (file := tar.extractfile(entry)):
                    data = file.read()
                    if not PurePosixPath(name).is_absolute() and ".." not in name.split("/"):
                        write_bytes(folder / name, data)
                kind = "file" if entry.isfile() else "link"
                digest = hashlib.sha256(data).hexdigest()
                found.append(Member(name, len(data), digest, kind, entry.mode))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(f"model.tar.gz of the job cannot be read: {error}") from None
    return tuple(found)
