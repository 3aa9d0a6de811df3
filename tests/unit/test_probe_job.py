"""The probe job: request, cost, program, and the whole of it against moto, whose jobs are scripted
by hand. What an account really answers is shown by none of this.
"""

import ast
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws
from moto.sagemaker.models import sagemaker_backends

from splatgate import cli as verbs
from splatgate.evidence import BadInput
from splatgate.paths import ROOT
from splatgate.probing import account, asked, cli, points
from splatgate.sagemaker.assumptions import Assumptions
from splatgate.sagemaker.validate import validate

REGION, ACCOUNT = "us-west-2", "123456789012"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/trainer@sha256:{'a' * 64}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/training"
GIVEN = ["--image", IMAGE, "--role", ROLE, "--output", "s3://bucket/out"]
PRICED = ["--price-per-hour", "0.736", "--ceiling", "0.10"]


def run(*extra, client=None):
    return cli.main([*GIVEN, *extra], client)


def test_a_dry_run_prints_the_request_and_sends_nothing(capsys, monkeypatch):
    monkeypatch.setattr(boto3, "Session", None)
    assert run(*PRICED) == 0
    said = capsys.readouterr()
    request = json.loads(said.out)
    assert validate(request) == []
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 300}
    assert request["ResourceConfig"]["InstanceType"] == "ml.g4dn.xlarge"
    assert "at most 0.09 USD" in said.err
    assert "5.1 driver of the training host" in said.err


def test_the_record_of_a_dry_run_says_so(capsys):
    assert run("--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["live"], record["cost"]["most"], record["points"]) == (False, None, [])


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--live"], "--price-per-hour"),
        (["--live", "--price-per-hour", "1"], "--ceiling"),
        (["--price-per-hour", "3", "--ceiling", "0.1"], "more than the ceiling"),
        (["--role", "training"], "RoleArn"),
        (["--output", "bucket"], "S3OutputPath"),
        (["--instance-type", "ml.g4dn.huge"], "InstanceType"),
        (["--live", "--image", "trainer:dev", *PRICED], "names no registry"),
    ],
    ids=["price", "ceiling", "too-dear", "role", "output", "instance", "image"],
)
def test_what_cannot_be_or_is_not_bounded_is_refused(extra, said):
    with pytest.raises(BadInput, match=said):
        run(*extra)


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf", "one"])
def test_a_price_is_an_amount(price, capsys):
    assert verbs.main(["probe", *GIVEN, "--price-per-hour", price]) == 3
    assert "no amount" in capsys.readouterr().err


def test_every_assumption_of_the_training_host_is_listed():
    rows = [answer.row for answer in points.answers(points.Found("stop"))]
    for row in Assumptions().rows():
        assert any(row.startswith(known) for known in rows), row
    assert {a.state for a in points.answers(points.Found("stop"))} == {"not-verified"}


@pytest.fixture
def ml(tmp_path):
    """Runs the program that a request carries, with /opt/ml elsewhere; what it left."""

    def go(end):
        request = asked.request(
            asked.Asked(IMAGE, ROLE, "s3://b/o", "ml.g4dn.xlarge", end, name="p")
        )
        for name in ("input/config", "input/data/training", "model", "output/data", "checkpoints"):
            (tmp_path / name).mkdir(parents=True)
        config = tmp_path / "input" / "config" / "hyperparameters.json"
        config.write_text(json.dumps(request["HyperParameters"]))
        _, *options = request["AlgorithmSpecification"]["ContainerEntrypoint"]
        moved = f"exec(zlib.decompress(d).decode().replace('/opt/ml',{str(tmp_path)!r}))"
        boot = options[-1].replace("/opt/ml", str(tmp_path)).replace("exec(zlib.decompress(", "d=(")
        command = [sys.executable, *options[:-1], f"{boot[:-1]}\n{moved}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "waiting for SIGTERM" in line:
                process.send_signal(signal.SIGTERM)
        return process.wait(), lines, tmp_path

    return go


def test_the_program_looks_and_fails_at_sigterm(ml):
    status, lines, base = ml("stop")
    assert status == 7
    assert [line.split()[1] for line in lines] == ["looking", "saw", "waiting", "SIGTERM"]
    saw = json.loads((base / "model" / "saw.json").read_text())
    assert saw["uid"] == os.getuid()
    assert saw["write"][f"{base}/input/data/training"] == "yes"
    assert json.loads((base / "model" / "stopped.json").read_text())["seconds"] >= 0


def test_the_program_fails_with_a_text_that_is_too_long(ml):
    status, _, base = ml("fail")
    assert (status, len((base / "output" / "failure").read_text())) == (7, 1206)


def test_the_program_leaves_no_model_where_it_is_to_leave_none(ml):
    status, lines, base = ml("empty")
    assert (status, list((base / "model").iterdir())) == (0, [])
    assert any(line.startswith("probe: saw {") for line in lines)


def error(code, operation, text="said", status=400):
    told = {"Error": {"Code": code, "Message": text}}
    return ClientError({**told, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)


class Scripted:
    """moto's SageMaker, whose jobs go through ``ends``; calls in ``fail`` raise first."""

    def __init__(self, ends, fail=None, *, lost=False):
        self.real = None
        self.ends, self.fail, self.lost = list(ends), fail or {}, lost
        self.stops = 0

    def _first(self, name):
        if waiting := self.fail.get(name):
            fault = waiting[0]
            if len(waiting) > 1 or not getattr(fault, "for_ever", False):
                waiting.pop(0)
            raise fault

    def _set(self, name, end):
        job = sagemaker_backends[ACCOUNT][REGION].training_jobs[name]
        job.training_job_status, job.secondary_status, job.failure_reason = end

    def create_training_job(self, **request):
        if not self.lost:
            self._first("create")
        self.real.create_training_job(**request)
        self._set(request["TrainingJobName"], ("InProgress", "Starting", ""))
        self._first("create")

    def describe_training_job(self, **which):
        self._first("describe")
        if which["TrainingJobName"] in sagemaker_backends[ACCOUNT][REGION].training_jobs:
            end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
            self._set(which["TrainingJobName"], end)
            if isinstance(end[1], BaseException):
                raise end[1]
        return self.real.describe_training_job(**which)

    def stop_training_job(self, TrainingJobName):
        self._first("stop")
        self.stops += 1
        self.ends = [("Stopping", "Stopping", ""), ("Stopped", "Stopped", "")]


RUNNING = [("InProgress", name, "") for name in ("Starting", "Downloading", "Training")]
LIMIT = [*RUNNING, ("Stopped", "MaxRuntimeExceeded", "")]


@pytest.fixture(scope="module")
def cloud():
    """moto's clients, by service, and a bucket."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        found = {name: boto3.client(name, REGION) for name in ("sagemaker", "s3", "logs")}
        where = {"LocationConstraint": REGION}
        found["s3"].create_bucket(Bucket="bucket", CreateBucketConfiguration=where)
        yield found


@pytest.fixture
def aws(cloud, monkeypatch, tmp_path):
    """Starts a job against moto, which leaves an archive beside another job's object; gives its
    exit status and record.
    """
    monkeypatch.setattr(account, "LOOK", 0.0)
    monkeypatch.setattr(account, "ENDING", 0.3)
    s3, out = cloud["s3"], tmp_path / "out"

    def go(scripted, *extra, archive=True):
        scripted.real, real = cloud["sagemaker"], scripted.create_training_job

        def create(**request):
            real(**request)
            name = request["TrainingJobName"]
            keys = [f"out/{name}-of-another/x", f"out/{name}/output/model.tar.gz"]
            for key in keys[: 1 + archive]:
                s3.put_object(Bucket="bucket", Key=key, Body=packed())

        scripted.create_training_job = create
        clients = {**cloud, "sagemaker": scripted}
        try:
            more = ("--live", *PRICED, "--out", str(out), *extra)
            status = run(*more, client=clients.__getitem__)
        finally:
            listed = s3.list_objects_v2(Bucket="bucket").get("Contents", [])
            go.objects = [entry["Key"] for entry in listed]
            for key in go.objects:
                s3.delete_object(Bucket="bucket", Key=key)
        return status, go.record()

    go.record = lambda: json.loads((out / "probe.json").read_text())
    return go


SAW = {"pid": 1, "uid": 0, "gid": 0, "driver": "NVRM version: 535.183.01\nGCC", "channels": []}


def packed():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, value in (("saw.json", SAW), ("stopped.json", {"seconds": 301.0})):
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "saw.json"
        tar.addfile(link)
    return out.getvalue()


def test_a_job_that_ends_as_it_was_to_answers_and_is_cleaned_up(aws):
    status, record = aws(Scripted(LIMIT))
    assert status == 0
    said = {p["row"]: p.get("answer") for p in record["points"] if p["state"] == "answered"}
    assert said["5.1 driver of the training host"] == "NVRM version: 535.183.01"
    assert said["1.4 a job that was stopped"] == "Stopped (MaxRuntimeExceeded)"
    assert said["2.5 links and devices in /opt/ml/model"] == "packed as link"
    assert "1.3 FailureReason" not in said
    assert (record["left"], record["problem"]) == ([], "")
    assert all("-of-another/" in key for key in aws.objects)


def test_what_is_to_be_kept_stays(aws):
    aws(Scripted(LIMIT), "--keep")
    assert len(aws.objects) == 2


def test_a_job_that_ends_otherwise_is_told_and_exit_1(aws):
    failed = [*RUNNING, ("Failed", "Failed", "ClientError: no such image")]
    status, record = aws(Scripted(failed), archive=False)
    assert status == 1
    assert record["description"]["FailureReason"] == "ClientError: no such image"
    assert not [p for p in record["points"] if p["state"] == "answered"]


def test_looks_that_are_throttled_are_made_again(aws):
    throttled = [error("ThrottlingException", "DescribeTrainingJob")] * 3
    assert aws(Scripted(LIMIT, {"describe": throttled}))[0] == 0


def test_a_job_that_cannot_be_followed_is_stopped(aws):
    throttled = [error("ThrottlingException", "DescribeTrainingJob")] * account.PATIENCE
    scripted = Scripted(LIMIT, {"describe": throttled})
    with pytest.raises(BadInput, match="cannot be followed"):
        aws(scripted)
    assert scripted.stops == 1
    assert "cannot be followed" in aws.record()["problem"]
    assert all("-of-another/" in key for key in aws.objects)


def test_a_job_that_does_not_end_in_time_is_stopped(aws):
    scripted = Scripted(RUNNING)
    with pytest.raises(BadInput, match="raise --timeout"):
        aws(scripted, "--timeout", "0.05")
    assert scripted.stops == 1


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        ("AccessDeniedException", "not authorized to perform", "allow sagemaker:CreateTrainingJob"),
        ("ValidationException", "Could not assume role", "assume role"),
        ("ResourceLimitExceeded", "limit is 0 Instances", "quota"),
        ("ThrottlingException", "Rate exceeded", "try again later"),
        ("ExpiredTokenException", "token is expired", "expired"),
    ],
)
def test_where_no_job_could_be_created_none_is_looked_for(aws, code, text, said):
    scripted = Scripted(LIMIT, {"create": [error(code, "CreateTrainingJob", text)]})
    with pytest.raises(BadInput, match=f"no job was created: .*{said}"):
        aws(scripted)
    assert scripted.stops == 0


@pytest.mark.parametrize(
    "answer",
    [
        error("InternalFailure", "CreateTrainingJob", status=500),
        error("ResourceInUse", "CreateTrainingJob"),
        EndpointConnectionError(endpoint_url="https://x"),
    ],
    ids=["500", "in-use", "network"],
)
def test_a_job_whose_answer_got_lost_is_followed_all_the_same(aws, answer):
    assert aws(Scripted(LIMIT, {"create": [answer]}, lost=True))[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_the_job(aws, number):
    scripted, before = Scripted(RUNNING), signal.getsignal(signal.SIGTERM)
    threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
    with pytest.raises(KeyboardInterrupt):
        aws(scripted)
    assert scripted.stops >= 1
    assert aws.record()["problem"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_job_that_may_not_be_stopped_is_shouted_about(aws, capsys):
    denied = error("AccessDeniedException", "StopTrainingJob")
    denied.for_ever = True
    with pytest.raises(BadInput):
        aws(Scripted(RUNNING, {"stop": [denied]}), "--timeout", "0.05")
    assert "aws sagemaker stop-training-job" in capsys.readouterr().err
    assert "may still run" in aws.record()["left"][0]


def test_neither_a_look_nor_a_stop_is_allowed(aws, capsys):
    denied = {n: error("AccessDeniedException", n) for n in ("stop", "describe")}
    for fault in denied.values():
        fault.for_ever = True
    with pytest.raises(BadInput, match="cannot be followed"):
        aws(Scripted(RUNNING, {name: [fault] for name, fault in denied.items()}))
    assert "MAY STILL RUN" in capsys.readouterr().err


def test_an_archive_that_is_none_answers_nothing():
    assert account.opened(b"no archive") == (None, {})


def test_the_verb_is_listed_and_bad_options_are_exit_3(capsys):
    assert verbs.main(["probe", "--image", "x"]) == 3
    assert "--role" in capsys.readouterr().err
    assert "probe" in verbs.usage()


def test_the_program_runs_in_any_python_3():
    text = (ROOT / "splatgate" / "probing" / "inside.py").read_text()
    ast.parse(text, feature_version=(3, 8))
