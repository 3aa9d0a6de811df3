"""A job's archives as the engine left them, on their way to S3 (moto stands for it)."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import boto3
import moto
import pytest

from splatgate.evidence import Job
from splatgate.sagemaker.request import Request
from splatgate.sagemaker.s3 import split_uri, upload


@pytest.mark.parametrize("compression", ["GZIP", "NONE"])
def test_what_a_job_left_arrives_whole(
    run_job: Callable[..., Job],
    ask: Callable[..., Request],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compression: str,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    raw = {**ask().raw, "OutputDataConfig": {"S3OutputPath": "s3://bucket/out/"}}
    request = replace(
        ask("model", "output", "checkpoint"),
        raw=raw,
        compression=compression,
        checkpoint_uri="s3://bucket/ck",
    )
    job = run_job(request, keep={"archive", "output", "checkpoints"})
    with moto.mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="bucket")
        sent = upload(s3, request, tmp_path / "job")
        base = f"s3://bucket/out/{request.name}/output"
        if compression == "NONE":
            kept = [f"{base}/model/{m.path}" for m in job.members]
            kept += [f"{base}/output/{m.path}" for m in job.output_members]
            assert sent == [*kept, "s3://bucket/ck/step-0.pt"]
            return
        archives = [f"{base}/model.tar.gz", f"{base}/output.tar.gz"]
        assert sent == [*archives, "s3://bucket/ck/step-0.pt"]
        for uri, members in zip(archives, (job.members, job.output_members), strict=True):
            s3.download_file(*split_uri(uri), str(tmp_path / "back"))
            with tarfile.open(tmp_path / "back") as tar:
                sizes = {m.name: m.size for m in tar.getmembers()}
            assert sizes == {m.path: m.bytes for m in members}
