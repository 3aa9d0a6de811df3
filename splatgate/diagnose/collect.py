"""Collects a bundle from AWS, reading only: what may not be read shrinks it, and is named."""

from __future__ import annotations

import functools
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import requests

from splatgate.container.distribution import ACCEPT, Manifest, checked
from splatgate.diagnose.load import GOOD
from splatgate.diagnose.redact import Redactor, shown
from splatgate.diagnose.shapes import parsed
from splatgate.evidence import BadInput, write_bytes
from splatgate.sagemaker.s3 import split_uri

T = TypeVar("T")
GROUPS = {"Training": "/aws/sagemaker/TrainingJobs", "Processing": "/aws/sagemaker/ProcessingJobs"}
#: Of each log stream: lines kept from its beginning, from its end, and of those that stand out.
HEAD, TAIL, LOUD = 2_000, 4_000, 4_000
_LOUD = re.compile(
    r"(?i)error|exception|traceback|fail|warn|killed|fatal|cuda|gpu|nan|denied|refus|not found"
)
EXECUTION = re.compile(r"arn:aws[\w-]*:states:[\w-]+:\d{12}:execution:.+")
_JOB_ARN = re.compile(r"arn:aws[\w-]*:sagemaker:[\w-]+:\d{12}:training-job/(.+)")
ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[\w-]+)\.amazonaws\.com(?:\.cn)?/"
    r"(?P<repository>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DENIED = re.compile(r"(?i)AccessDenied|UnauthorizedOperation|NotAuthorized|AuthorizationError")


class Collector:
    """Fills a folder with what AWS keeps of one job or execution.

    ``client`` makes a boto3 client by the name of its service; ``say`` is told each step.
    """

    def __init__(
        self,
        client: Callable[[str], Any],
        folder: Path,
        say: Callable[[str], None],
        redact: bool = True,
    ) -> None:
        self.client = client
        self.folder = folder
        self.say = say
        self.clean: Callable[[str], str] = Redactor() if redact else str
        self.missing: list[dict[str, str]] = []

    def collect(self, target: str) -> None:
        """Collect all there is of a job (name or ARN) or an execution (ARN).

        Raises:
            BadInput: nothing at all could be read.
        """
        jobs: Iterable[tuple[str, str]]
        if EXECUTION.fullmatch(target):
            jobs = self._execution(target)
        else:
            found = _JOB_ARN.fullmatch(target)
            jobs = [("Training", found[1] if found else target)]
        described = [d for kind, name in jobs if (d := self._job(kind, name, self.folder))]
        if described or (self.folder / "execution.json").exists():
            for job in described:
                self._image(job)
            self._last_good(described)
            self._write(self.folder / "missing.json", {"missing": self.missing})
            return
        why = "; ".join(f"{m['what']}: {m['why']} ({m['action']})" for m in self.missing)
        raise BadInput(f"{target}: nothing could be read: {why}")

    def last_failed(self) -> str:
        """The name of the training job that failed last.

        Raises:
            BadInput: none failed, or they may not be listed.
        """
        found = self._ask(
            "failed jobs",
            "sagemaker:ListTrainingJobs",
            lambda: self.client("sagemaker").list_training_jobs(
                StatusEquals="Failed", SortBy="CreationTime", SortOrder="Descending", MaxResults=1
            ),
        )
        names = [j["TrainingJobName"] for j in (found or {}).get("TrainingJobSummaries", ())]
        if not names:
            why = self.missing[-1]["why"] if self.missing else "no training job has failed here"
            raise BadInput(f"--last-failed: {why}; name a job or an execution")
        return str(names[0])

    def _ask(self, what: str, action: str, call: Callable[[], T]) -> T | None:
        """The answer of a call, or None and a line in ``missing``."""
        import botocore.exceptions

        try:
            return call()
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            why = f"not allowed: {code}" if _DENIED.search(code) else " ".join(str(error).split())
            needs = f"allow {action}" if _DENIED.search(code) else action
        except botocore.exceptions.BotoCoreError as error:
            why, needs = " ".join(str(error).split()), action
        self.missing.append({"what": what, "why": why, "action": needs})
        self.say(f"  {what}: {why} ({needs})")
        return None

    def _write(self, path: Path, value: Any) -> None:
        value = {k: v for k, v in value.items() if k != "ResponseMetadata"}
        text = json.dumps(shown(value, self.clean), indent=1, default=lambda m: m.isoformat())
        write_bytes(path, text.encode() + b"\n")

    def _execution(self, arn: str) -> list[tuple[str, str]]:
        """Describe an execution and its history; returns the jobs that it created."""
        sfn = self.client("stepfunctions")
        self.say(f"execution {arn.rpartition(':')[2]}")
        described = self._ask(
            "execution",
            "states:DescribeExecution",
            lambda: sfn.describe_execution(executionArn=arn),
        )
        if described:
            self._write(self.folder / "execution.json", described)
        definition = self._ask(
            "definition",
            "states:DescribeStateMachineForExecution",
            lambda: sfn.describe_state_machine_for_execution(executionArn=arn),
        )
        if definition:
            self._write(self.folder / "definition.json", definition)
        events = self._ask(
            "history",
            "states:GetExecutionHistory",
            lambda: [
                event
                for page in sfn.get_paginator("get_execution_history").paginate(
                    executionArn=arn, includeExecutionData=True
                )
                for event in page["events"]
            ],
        )
        self._write(self.folder / "history.json", {"events": events or []})
        text = json.dumps(events or [], default=str)
        found = re.findall(r'\\*"(Training|Processing)JobName\\*":\s*\\*"([^"\\]+)', text)
        return list(dict.fromkeys((kind, name) for kind, name in found))

    def _job(self, kind: str, name: str, folder: Path) -> dict[str, Any] | None:
        self.say(f"{kind.lower()} job {name}")
        sagemaker = self.client("sagemaker")
        call = getattr(sagemaker, f"describe_{kind.lower()}_job")
        job = self._ask(
            f"{kind.lower()} job {name}",
            f"sagemaker:Describe{kind}Job",
            lambda: call(**{f"{kind}JobName": name}),
        )
        if job:
            self._write(folder / f"{kind.lower()}-{name}.json", job)
        self._logs(GROUPS[kind], name, folder)
        if job:
            self._artefacts(job, folder)
        found: dict[str, Any] | None = job
        return found

    def _logs(self, group: str, name: str, folder: Path) -> None:
        logs = self.client("logs")
        streams = self._ask(
            f"log streams of {name}",
            "logs:DescribeLogStreams",
            lambda: [
                stream["logStreamName"]
                for page in logs.get_paginator("describe_log_streams").paginate(
                    logGroupName=group, logStreamNamePrefix=f"{name}/"
                )
                for stream in page["logStreams"]
            ],
        )
        for stream in streams or ():
            kept = self._ask(
                f"log {stream}",
                "logs:GetLogEvents",
                functools.partial(_kept, logs, group, stream),
            )
            if kept is not None:
                events, total = kept
                self.say(f"  {stream}: {total} lines, {len(events)} kept")
                path = folder / "logs" / f"{stream.replace('/', '_')}.json"
                self._write(path, {"lines": total, "nextForwardToken": "", "events": events})

    def _artefacts(self, job: Mapping[str, Any], folder: Path) -> None:
        uri = (job.get("ModelArtifacts") or {}).get("S3ModelArtifacts") or ""
        if not uri:
            return
        bucket, key = split_uri(uri)
        prefix = key.rpartition("/")[0] + "/"
        listed = self._ask(
            f"objects under s3://{bucket}/{prefix}",
            "s3:ListBucket",
            lambda: self.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1000),
        )
        if listed:
            self._write(folder / "artefacts.json", {"Contents": [], **listed})

    def _image(self, job: Mapping[str, Any]) -> None:
        ref = (job.get("AlgorithmSpecification") or {}).get("TrainingImage") or ""
        found = ECR.fullmatch(ref)
        if not found:
            return
        which = {"imageDigest": found["digest"]} if found["digest"] else {}
        which = which or {"imageTag": found["tag"] or "latest"}
        place = {"registryId": found["account"], "repositoryName": found["repository"]}
        asked = {**place, "imageIds": [which]}
        ecr = self.client("ecr")
        details = self._ask(
            f"image {ref}", "ecr:DescribeImages", lambda: ecr.describe_images(**asked)
        )
        if details:
            self._write(self.folder / "image.json", details)
        manifest = self._ask(
            f"manifest of {ref}",
            "ecr:BatchGetImage",
            lambda: ecr.batch_get_image(**asked, acceptedMediaTypes=list(ACCEPT)),
        )
        if manifest and manifest.get("images"):
            self._write(self.folder / "manifest.json", manifest)
            self._config(place, str(manifest["images"][0].get("imageManifest", "")))
        findings = self._ask(
            f"scan findings of {ref}",
            "ecr:DescribeImageScanFindings",
            lambda: ecr.describe_image_scan_findings(**place, imageId=which),
        )
        if findings:
            self._write(self.folder / "scan-findings.json", findings)

    def _config(self, place: Mapping[str, Any], manifest: str) -> None:
        """The image's config; an index has none."""
        digest = ((parsed(manifest) or {}).get("config") or {}).get("digest")
        if not digest:
            return
        ecr = self.client("ecr")
        url = self._ask(
            "image config",
            "ecr:GetDownloadUrlForLayer",
            lambda: ecr.get_download_url_for_layer(**place, layerDigest=digest)["downloadUrl"],
        )
        if url is None:
            return
        try:
            blob = requests.get(url, timeout=30)
            blob.raise_for_status()
            checked(Manifest(blob.content, ""), digest, None, "image config")
        except (requests.RequestException, BadInput) as error:
            why = " ".join(str(error).split())[:200].partition("?")[0]
            self.missing.append({"what": "image config", "why": why, "action": "network to ECR"})
            return
        self._write(self.folder / "image-config.json", blob.json())

    def _last_good(self, described: list[dict[str, Any]]) -> None:
        """The last training job before this one that ended well, to compare with."""
        job = next((j for j in reversed(described) if "TrainingJobName" in j), None)
        if job is None:
            return
        listed = self._ask(
            "good jobs",
            "sagemaker:ListTrainingJobs",
            lambda: self.client("sagemaker").list_training_jobs(
                StatusEquals="Completed",
                SortBy="CreationTime",
                SortOrder="Descending",
                MaxResults=10,
            ),
        )
        for summary in (listed or {}).get("TrainingJobSummaries", ()):
            name = summary["TrainingJobName"]
            if name != job["TrainingJobName"]:
                self._job("Training", name, self.folder / GOOD)
                return


def _kept(logs: Any, group: str, stream: str) -> tuple[list[dict[str, Any]], int]:
    return bounded(_events(logs, group, stream))


def _events(logs: Any, group: str, stream: str) -> Iterator[dict[str, Any]]:
    token: dict[str, str] = {}
    while True:
        page = logs.get_log_events(
            logGroupName=group, logStreamName=stream, startFromHead=True, **token
        )
        for event in page["events"]:
            yield {"timestamp": event["timestamp"], "message": event["message"]}
        following = page.get("nextForwardToken")
        # The same token again says that the stream has no more.
        if not following or following == token.get("nextToken"):
            return
        token = {"nextToken": following}


def bounded(events: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The events worth keeping of a stream of any length, in order, and how many there were.

    Kept are its first and last lines and, between them, the first that stand out; the last line
    says what was left out.
    """
    head: list[tuple[int, dict[str, Any]]] = []
    loud: list[tuple[int, dict[str, Any]]] = []
    tail: deque[tuple[int, dict[str, Any]]] = deque(maxlen=TAIL)
    total = 0
    for total, event in enumerate(events, 1):
        if len(head) < HEAD:
            head.append((total, event))
            continue
        if len(tail) == TAIL and len(loud) < LOUD and _LOUD.search(tail[0][1]["message"]):
            loud.append(tail[0])
        tail.append((total, event))
    return [event for _, event in (*head, *loud, *tail)], total
