"""A probe job in a real account: created, followed to its end, stopped where that does not come,
fetched and cleaned up.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splatgate.evidence import BadInput, write_bytes
from splatgate.probing.points import Found
from splatgate.sagemaker.aws import told
from splatgate.sagemaker.result import LOG_GROUP
from splatgate.sagemaker.s3 import split_uri

#: Statuses after which nothing more happens.
ENDED = ("Completed", "Failed", "Stopped")
#: Seconds between two looks, and how often a status is told that has not changed.
LOOK, TELL = 15.0, 60.0
#: Looks in a row that may fail, for want of network or quota, before the job is stopped.
PATIENCE = 8
#: Seconds that a job gets to end after it was stopped: the grace, and the upload.
ENDING = 300.0
#: The model of a probe job is a few files of some kilobytes; more is none of its own.
MOST_BYTES = 16 * 2**20
#: Error code → what to do about it; whatever else is answered leaves open whether there is a job.
REMEDIES = {
    "AccessDeniedException": "allow sagemaker:CreateTrainingJob, and iam:PassRole for the role",
    "ResourceLimitExceeded": "ask for a quota of this instance type for training jobs",
    "ValidationException": "correct what it names",
}


class Account:
    """One job of one account. ``left`` says what could not be tidied up."""

    def __init__(
        self,
        client: Callable[[str], Any],
        request: dict[str, Any],
        say: Callable[[str], None],
        wait: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client, self.request, self.say = client, request, say
        self.wait, self.now = wait, now
        self.name = str(request["TrainingJobName"])
        self.left: list[str] = []
        #: Until it is known that there is none.
        self.may_run = True

    def run(self, folder: Path, timeout: float, keep: bool) -> Found:
        """Run the job to its end, and fetch what it left into ``folder``.

        An interruption, ``timeout`` seconds without an end, and looks that fail too often stop the
        job before anything else happens. ``keep`` leaves its objects in S3.

        Raises:
            BadInput: it could not be created, or did not end in time; no job is running then, or
                the message says that one may be.
        """
        try:
            self._create()
            description = self._follow(timeout)
        except BaseException:
            if self.may_run:
                self._stop()
                if not keep:
                    self._clean()
            raise
        return self._fetch(description, folder, keep)

    def _create(self) -> None:
        """Create the job. An answer that got lost does not mean that there is none."""
        import botocore.exceptions

        why, code = "", ""
        try:
            self.client("sagemaker").create_training_job(**self.request)
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            why = told(error)
        except botocore.exceptions.BotoCoreError as error:
            why = told(error)
        if why and (code in REMEDIES or not self._is_there()):
            self.may_run = False
            raise BadInput(f"no job was created: {why}; {REMEDIES.get(code, 'try again later')}")
        self.say(f"{self.name}: created")

    def _is_there(self) -> bool:
        """Whether a job of this name exists; no other run uses it. Where nobody says, it may."""
        import botocore.exceptions

        try:
            self._describe()
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            return not code.startswith(("Validation", "ResourceNotFound"))
        except botocore.exceptions.BotoCoreError:
            return True
        return True

    def _describe(self) -> dict[str, Any]:
        found = self.client("sagemaker").describe_training_job(TrainingJobName=self.name)
        return {key: value for key, value in found.items() if key != "ResponseMetadata"}

    def _follow(self, timeout: float) -> dict[str, Any]:
        """DescribeTrainingJob's answer once the job has ended."""
        import botocore.exceptions

        began = said = self.now()
        last, failed = "", 0
        while True:
            try:
                found, failed = self._describe(), 0
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
                failed += 1
                self.say(f"{self.name}: {told(error)}")
                if failed >= PATIENCE:
                    raise BadInput(f"{self.name}: cannot be followed: {told(error)}") from None
                found = {}
            status = f"{found.get('TrainingJobStatus')} ({found.get('SecondaryStatus')})"
            if found and (status != last or self.now() - said >= TELL):
                last, said = status, self.now()
                self.say(f"{self.name}: {status}, {self.now() - began:.0f} s")
            if found.get("TrainingJobStatus") in ENDED:
                return found
            if self.now() - began > timeout:
                raise BadInput(
                    f"{self.name}: {last or 'no answer'} after {timeout:.0f} s; raise --timeout"
                )
            self.wait(LOOK)

    def _stop(self) -> None:
        """Stop the job and see it end; say so where that cannot be seen."""
        import botocore.exceptions

        began, asked, last = self.now(), False, ""
        try:
            while self.now() - began <= ENDING:
                try:
                    if not asked:
                        # Refused where it has ended by itself.
                        with contextlib.suppress(botocore.exceptions.ClientError):
                            self.client("sagemaker").stop_training_job(TrainingJobName=self.name)
                            asked = True
                    status = self._describe()["TrainingJobStatus"]
                    if status != last:
                        self.say(f"{self.name}: asked to stop, {status}")
                    if (last := status) in ENDED:
                        return
                except botocore.exceptions.ClientError as error:
                    self.say(f"{self.name}: {told(error)}")
                    if not self._is_there():
                        return
                except botocore.exceptions.BotoCoreError as error:
                    self.say(f"{self.name}: {told(error)}")
                self.wait(LOOK)
            self._warn()
        except BaseException:
            self._warn()
            raise

    def _warn(self) -> None:
        self.left.append(f"training job {self.name} may still run")
        self.say(
            f"{self.name}: MAY STILL RUN, AND COST: "
            f"aws sagemaker stop-training-job --training-job-name {self.name}"
        )

    def _fetch(self, description: dict[str, Any], folder: Path, keep: bool) -> Found:
        """What the job left, written to ``folder``; then its objects in S3 are removed."""
        text = json.dumps(description, indent=1, default=str)
        write_bytes(folder / "description.json", text.encode() + b"\n")
        saw: dict[str, Any] = {}
        stopped, archive, failure = None, None, description.get("FailureReason")
        if failure:
            self.say(f"{self.name}: {failure[:200]}")
        if data := self._model(description):
            write_bytes(folder / "model.tar.gz", data)
            archive, files = opened(data)
            saw, stopped = files.get("saw.json", {}), files.get("stopped.json")
        streams, lines = self._log()
        write_bytes(folder / "log.txt", "".join(f"{line}\n" for line in lines).encode())
        marked = [line for line in lines if line.startswith("probe: saw ")]
        if not saw and marked:
            saw = as_object(marked[0].removeprefix("probe: saw "))
        if not keep:
            self._clean()
        return Found(
            self.request["HyperParameters"]["end"], saw, description, archive, stopped, streams
        )

    def _model(self, description: dict[str, Any]) -> bytes | None:
        import botocore.exceptions

        uri = description.get("ModelArtifacts", {}).get("S3ModelArtifacts")
        if not uri:
            return None
        bucket, key = split_uri(uri)
        try:
            body = self.client("s3").get_object(Bucket=bucket, Key=key)["Body"]
            return bytes(body.read(MOST_BYTES))
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            self.say(f"{uri}: {told(error)}")
            return None

    def _log(self) -> tuple[tuple[str, ...], list[str]]:
        """Names of the job's log streams, and the first one's lines."""
        import botocore.exceptions

        try:
            found = self.client("logs").describe_log_streams(
                logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self.name}/"
            )["logStreams"]
            names = tuple(str(stream["logStreamName"]) for stream in found)
            if not names:
                return (), []
            page = self.client("logs").get_log_events(
                logGroupName=LOG_GROUP, logStreamName=names[0], startFromHead=True
            )
            return names, [str(event["message"]) for event in page["events"]]
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            self.say(f"log of {self.name}: {told(error)}")
            return (), []

    def _clean(self) -> None:
        """Remove the job's own objects below S3OutputPath, and nothing else."""
        import botocore.exceptions

        bucket, prefix = split_uri(self.request["OutputDataConfig"]["S3OutputPath"])
        own = f"{prefix.rstrip('/')}/{self.name}/".lstrip("/")
        try:
            s3 = self.client("s3")
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=own)
            for entry in [entry for page in pages for entry in page.get("Contents", ())]:
                s3.delete_object(Bucket=bucket, Key=entry["Key"])
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            self.left.append(f"s3://{bucket}/{own}: {told(error)}")
            self.say(f"left behind: {self.left[-1]}")


def opened(data: bytes) -> tuple[dict[str, str] | None, dict[str, dict[str, Any]]]:
    """Kinds of an archive's members by name, and what its JSON files hold; None: no archive."""
    kinds, files = {}, {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                kind = "link" if member.issym() or member.islnk() else "file"
                if name:
                    kinds[name] = "folder" if member.isdir() else kind
                if member.isfile() and name.endswith(".json") and (file := tar.extractfile(member)):
                    files[name] = as_object(file.read().decode(errors="replace"))
    except (tarfile.TarError, OSError, EOFError):
        return None, {}
    return kinds, files


def as_object(text: str) -> dict[str, Any]:
    """A JSON object, or an empty one."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
