"""Jobs with several containers, what is assumed of SageMaker, and parts of a trainer alone."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate import subject
from splatgate.container import sweep
from splatgate.evidence import Attempt, BadInput, Job, Limits, LogLine
from splatgate.sagemaker import stages
from splatgate.sagemaker.assumptions import Assumptions, assume, ignored
from splatgate.sagemaker.attempt import Mishap, Terms
from splatgate.sagemaker.guards import unfit
from splatgate.sagemaker.request import Channel, parse, smoke_request
from splatgate.sagemaker.result import contradictions, ending, job_json, log_streams, transitions

FIRST = Attempt("2026-01-01T00:00:00+00:00", 137, False, "Interrupted", 2.0, 1)
LAST = Attempt("2026-01-01T00:01:00+00:00", 0, False, None, 3.0, 2)
JOB = Job(
    key="k", name="n", image_id="i", request={}, channels={}, status="Completed",
    secondary_status="Completed", failure_reason="", exit=0, oom=False, ended_by=None,
    stop_seconds=None, command=(), limits_asked=Limits(), limits_applied=Limits(),
    phases={"Training": 5.0}, log=(LogLine(0.1, "stdout", "x"),) * 3, failure=None, env_names=(),
    members=(), output_members=(), checkpoint_members=(), writes_outside=(),
    started=FIRST.started, attempts=(FIRST, LAST),
)  # fmt: skip


def test_attempts_that_add_up_to_their_job() -> None:
    assert contradictions(JOB) == []
    assert contradictions(replace(JOB, attempts=())) == [], "recorded before attempts were"
    assert len(set(log_streams(JOB))) == 2
    assert job_json(JOB)["log_stream"] == log_streams(JOB)[-1]


@pytest.mark.parametrize(
    "change",
    [
        {"attempts": (replace(FIRST, ended_by=None), LAST)},
        {"attempts": (LAST, replace(FIRST, ended_by=None))},
        {"attempts": (FIRST, replace(LAST, exit=1))},
        {"attempts": (FIRST, replace(LAST, oom=True))},
        {"attempts": (FIRST, replace(LAST, lines=3))},
        {"attempts": (FIRST, replace(LAST, seconds=4.0))},
        {"started": LAST.started},
        {"phases": {}},
    ],
)
def test_attempts_that_do_not_are_a_contradiction(change: dict[str, Any]) -> None:
    assert contradictions(replace(JOB, **change))


@pytest.mark.parametrize(
    ("attempts", "ended", "expected"),
    [
        ((LAST,), {}, "Starting Downloading Training Uploading Completed"),
        (
            (FIRST, LAST),
            {},
            "Starting Downloading Training Interrupted Starting Downloading Training Uploading "
            "Completed",
        ),
        ((replace(LAST, started=""),), {"started": ""}, "Starting Downloading Completed"),
    ],
)
def test_secondary_statuses_in_order(
    attempts: tuple[Attempt, ...], ended: dict[str, Any], expected: str
) -> None:
    assert transitions(replace(JOB, attempts=attempts, **ended)) == expected.split()


def test_terms_of_an_attempt() -> None:
    terms = Terms(100.0, 10.0, 20.0, 1.0, lambda line: line == "stop", None)
    assert terms.asked(1.0, "stop") == "StopTrainingJob"
    assert terms.asked(1.0, "go") is None
    assert terms.asked(11.0, None) == "MaxRuntimeExceeded"
    assert replace(terms, runtime=99.0).asked(21.0, None) == "MaxWaitTimeExceeded"
    befallen = replace(terms, mishap=Mishap("Interrupted", lambda line: line == "stop"))
    assert befallen.asked(1.0, "stop") == "Interrupted"
    assert [befallen.gently(why) for why in ("Interrupted", "MaxRuntimeExceeded")] == [False, True]
    assert replace(befallen, spot_sigterm=True).gently("Interrupted")
    assert not befallen.gently("InternalServerError")


# What is assumed


def test_every_assumption_can_be_changed_and_says_so() -> None:
    plain = set(Assumptions().rows())
    other = {bool: "{}", int: "4194304", str: "other"}
    for name, value in vars(Assumptions()).items():
        text = str(not value).lower() if isinstance(value, bool) else other[type(value)]
        changed = set(assume([f"{name}={text}"]).rows())
        assert len(changed - plain) == 1, name
    assert all(row.split()[0].count(".") == 1 for row in plain), "the contract's number leads"


@pytest.mark.parametrize("setting", ["", "init", "init=1", "pids=true", "pids=0", "no_such=1"])
def test_assumption_that_cannot_be_read(setting: str) -> None:
    with pytest.raises(BadInput, match="give"):
        assume([setting])


@given(st.text())
def test_any_assumption_is_read_or_bad_input(text: str) -> None:
    for setting in (text, f"shm_bytes={text}"):
        with contextlib.suppress(BadInput):
            assert assume([setting]) != Assumptions() or setting.endswith(str(64 * 1024**2))


def test_assumed_endings() -> None:
    other = Assumptions(stopped_keeps_status=False, reason_counts_whole=False, internal_error="x")
    assert ending(1, "StopTrainingJob", "why", None, other).status == "Failed"
    assert ending(0, "StopTrainingJob", None, None, other).status == "Stopped"
    assert ending(1, None, "y" * 2000, None, other).reason.endswith("y, exit code: 1")
    assert ending(137, "InternalServerError", None, None, other).reason == "InternalServerError: x"


def test_members_that_change_nothing_are_named() -> None:
    raw = {"VpcConfig": {"Subnets": ["s"]}, "ResourceConfig": {"VolumeKmsKeyId": "k"}}
    assert [line.split(":")[1].strip() for line in ignored(raw)] == [
        "ResourceConfig.VolumeKmsKeyId",
        "VpcConfig",
    ]
    assert ignored(smoke_request().raw) == []
    assert ignored({"ResourceConfig": None, "OutputDataConfig": []}) == []


@pytest.mark.parametrize(
    ("mode", "kind", "uri", "says"),
    [
        ("File", "S3Prefix", "s3://b/p", None),
        ("File", "ManifestFile", "s3://b/m", None),
        ("FastFile", "S3Prefix", "s3://b/p/", None),
        ("FastFile", "S3Prefix", "s3://b/p", "end s3://b/p with /"),
        ("FastFile", "ManifestFile", "s3://b/m/", "S3Prefix only"),
        ("File", "AugmentedManifestFile", "s3://b/m", "not emulated"),
        ("Pipe", "S3Prefix", "s3://b/p/", "not possible here"),
        ("file", "S3Prefix", "s3://b/p/", "is none"),
    ],
)
def test_channels_that_cannot_be_had(mode: str, kind: str, uri: str, says: str | None) -> None:
    found = unfit(Channel("c", mode, uri, kind, "FullyReplicated"))
    assert found is None if says is None else says in (found or "")


def test_restarts_are_read_from_a_request() -> None:
    raw = {
        **smoke_request().raw,
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {"MaxRuntimeInSeconds": 10, "MaxWaitTimeInSeconds": 20},
        "RetryStrategy": {"MaximumRetryAttempts": 3},
        "CheckpointConfig": {"S3Uri": "s3://b/c"},
    }
    request = parse(raw)
    assert (request.spot, request.max_wait, request.retries) == (True, 20, 3)
    assert (request.checkpoint_uri, request.checkpoints) == ("s3://b/c", "/opt/ml/checkpoints")


# Parts of a trainer alone

OURS = Path(__file__).parents[2] / "image" / "subject.toml"


def test_our_profile_has_every_stage() -> None:
    profile = subject.parse(OURS.read_text(), str(OURS))
    client = type("Client", (), {"info": lambda self: {}})()
    for name in stages.NAMES:
        stage = stages.stage_of(profile, name, "DIR")
        request = stages.request_for(client, profile, stage, 7, None)
        assert request.hyperparameters["device"] == "cpu", "no GPU on this engine"
        if stage.steps:
            assert request.hyperparameters["max_iterations"] == "7"


def test_stage_that_a_trainer_does_not_have() -> None:
    profile = subject.parse('schema = 1\nname = "x"\n', "x")
    with pytest.raises(BadInput, match="no such stage"):
        stages.stage_of(profile, "load", None)
    with pytest.raises(BadInput, match="--checkpoints"):
        stages.stage_of(subject.parse(OURS.read_text(), "ours"), "export", None)


def test_stage_is_done_at_its_line_or_at_the_jobs_end() -> None:
    told = replace(JOB, log=(LogLine(1.5, "stdout", "phase=export at=1"),), status="Failed")
    until = subject.Stage(until="^phase=export ")
    assert stages.outcome("train", until, told) == stages.Staged("train", True, 1.5)
    assert not stages.outcome("train", until, JOB).done
    assert not stages.outcome("export", subject.Stage(), told).done
    assert stages.outcome("export", subject.Stage(), JOB).seconds == 5.0


# What killed processes leave on this machine


def test_folders_of_processes_that_are_gone_are_swept(tmp_path: Path) -> None:
    code = "from splatgate.container import sweep; print(sweep.controller())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=OURS.parents[1],
    )
    names = {
        f".job.{done.stdout.strip()}.a1": False,
        f".job.{sweep.controller()}.a1": True,
        ".job.other-host:1:1.a1": True,
        ".job.": True,
        ".jobs.x": True,
    }
    for name in names:
        (tmp_path / name).mkdir()
    sweep.sweep_folders(tmp_path, ".job.")
    assert {p.name for p in tmp_path.iterdir()} == {name for name, kept in names.items() if kept}
