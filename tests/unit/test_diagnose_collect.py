"""What is collected from AWS, and what becomes of what may not be read.

moto proves our requests.
"""

import hashlib
import json
import time
import tracemalloc

import boto3
import botocore.exceptions
import pytest
import requests
from moto import mock_aws

from splatgate.diagnose import collect
from splatgate.diagnose.explain import explain
from splatgate.diagnose.load import load
from splatgate.diagnose.redact import Redactor
from splatgate.evidence import BadInput
from tests.unit.bundles import TABLE, training
from tests.unit.test_diagnose_exit import SECRETS

NAME = "scan-17-3dgs"
GROUP = "/aws/sagemaker/TrainingJobs"


@pytest.fixture
def aws(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    with mock_aws():
        yield


def client(service):
    return boto3.client(service, region_name="us-west-2")


def create_job(entry):
    """A job in moto that ended as ``entry`` says."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.sagemaker.models import sagemaker_backends

    sagemaker = client("sagemaker")
    raw = training(entry)
    asked = {
        k: raw[k]
        for k in (
            "TrainingJobName",
            "HyperParameters",
            "AlgorithmSpecification",
            "RoleArn",
            "InputDataConfig",
            "OutputDataConfig",
            "ResourceConfig",
            "StoppingCondition",
        )
    }
    sagemaker.create_training_job(**asked)
    kept = sagemaker_backends[DEFAULT_ACCOUNT_ID]["us-west-2"].training_jobs[NAME]
    kept.training_job_status = raw["TrainingJobStatus"]
    kept.secondary_status = raw["SecondaryStatus"]
    kept.failure_reason = raw.get("FailureReason")


def say_log(lines, stream=f"{NAME}/algo-1-1733220065"):
    logs = client("logs")
    if not logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]:
        logs.create_log_group(logGroupName=GROUP)
    logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
    now = int(time.time() * 1000) - 600_000
    for start in range(0, len(lines), 10_000):
        batch = [
            {"timestamp": now + start + n, "message": line}
            for n, line in enumerate(lines[start : start + 10_000])
        ]
        logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=batch)


def gather(tmp_path, target=NAME, factory=client):
    said = []
    collector = collect.Collector(factory, tmp_path, said.append)
    collector.collect(target)
    return collector, said


def test_a_failed_job_is_collected_and_explained(aws, tmp_path):
    create_job(TABLE["K01"])
    say_log(TABLE["K01"]["log"].strip().splitlines())
    say_log([], stream=f"{NAME}/algo-1-1733220066")
    gather(tmp_path)
    bundle = load(tmp_path)
    assert bundle.training.status == "Failed"
    assert explain(bundle).ranked[0].item == "runtime.entry-point"


def test_a_log_of_many_pages_is_bounded_and_the_cause_is_kept(aws, tmp_path):
    create_job(TABLE["K08"])
    lines = [f"step={n} loss=0.1" for n in range(25_000)]
    lines[12_000] = "PermissionError: [Errno 13] Permission denied: '/opt/ml/model/x'"
    say_log(lines)
    gather(tmp_path)
    bundle = load(tmp_path)
    assert len(bundle.log) <= collect.HEAD + collect.LOUD + collect.TAIL
    assert explain(bundle).ranked[0].item == "runtime.permissions"


def test_memory_does_not_grow_with_the_log():
    events = ({"timestamp": n, "message": f"error {n}"} for n in range(200_000))
    tracemalloc.start()
    kept, total = collect.bounded(events)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 200_000
    assert [e["timestamp"] for e in kept] == sorted({e["timestamp"] for e in kept})
    assert len(kept) == collect.HEAD + collect.LOUD + collect.TAIL
    assert peak < 16 * 1024**2


class Denied:
    """A client some of whose calls are refused."""

    def __init__(self, inner, *refused):
        self.inner, self.refused = inner, refused

    def __getattr__(self, name):
        if name not in self.refused:
            return getattr(self.inner, name)

        def refuse(*arguments, **named):
            error = {"Code": "AccessDeniedException", "Message": "not authorized"}
            raise botocore.exceptions.ClientError({"Error": error}, name)

        return refuse


def test_a_missing_permission_is_named_and_ends_nothing(aws, tmp_path):
    create_job(TABLE["K40"])
    collector, _ = gather(
        tmp_path, factory=lambda s: Denied(client(s), "get_paginator", "list_training_jobs")
    )
    assert {m["action"] for m in collector.missing} >= {
        "allow logs:DescribeLogStreams",
        "allow sagemaker:ListTrainingJobs",
    }
    bundle = load(tmp_path)
    assert len(bundle.missing) == len(collector.missing)
    assert explain(bundle).ranked[0].item == "build.pushed"


class Registry:
    """An ECR that serves one image, which moto's cannot: a URL for its config."""

    def __init__(self, config):
        self.digest = f"sha256:{hashlib.sha256(config).hexdigest()}"

    def describe_images(self, **asked):
        return {"imageDetails": [{"imagePushedAt": "2024-12-03T10:00:00+00:00", **asked}]}

    def batch_get_image(self, **asked):
        return {"images": [{"imageManifest": json.dumps({"config": {"digest": self.digest}})}]}

    def describe_image_scan_findings(self, **asked):
        return {"imageScanFindings": {"findingSeverityCounts": {"HIGH": 1}}}

    def get_download_url_for_layer(self, **asked):
        assert asked["layerDigest"] == self.digest
        return {"downloadUrl": "https://layers.example/config?X-Amz-Signature=secret"}


@pytest.mark.parametrize("served", ["it", "another"])
def test_the_images_config_is_collected_if_it_is_the_one_named(aws, tmp_path, monkeypatch, served):
    config = json.dumps(
        {"rootfs": {"type": "layers"}, "architecture": "arm64", "config": {}}
    ).encode()
    answer = requests.Response()
    answer.status_code = 200
    answer._content = config if served == "it" else b"{}"
    monkeypatch.setattr(requests, "get", lambda url, timeout: answer)
    create_job(TABLE["K40"])
    registry = Registry(config)
    collector, _ = gather(tmp_path, factory=lambda s: registry if s == "ecr" else client(s))
    bundle = load(tmp_path)
    assert (tmp_path / "image.json").exists()
    assert (tmp_path / "scan-findings.json").exists()
    if served == "it":
        assert bundle.config["architecture"] == "arm64"
    else:
        assert bundle.config is None
        assert "image config" in [m["what"] for m in collector.missing]
    assert "secret" not in "".join(p.read_text() for p in tmp_path.rglob("*.json"))


def test_nothing_readable_is_one_line(aws, tmp_path):
    with pytest.raises(BadInput, match="no-such-job: nothing could be read"):
        gather(tmp_path, "no-such-job")


def test_throttling_is_waited_for(aws, tmp_path, monkeypatch):
    create_job(TABLE["K01"])
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    left = {"DescribeTrainingJob": 3}

    def throttle(service):
        from botocore.config import Config

        patient = Config(retries={"mode": "standard", "max_attempts": 6})
        made = boto3.client(service, region_name="us-west-2", config=patient)

        def before(request, **kwargs):
            from botocore.awsrequest import AWSResponse

            target = request.headers.get("X-Amz-Target", b"").decode().rpartition(".")[2]
            if left.get(target, 0) <= 0:
                return None
            left[target] -= 1
            headers = {"x-amzn-errortype": "ThrottlingException"}
            answer = AWSResponse(request.url, 400, headers, None)
            answer._content = json.dumps({"__type": "ThrottlingException"}).encode()
            return answer

        made.meta.events.register_first("before-send.sagemaker", before)
        return made

    gather(tmp_path, factory=throttle)
    assert left == {"DescribeTrainingJob": 0}
    assert load(tmp_path).training.status == "Failed"


def test_the_job_that_failed_last_is_found(aws, tmp_path):
    create_job(TABLE["K01"])
    assert collect.Collector(client, tmp_path, lambda line: None).last_failed() == NAME


def test_no_secret_reaches_what_is_collected_from_a_live_account(aws, tmp_path):
    create_job(TABLE["K18"])
    say_log([line.replace("{}", value) for value, line in SECRETS.values()])
    gather(tmp_path)
    kept = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name, (value, _) in SECRETS.items() if value in kept] == []


def test_accounts_keep_their_form():
    clean = Redactor()
    text = (
        "arn:aws:sagemaker:us-west-2:975050048887:training-job/x "
        "975050048887.dkr.ecr.us-west-2.amazonaws.com/a:b"
    )
    found = clean(text)
    assert "arn:aws:sagemaker:us-west-2:000000000001:training-job/x" in found
    assert clean("975050048887") == "000000000001"
