"""Channels from S3 and archives to S3, against moto: the claim is about our keys and paths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splatgate.evidence import BadInput, Job, Limits
from splatgate.sagemaker import cli
from splatgate.sagemaker.request import Channel, smoke_request
from splatgate.sagemaker.s3 import download

OBJECTS = {
    "s/scene1/": b"",
    "s/scene1/images/a b.jpg": b"a",
    "s/scene1/sparse/0/cameras.bin": b"c",
    "s/scene10/b.jpg": b"b",
    "s/list.manifest": b'[{"prefix": "s3://bucket/s/scene1/"}, "images/a b.jpg"]',
}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket with two scenes."""
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with moto.mock_aws():
        client = boto3.client("s3", region_name="us-west-2")
        place = {"LocationConstraint": "us-west-2"}
        client.create_bucket(Bucket="bucket", CreateBucketConfiguration=place)
        for key, body in OBJECTS.items():
            client.put_object(Bucket="bucket", Key=key, Body=body)
        yield client


def channel(uri: str, kind: str = "S3Prefix") -> Channel:
    return Channel("training", "File", uri, kind, "FullyReplicated")


@pytest.mark.parametrize(
    ("uri", "kind", "landed"),
    [
        ("s3://bucket/s/scene1/", "S3Prefix", ["images/a b.jpg", "sparse/0/cameras.bin"]),
        (
            "s3://bucket/s/scene1",
            "S3Prefix",
            ["0/b.jpg", "images/a b.jpg", "sparse/0/cameras.bin"],
        ),
        ("s3://bucket/s/scene10/b.jpg", "S3Prefix", ["b.jpg"]),
        ("s3://bucket/s/list.manifest", "ManifestFile", ["images/a b.jpg"]),
    ],
    ids=["slash", "no-slash", "one-object", "manifest"],
)
def test_channel_is_laid_out_as_the_contract_says(
    s3: Any, tmp_path: Path, uri: str, kind: str, landed: list[str]
) -> None:
    assert download(s3, channel(uri, kind), tmp_path) == landed
    files = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()]
    assert sorted(files) == landed


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("s3://bucket/none/", "S3Prefix"),
        ("s3://no-such-bucket/x", "S3Prefix"),
        ("s3://bucket/none", "ManifestFile"),
        ("s3://bucket/s/scene10/b.jpg", "ManifestFile"),
        ("bucket/s", "S3Prefix"),
        ("s3://", "S3Prefix"),
    ],
)
def test_channel_without_data_is_bad_input(s3: Any, tmp_path: Path, uri: str, kind: str) -> None:
    with pytest.raises(BadInput) as caught:
        download(s3, channel(uri, kind), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["e/../../evil", "e/a"])
def test_keys_that_no_folder_holds_are_refused(s3: Any, tmp_path: Path, key: str) -> None:
    s3.put_object(Bucket="bucket", Key=key, Body=b"x")
    s3.put_object(Bucket="bucket", Key="e/a/b", Body=b"x")
    with pytest.raises(BadInput):
        download(s3, channel("s3://bucket/e/"), tmp_path / "into")
    assert {p.name for p in tmp_path.iterdir()} <= {"into"}


def test_fast_file_takes_whole_folders_only(s3: Any, tmp_path: Path) -> None:
    partial = replace(channel("s3://bucket/s/scene1"), mode="FastFile")
    with pytest.raises(BadInput, match="end s3://bucket/s/scene1 with /"):
        download(s3, partial, tmp_path)
    whole = replace(partial, uri="s3://bucket/s/scene1/")
    assert download(s3, whole, tmp_path) == ["images/a b.jpg", "sparse/0/cameras.bin"]


class Answers:
    """Stands for the training host: keeps what it was given and returns a finished job."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def run(self, image: str, request: Any, channels: Any, folder: Path, **options: Any) -> Any:
        files = sorted(p.name for p in channels["training"].rglob("*") if p.is_file())
        assert files == ["a b.jpg", "cameras.bin"]
        assert (image, options["keep"]) == ("sha256:1", {"archive", "output", "checkpoints"})
        folder.mkdir()
        (folder / "model.tar.gz").write_bytes(b"gz")
        limits = Limits()
        return Job(
            key="k", name=request.name, image_id=image, request={}, channels={}, status="Stopped",
            secondary_status="Stopped", failure_reason="", exit=0, oom=False, ended_by=None,
            stop_seconds=None, command=(), limits_asked=limits, limits_applied=limits, phases={},
            log=(), failure=None, env_names=(), members=(), output_members=(),
            checkpoint_members=(), writes_outside=(),
        )  # fmt: skip


def test_verb_fetches_runs_and_reports(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(smoke_request().raw))
    monkeypatch.setattr(cli, "TrainingHost", Answers)
    monkeypatch.setattr(cli.sweep, "sweep_stale", lambda _: {})
    monkeypatch.setattr(cli, "see", lambda *_: SimpleNamespace(image_id="sha256:1"))
    monkeypatch.setattr(cli, "_s3", lambda: s3)
    arguments = ["--request", str(tmp_path / "r.json"), "--json", "--keep", str(tmp_path / "kept")]
    arguments += ["--scene", "training=s3://bucket/s/scene1/"]
    assert cli.main(arguments, client=lambda: None) == 1
    assert json.loads(capsys.readouterr().out)["TrainingJobStatus"] == "Stopped"
