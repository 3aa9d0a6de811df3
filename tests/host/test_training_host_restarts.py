"""What the training host does to one job with several containers, to its disk, by assumption."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splatgate.evidence import BadInput, Limits
from splatgate.sagemaker import disk
from splatgate.sagemaker.assumptions import MIB, Assumptions
from splatgate.sagemaker.attempt import Mishap
from splatgate.sagemaker.request import Channel
from splatgate.sagemaker.result import contradictions, log_streams, transitions
from tests.host.test_training_host_engine import Ask, Run, saw

SYNCED = {"checkpoint_uri": "s3://b/checkpoints/", "max_runtime": 60}


def hanging(line: str) -> bool:
    return line == "hanging"


def test_spot_interruption_starts_the_same_job_anew(run_job: Run, ask: Ask, tmp_path: Path) -> None:
    """Interrupted, then from zero in a new container, with the checkpoints and nothing else."""
    request = ask("model", "checkpoint", "wait 2", "exit 0", spot=True, **SYNCED)
    job = run_job(request, mishaps=[Mishap("Interrupted", hanging)], keep={"checkpoints"})
    assert (job.status, job.exit, job.ended_by) == ("Completed", 0, None)
    assert [(a.exit, a.ended_by) for a in job.attempts] == [(137, "Interrupted"), (0, None)]
    starting = ["Starting", "Downloading", "Training"]
    assert transitions(job) == [*starting, "Interrupted", *starting, "Uploading", "Completed"]
    assert "checkpoints []" in job.text
    assert 'checkpoints ["step-0.pt"]' in job.text
    assert [m.path for m in job.checkpoint_members] == ["step-0.pt", "step-1.pt"]
    assert "term seen" not in job.text, "a signal is not documented"
    assert len(set(log_streams(job))) == 2
    assert job.log[-1].seconds > job.attempts[0].seconds, "timed from the job's first start"
    assert contradictions(job) == []
    assert sorted(p.name for p in (tmp_path / "job").iterdir()) == [
        "checkpoints",
        "job.json",
        "log.txt",
        "model",
    ]


def test_checkpoints_of_no_checkpoint_config_are_lost(run_job: Run, ask: Ask) -> None:
    request = ask("checkpoint", "term save", "hang", spot=True)
    job = run_job(request, mishaps=[Mishap("Interrupted", hanging)], stop_when=hanging)
    assert (job.status, len(job.attempts)) == ("Stopped", 2)
    assert job.text.count("checkpoints []") == 2
    assert [note for note in job.unverified if "no CheckpointConfig" in note]


def test_spot_may_be_told_with_sigterm(run_job: Run, ask: Ask) -> None:
    request = ask("term save", "checkpoint", "wait 2", spot=True, **SYNCED)
    job = run_job(
        request,
        mishaps=[Mishap("Interrupted", hanging)],
        assumed=Assumptions(spot_sigterm=True),
    )
    assert [(a.exit, a.ended_by) for a in job.attempts] == [(0, "Interrupted"), (0, None)]
    assert "term seen" in job.text


def test_only_spot_jobs_are_interrupted(run_job: Run, ask: Ask) -> None:
    with pytest.raises(BadInput, match="EnableManagedSpotTraining"):
        run_job(ask(), mishaps=[Mishap("Interrupted", hanging)])


def test_max_wait_stops_a_spot_job(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("term save", "hang", spot=True, max_wait=3))
    assert (job.status, job.secondary_status) == ("Stopped", "MaxWaitTimeExceeded")
    assert [m.path for m in job.members] == ["stopped.ply"]


@pytest.mark.parametrize(
    ("retries", "attempts", "status"), [(0, 1, "Failed"), (1, 2, "Failed"), (2, 3, "Completed")]
)
def test_internal_server_error_is_retried_as_often_as_asked(
    run_job: Run, ask: Ask, retries: int, attempts: int, status: str
) -> None:
    request = ask("checkpoint", "wait 3", retries=retries, **SYNCED)
    job = run_job(request, mishaps=[Mishap("InternalServerError", hanging)] * 2)
    assert (job.status, len(job.attempts)) == (status, attempts)
    reason = "InternalServerError: We encountered an internal error. Please try again."
    assert job.failure_reason == ("" if status == "Completed" else reason)
    assert job.members == ()
    assert contradictions(job) == []


def test_failure_of_the_algorithm_is_never_retried(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("exit 1", retries=5))
    assert (job.status, len(job.attempts)) == ("Failed", 1)


def test_max_runtime_covers_all_attempts(run_job: Run, ask: Ask) -> None:
    request = ask("term save", "hang", spot=True, max_runtime=3)
    job = run_job(request, mishaps=[Mishap("Interrupted", hanging)])
    assert (len(job.attempts), job.secondary_status) == (2, "MaxRuntimeExceeded")
    first, second = job.attempts
    assert second.seconds < 3.0 + 3.0 - first.seconds, "the limit, its end, less the first attempt"


# The disk


@pytest.fixture
def small_disk(client: Any) -> int:
    """A size like no other's, some 64 MB, where this machine can make such a disk."""
    size = 64 * 10**6 + random.randrange(1000) * 10**4
    problem = disk.why_not(size, client.info(), client.api.base_url)
    if problem:
        pytest.skip(f"no disk of a given size: {problem}")
    return size


def test_disk_is_as_large_as_asked(
    run_job: Run, ask: Ask, small_disk: int, disks: Callable[[int], list[str]]
) -> None:
    asked = Limits(disk_bytes=small_disk)
    job = run_job(ask("fill /opt/ml/model/a.bin", "fill /tmp/b.bin"), limits=asked)
    assert job.limits_applied.disk_bytes == small_disk
    assert "filled /opt/ml/model/a.bin No space left on device" in job.text
    assert "filled /tmp/b.bin No space left on device" in job.text
    seen = saw(job)
    assert 0.8 * small_disk < seen["disk"]["/opt/ml"] <= small_disk
    assert seen["tmp"] == "0o1777"
    assert "/opt/ml/lost+found" not in seen["tree"]
    assert seen["tree"]["/opt/ml/model"] == ["0o755", 0, 0]
    assert disks(small_disk) == []


def test_input_takes_its_share_of_the_disk(
    run_job: Run, ask: Ask, scene: Path, small_disk: int
) -> None:
    (scene / "large.bin").write_bytes(os.urandom(24 * 10**6))
    asked = Limits(disk_bytes=small_disk)
    size = saw(run_job(ask(), limits=asked))["disk"]["/opt/ml"]
    assert size <= small_disk - 24 * 10**6
    mounted = replace(ask(), channels=(replace(ask().channels[0], mode="FastFile"),))
    assert saw(run_job(mounted, limits=asked))["disk"]["/opt/ml"] > small_disk - 24 * 10**6


def test_input_larger_than_the_disk_fails_the_download(run_job: Run, ask: Ask, scene: Path) -> None:
    (scene / "large.bin").write_bytes(bytes(10**6))
    job = run_job(ask(), limits=Limits(disk_bytes=10**6))
    assert (job.status, job.exit, job.log) == ("Failed", None, ())
    assert job.failure_reason == "ClientError: the input (1 MB) does not fit the disk (1 MB)"
    assert transitions(job) == ["Starting", "Downloading", "Failed"]


def test_disk_that_cannot_be_made_is_said(run_job: Run, ask: Ask) -> None:
    job = run_job(ask(), limits=Limits(disk_bytes=10**15))
    assert (job.limits_asked.disk_bytes, job.limits_applied.disk_bytes) == (10**15, None)
    assert [n for n in job.unverified if n.startswith("limits: disk 1000000 GB asked, not applied")]


# What is assumed, otherwise


def test_other_assumptions_reach_the_container(run_job: Run, ask: Ask, scene: Path) -> None:
    assumed = Assumptions(
        init=True, user="65534:65534", workdir="/tmp", channels_writable=True,
        shm_bytes=8 * MIB, region_variables=True,
    )  # fmt: skip
    job = run_job(ask(), assumed=assumed, limits=Limits(shm_bytes=assumed.shm_bytes))
    seen = saw(job)
    assert (seen["uid"], seen["cwd"], seen["shm"]) == (65534, "/tmp", 8 * MIB)
    assert seen["pid"] != 1
    assert seen["env"]["AWS_REGION"] == "us-west-2"
    # Root's folder: not read-only any more, and still not everybody's.
    assert seen["write"]["/opt/ml/input/data/training"] == "Permission denied"
    assert set(assumed.rows()) <= set(job.unverified)


@pytest.mark.parametrize("written", [True, False])
def test_request_without_hyperparameters(run_job: Run, ask: Ask, written: bool) -> None:
    request = ask(hyperparameters={}, environment={"DO": '["model"]'})
    job = run_job(request, assumed=Assumptions(empty_hyperparameters_file=written))
    assert saw(job)["config"].get("hyperparameters") == ({} if written else None)
    assert [m.path for m in job.members] == ["more/metrics.json", "point_cloud.ply"]


def test_both_dialects_arrive_as_they_were_sent(run_job: Run, ask: Ask) -> None:
    sent = {"raw": "adam", "encoded": '"adam"', "number": "1e-3", "do": "[]", "null": "null"}
    assert saw(run_job(ask(hyperparameters=sent)))["config"]["hyperparameters"] == sent


def test_links_may_be_left_out_of_the_archive(
    run_job: Run, ask: Ask, tmp_path: Path, names_in: Callable[[Path], list[str]]
) -> None:
    job = run_job(ask("model", "links"), keep={"archive"}, assumed=Assumptions(pack_links=False))
    assert "symlink" in {m.kind for m in job.members}
    assert "absolute" not in names_in(tmp_path / "job/model.tar.gz")


@pytest.mark.parametrize("mode", ["Pipe", "Fast"])
def test_pipe_mode_is_refused_by_name(run_job: Run, ask: Ask, mode: str) -> None:
    channel = Channel("training", mode, "s3://b/p/", "S3Prefix", "FullyReplicated")
    with pytest.raises(BadInput, match=f"training: .*{mode}"):
        run_job(ask(channels=(channel,)))


def test_what_changes_nothing_here_is_said(run_job: Run, ask: Ask) -> None:
    request = ask()
    raw = {**request.raw, "OutputDataConfig": {"S3OutputPath": "s3://b/", "KmsKeyId": "k"}}
    job = run_job(replace(request, raw=raw))
    assert "ignored: OutputDataConfig.KmsKeyId: nothing is encrypted here" in job.unverified
