"""``judge --live`` against moto, whose jobs are scripted by hand. What an account really answers is
shown by none of this.
"""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws
from moto.sagemaker.models import sagemaker_backends

from splatgate import cli
from splatgate.evidence import BadInput, Origin
from splatgate.evidence.missing import NotVerified
from splatgate.judge.in_process import Fixtures, cases, judge, judged
from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.sagemaker import account
from splatgate.signoff import decide
from splatgate.sources.account import Account
from splatgate.sources.recorded import JobSpec, Recorded
from splatgate.sources.run import Account as Asked
from splatgate.sources.run import Run

REGION, ACCOUNT = "us-west-2", "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/training"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"digest": "sha256:" + "c" * 64, "size": 1, "mediaType": "x"},
        "layers": [],
    }
)
#: CloudWatch takes no events that are old.
START = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=2)
LINES = [
    "step=10 loss=0.5 psnr=12.0 gaussians=100 it_per_s=5 eta=1 held_out_psnr=12.1",
    "step=20 loss=0.4 psnr=13.0 gaussians=110 it_per_s=5 eta=0 held_out_psnr=12.4",
]


def error(code, operation, text="said"):
    return ClientError({"Error": {"Code": code, "Message": text}}, operation)


class Scripted:
    """moto's SageMaker, whose jobs go through ``ends``; what is in ``fail`` is raised first."""

    def __init__(self, cloud, ends, **fail):
        self.cloud, self.real = cloud, cloud["sagemaker"]
        self.ends, self.fail, self.stops = list(ends), fail, 0

    def _first(self, name):
        if waiting := self.fail.get(name):
            raise waiting.pop(0)

    def _set(self, name, end):
        job = sagemaker_backends[ACCOUNT][REGION].training_jobs[name]
        job.training_job_status, job.secondary_status, job.failure_reason = end

    def create_training_job(self, **request):
        self._first("refused")
        self.real.create_training_job(**request)
        name = request["TrainingJobName"]
        self.sent = [o["Key"] for o in self.listed()]
        self.cloud["s3"].put_object(
            Bucket="bucket", Key=f"out/{name}/output/model.tar.gz", Body=packed()
        )
        logs, stream = self.cloud["logs"], f"{name}/algo-1-1"
        logs.create_log_stream(logGroupName=account.LOG_GROUP, logStreamName=stream)
        logs.put_log_events(
            logGroupName=account.LOG_GROUP,
            logStreamName=stream,
            logEvents=[
                {"timestamp": int((START.timestamp() + 2 + at) * 1000), "message": line}
                for at, line in enumerate(LINES)
            ],
        )
        self._first("lost")

    def listed(self):
        return self.cloud["s3"].list_objects_v2(Bucket="bucket").get("Contents", [])

    def describe_training_job(self, **which):
        self._first("describe")
        if which["TrainingJobName"] in sagemaker_backends[ACCOUNT][REGION].training_jobs:
            end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
            if isinstance(end, BaseException):
                raise end
            self._set(which["TrainingJobName"], end)
        found = self.real.describe_training_job(**which)
        uri = f"s3://bucket/out/{which['TrainingJobName']}/output/model.tar.gz"
        training = {"StartTime": START, "EndTime": START + timedelta(seconds=60)}
        return {
            **found,
            "ModelArtifacts": {"S3ModelArtifacts": uri},
            "SecondaryStatusTransitions": [{"Status": "Training", **training}],
        }

    def stop_training_job(self, TrainingJobName):
        self._first("stop")
        self.stops += 1
        self.ends = [("Stopping", "Stopping", ""), ("Stopped", "Stopped", "")]


def trained(source):
    return Fixtures(source).getfixturevalue("trained")


RUNNING = [("InProgress", name, "") for name in ("Starting", "Downloading", "Training")]
DONE = [*RUNNING, ("Completed", "Completed", "")]


def packed():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in ("point_cloud.ply", "metrics.json"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "metrics.json"
        tar.addfile(link)
    return out.getvalue()


@pytest.fixture
def cloud(monkeypatch):
    """moto's clients by service, a bucket, a log group, and an image in a registry."""
    with mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        names = ("sagemaker", "s3", "logs", "ecr")
        found = {name: boto3.client(name, REGION) for name in names}
        where = {"LocationConstraint": REGION}
        found["s3"].create_bucket(Bucket="bucket", CreateBucketConfiguration=where)
        found["logs"].create_log_group(logGroupName=account.LOG_GROUP)
        found["ecr"].create_repository(repositoryName="trainer")
        digest = "sha256:" + hashlib.sha256(MANIFEST.encode()).hexdigest()
        image = {"imageManifest": MANIFEST, "imageDigest": digest, "imageTag": "1"}
        found["ecr"].put_image(repositoryName="trainer", **image)
        monkeypatch.setattr(account, "LOOK", 0.0)
        monkeypatch.setattr(account, "ENDING", 0.3)
        yield found


@pytest.fixture
def look(cloud, tmp_path):
    """The account source over moto, with a scripted SageMaker."""

    def make(ends=DONE, kinds=(), **fail):
        run = Run(
            id="r1",
            out=tmp_path,
            door="account",
            folder=tmp_path / "evidence",
            scratch=tmp_path / "evidence",
            image=f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/trainer:1",
            pushed=None,
            subject=None,
            scene=DEFAULT_SCENE,
            request=None,
            source=tmp_path,
            quick=False,
            instance_types=kinds,
            given={"subject.toml": ROOT / "image" / "subject.toml"},
            controller="",
        )
        scripted = Scripted(cloud, ends, **fail)
        clients = {**cloud, "sagemaker": scripted}
        asked = Asked(ROLE, "s3://bucket/out", price=1.0, ceiling=0.2)
        return Account(run, asked, lambda text: None, clients.__getitem__), scripted

    return make


def test_the_job_is_judged_by_the_checks_of_the_sagemaker_lane(look):
    source, scripted = look()
    job = trained(source)
    assert (job.status, job.exit, job.origin) == ("Completed", 0, Origin.LIVE)
    assert [line.seconds for line in job.log] == [2.0, 3.0]
    assert {m.path: m.kind for m in job.members}["link"] == "link"
    assert job.request["StoppingCondition"]["MaxRuntimeInSeconds"] == 600
    assert any(key.endswith("cameras.bin") for key in scripted.sent)
    assert scripted.listed() == []
    names = ("test_progress_is_logged_as_it_happens", "test_log_is_made_of_lines")
    found = {c.check.name: judge(c, source) for c in cases("sagemaker") if c.check.name in names}
    assert {name: check.state for name, check in found.items()} == dict.fromkeys(names, "passed")


def test_what_was_recorded_of_an_account_is_judged_again_without_one(look):
    source, _ = look()
    job = trained(source)
    assert trained(Recorded(source.folder, DEFAULT_SCENE)) == job


def test_the_gate_judges_it_as_lane_live(look):
    source, _ = look()
    trained(source)
    found = judged(source.folder, DEFAULT_SCENE).checks
    assert {(check.lane, check.origin, check.supporting) for check in found} == {
        ("live", Origin.LIVE, False)
    }
    assert {check.node for check in found} < {case.check.node for case in cases("sagemaker")}
    by_name = {check.name: check.state for check in found}
    assert by_name["test_progress_is_logged_as_it_happens"] == "passed"


def test_a_failure_in_an_account_stands_beside_what_was_emulated(look):
    source, _ = look()
    trained(source)
    live = judged(source.folder, DEFAULT_SCENE)
    first = live.checks[0]
    failed = replace(first, state="failed")
    emulated = replace(first, lane="sagemaker", state="passed")
    records = [replace(live, checks=(one,)) for one in (emulated, failed)]
    merged = decide.merge([SimpleNamespace(record=one) for one in records], [emulated])
    assert {check.lane: check.state for check in merged} == {
        "sagemaker": "passed",
        "live": "failed",
    }


def test_another_job_is_not_verified(look):
    source, _ = look()
    with pytest.raises(NotVerified, match="one job is run"):
        source.job(JobSpec("truth"))


def test_a_job_that_failed_says_so_with_its_exit_status(look):
    failed = [*RUNNING, ("Failed", "Failed", "AlgorithmError: E_SCENE, exit code: 3")]
    source, _ = look(failed)
    with pytest.raises(Exception, match="ended Failed: AlgorithmError: E_SCENE"):
        trained(source)


def test_looks_that_are_throttled_are_made_again(look):
    throttled = [error("ThrottlingException", "DescribeTrainingJob")] * 3
    assert trained(look(describe=throttled)[0]).status == "Completed"


def test_a_job_that_cannot_be_followed_is_stopped_and_cleaned_up(look):
    throttled = [error("ThrottlingException", "DescribeTrainingJob")] * account.PATIENCE
    source, scripted = look(describe=throttled)
    with pytest.raises(BadInput, match="cannot be followed"):
        trained(source)
    assert scripted.stops == 1
    assert scripted.listed() == []


def test_an_interruption_stops_the_job(look):
    source, scripted = look([*RUNNING, KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        trained(source)
    assert scripted.stops == 1


def test_a_job_that_does_not_end_in_time_is_stopped(look, monkeypatch):
    monkeypatch.setattr(account, "WAITING", -1e4)
    source, scripted = look(RUNNING)
    with pytest.raises(BadInput, match="after"):
        trained(source)
    assert scripted.stops == 1


def test_a_job_that_may_not_be_stopped_is_shouted_about(cloud):
    scripted = Scripted(cloud, RUNNING, stop=[error("AccessDeniedException", "Stop")] * 999)
    request = {"TrainingJobName": "j", "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"}}
    job = account.Account({**cloud, "sagemaker": scripted}.__getitem__, request, lambda text: None)
    scripted.describe_training_job = lambda **which: {"TrainingJobStatus": "InProgress"}
    job._stop()
    assert "aws sagemaker stop-training-job" in job.left[0]


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        ("AccessDeniedException", "not authorized to perform", "allow sagemaker:CreateTrainingJob"),
        ("ResourceLimitExceeded", "limit is 0 Instances", "quota"),
        ("ThrottlingException", "Rate exceeded", "try again later"),
    ],
)
def test_where_no_job_could_be_created_none_is_stopped(look, code, text, said):
    source, scripted = look(refused=[error(code, "CreateTrainingJob", text)])
    with pytest.raises(BadInput, match=f"no job was created: .*{said}"):
        trained(source)
    assert scripted.stops == 0
    assert scripted.listed() == []


@pytest.mark.parametrize(
    "answer",
    [error("InternalFailure", "Create"), EndpointConnectionError(endpoint_url="https://x")],
    ids=["500", "network"],
)
def test_a_job_whose_answer_got_lost_is_followed_all_the_same(look, answer):
    assert trained(look(lost=[answer])[0]).status == "Completed"


def test_an_unknown_instance_type_is_refused_before_anything_is_sent(look):
    with pytest.raises(BadInput, match=r"ResourceConfig\.InstanceType"):
        look(kinds=("ml.g4dn.huge",))


@pytest.mark.parametrize(("price", "ceiling"), [(1.0, 0.1), (30.0, 3.0)])
def test_a_ceiling_that_buys_no_job_is_refused(price, ceiling):
    with pytest.raises(BadInput, match="or more"):
        account.seconds_for(price, ceiling)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--live"], "--live needs --role, --output, --price-per-hour, --ceiling"),
        (["--live", "--role", ROLE, "--output", "s3://b", "--ceiling", "1"], "--price-per-hour"),
        (["--live", "--lane", "gpu"], "leave --lane out"),
    ],
    ids=["nothing", "price", "lane"],
)
def test_what_is_not_bounded_is_refused_in_one_line(given, said, capsys):
    assert cli.main(["judge", *given]) == 3
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf", "one"])
def test_a_price_is_an_amount(price, capsys):
    given = ["--role", ROLE, "--output", "s3://b", "--price-per-hour", price, "--ceiling", "1"]
    assert cli.main(["judge", "--live", *given]) == 3
    assert "not an amount" in capsys.readouterr().err
