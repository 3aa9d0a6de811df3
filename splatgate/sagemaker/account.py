"""One training job in a real account: created, followed to its end, stopped where that does not
come, fetched and cleaned up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splatgate.evidence import BadInput, LogLine
from splatgate.expectations import GRACE
from splatgate.sagemaker.aws import told
from splatgate.sagemaker.channels import files_below
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
#: Seconds to wait for an instance, the image and the upload, beside the job's own time.
WAITING = 3600.0
#: MaxRuntimeInSeconds of the one job: at least and at most.
LEAST, MOST = 300, 1800
#: A model of a few hundred steps on a small scene; more is none of it.
MOST_BYTES = 2**30
#: Error code → what to do about it; whatever else is answered leaves open whether there is a job.
REMEDIES = {
    "AccessDeniedException": "allow sagemaker:CreateTrainingJob, and iam:PassRole for the role",
    "ResourceLimitExceeded": "ask for a quota of this instance type for training jobs",
    "ValidationException": "correct what it names",
}


def seconds_for(price: float, ceiling: float) -> int:
    """MaxRuntimeInSeconds of a job that costs at most ``ceiling`` USD at ``price`` USD an hour.

    The grace after SIGTERM is billed too.

    Raises:
        BadInput: too little for a job that shows anything.
    """
    seconds = int(ceiling / price * 3600 - GRACE)
    if seconds < LEAST:
        least = (LEAST + GRACE) / 3600 * price
        raise BadInput(
            f"--ceiling {ceiling:g}: at {price:g} USD an hour it buys {max(seconds, 0)} s of "
            f"training, {LEAST} are needed; give {least:.2f} or more"
        )
    return min(seconds, MOST)


@dataclass(frozen=True)
class Ended:
    """What became of a job: DescribeTrainingJob's last answer, its log, its model.tar.gz."""

    description: dict[str, Any]
    log: tuple[LogLine, ...]
    archive: bytes | None


class Account:
    """One job of one account. ``left`` says what could not be tidied up.

    ``client`` gives boto3's client of a service; ``wait`` and ``now`` are the clock.
    """

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
        self._sent: list[tuple[str, str]] = []
        #: Until it is known that there is none.
        self._may_run = True

    def run(self, channel: Path) -> Ended:
        """Upload the channel, run the job to its end, fetch what it left, and remove both from S3.

        An interruption, no end in time, and looks that fail too often stop the job before anything
        else happens.

        Raises:
            BadInput: it could not be created, or did not end in time; no job is running then, or
                ``left`` says that one may be.
        """
        import botocore.exceptions

        try:
            self._send(channel)
            self._create()
            description = self._follow()
            self._may_run = False
            return Ended(description, self._log(description), self._model(description))
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            raise BadInput(f"{self.name}: {told(error)}") from None
        finally:
            if self._may_run:
                self._stop()
            self._clean()

    def _send(self, channel: Path) -> None:
        source = self.request["InputDataConfig"][0]["DataSource"]["S3DataSource"]
        bucket, prefix = split_uri(source["S3Uri"])
        self._may_run = False
        for name, path in files_below(channel):
            self.client("s3").upload_file(str(path), bucket, prefix + name)
            self._sent.append((bucket, prefix + name))
        self.say(f"{self.name}: {len(self._sent)} objects sent to {source['S3Uri']}")
        self._may_run = True

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
            self._may_run = False
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

    def _follow(self) -> dict[str, Any]:
        """DescribeTrainingJob's answer once the job has ended."""
        import botocore.exceptions

        began = said = self.now()
        until = began + WAITING + self.request["StoppingCondition"]["MaxRuntimeInSeconds"]
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
            if self.now() > until:
                raise BadInput(f"{self.name}: {last or 'no answer'} after {until - began:.0f} s")
            self.wait(LOOK)

    def _stop(self) -> None:
        """Stop the job and see it end; say so where that cannot be seen."""
        import botocore.exceptions

        began, asked, ended = self.now(), False, False
        try:
            while not ended and self.now() - began <= ENDING:
                try:
                    if not asked:
                        # Refused where it has ended by itself.
                        with contextlib.suppress(botocore.exceptions.ClientError):
                            self.client("sagemaker").stop_training_job(TrainingJobName=self.name)
                            asked = True
                    ended = self._describe()["TrainingJobStatus"] in ENDED
                except botocore.exceptions.ClientError as error:
                    self.say(f"{self.name}: {told(error)}")
                    ended = not self._is_there()
                except botocore.exceptions.BotoCoreError as error:
                    self.say(f"{self.name}: {told(error)}")
                if not ended:
                    self.wait(LOOK)
        finally:
            if not ended:
                self.left.append(
                    f"training job {self.name} MAY STILL RUN, AND COST: "
                    f"aws sagemaker stop-training-job --training-job-name {self.name}"
                )
                self.say(self.left[-1])

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

    def _log(self, description: dict[str, Any]) -> tuple[LogLine, ...]:
        """The job's lines, as CloudWatch has them; seconds count from the start of Training."""
        logs = self.client("logs")
        streams = logs.describe_log_streams(
            logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self.name}/"
        )["logStreams"]
        events: list[tuple[int, str]] = []
        for stream in streams:
            asked = {"logGroupName": LOG_GROUP, "logStreamName": stream["logStreamName"]}
            page, token = logs.get_log_events(**asked, startFromHead=True), None
            # The same token again says that there is no more.
            while page["events"] or page["nextForwardToken"] != token:
                events += [(event["timestamp"], event["message"]) for event in page["events"]]
                token = page["nextForwardToken"]
                page = logs.get_log_events(**asked, startFromHead=True, nextToken=token)
        steps = description.get("SecondaryStatusTransitions", ())
        starts = [s["StartTime"].timestamp() for s in steps if s["Status"] == "Training"]
        began = starts[0] if starts else events[0][0] / 1000 if events else 0.0
        return tuple(
            LogLine(round(max(0.0, at / 1000 - began), 3), "stdout", text) for at, text in events
        )

    def _clean(self) -> None:
        """Remove the job's own objects, those sent and those below S3OutputPath/NAME."""
        import botocore.exceptions

        bucket, prefix = split_uri(self.request["OutputDataConfig"]["S3OutputPath"])
        own = f"{prefix.rstrip('/')}/{self.name}/".lstrip("/")
        try:
            s3 = self.client("s3")
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=own)
            made = [(bucket, entry["Key"]) for page in pages for entry in page.get("Contents", ())]
            for where, key in {*self._sent, *made}:
                s3.delete_object(Bucket=where, Key=key)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            self.left.append(f"s3://{bucket}/{own}: {told(error)}")
            self.say(f"left behind: {self.left[-1]}")
