"""What the training host does to a container, as the container saw it (contract sections 1-3)."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splatgate import evidence
from splatgate.evidence import Job, Limits
from splatgate.sagemaker.assumptions import MIB
from splatgate.sagemaker.channels import tree_hash
from splatgate.sagemaker.request import Channel

Run = Callable[..., Job]
Ask = Callable[..., Any]


def saw(job: Job) -> dict[str, Any]:
    """What the probe reported."""
    line = next(line.text for line in job.log if line.text.startswith("saw "))
    return dict(json.loads(line[4:]))


def test_completed_job_keeps_model_at_the_root(run_job: Run, ask: Ask, tmp_path: Path) -> None:
    job = run_job(ask("model", "output", "say done"), keep={"archive", "output"})
    assert (job.status, job.secondary_status, job.failure_reason) == ("Completed",) * 2 + ("",)
    assert (job.exit, job.oom, job.ended_by, job.stop_seconds) == (0, False, None, None)
    assert [m.path for m in job.members] == ["more/metrics.json", "point_cloud.ply"]
    ply = job.members[1]
    assert (ply.bytes, ply.kind) == (4, "file")
    assert ply.sha256 == hashlib.sha256(b"ply\n").hexdigest()
    assert [m.path for m in job.output_members] == ["note.txt"]
    assert (tmp_path / "job/model/point_cloud.ply").read_text() == "ply\n"
    with tarfile.open(tmp_path / "job/model.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["more/metrics.json", "point_cloud.ply"]
    assert evidence.read(tmp_path / "job/job.json", Job) == job
    assert (tmp_path / "job/log.txt").read_text().endswith("done\n")
    assert sorted(p.name for p in (tmp_path / "job").iterdir()) == [
        "job.json",
        "log.txt",
        "model",
        "model.tar.gz",
        "output",
    ]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert job.phases.keys() == {"Starting", "Downloading", "Training", "Uploading"}
    assert job.phases["Training"] > 0
    assert job.writes_outside == ()


def test_container_sees_sagemakers_world(run_job: Run, ask: Ask) -> None:
    """Word, environment, directories, configuration, limits, network: as the contract has them."""
    request = ask(environment={"MAX_ITERATIONS": "7"})
    job = run_job(request)
    seen = saw(job)
    assert seen["argv"] == ["/probe/probe.py", "train"]
    assert job.command == ("/usr/bin/python3", "/probe/probe.py", "train")
    assert seen["pid"] == 1
    # The engine adds three of its own, which SageMaker's hosts, being Docker's, add too.
    own = set(seen["env"]) - {"PATH", "HOME", "HOSTNAME", "LC_CTYPE"}
    given = {"TRAINING_JOB_NAME", "TRAINING_JOB_ARN", "MAX_ITERATIONS"}
    assert own == given | {"FROM_IMAGE", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    assert own <= set(job.env_names)
    assert seen["env"]["TRAINING_JOB_NAME"] == "splatgate-smoke"
    assert seen["env"]["TRAINING_JOB_ARN"].endswith(":training-job/splatgate-smoke")
    assert seen["config"]["hyperparameters"] == {"do": "[]"}
    assert seen["config"]["inputdataconfig"] == {
        "training": {
            "TrainingInputMode": "File",
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
        }
    }
    assert seen["config"]["resourceconfig"]["current_host"] == "algo-1"
    assert seen["network"] == ["lo"]
    assert seen["shm"] == 64 * MIB
    assert seen["memory"] == str(256 * MIB)
    assert seen["pids"] == "100"
    assert job.limits_applied == Limits(256 * MIB, 64 * MIB, 100, 1.0, None)


def test_opt_ml_is_shadowed_and_root_owned(run_job: Run, ask: Ask) -> None:
    seen = saw(run_job(ask()))["tree"]
    assert "/opt/ml/code" not in seen, "a layer's files show through"
    assert "/opt/ml/model/own.ply" not in seen, "a VOLUME of the image shows through"
    folders = (
        "input input/config input/data input/data/training model output output/data checkpoints"
    )
    for path in folders.split():
        assert seen[f"/opt/ml/{path}"] == ["0o755", 0, 0], path
    assert seen["/opt/ml/input/data/training/sparse/0/cameras.txt"] == ["0o644", 0, 0]


def test_channels_are_read_only_and_complete(run_job: Run, ask: Ask, scene: Path) -> None:
    job = run_job(ask())
    seen = saw(job)
    below = "/opt/ml/input/data/training/"
    assert {p.removeprefix(below) for p in seen["tree"] if p.startswith(below)} == {
        ".hidden",
        "empty bild ü.jpg",
        "sparse",
        "sparse/0",
        "sparse/0/cameras.txt",
    }
    write = seen["write"]
    assert write.pop("/opt/ml/input/data/training") == "Read-only file system"
    assert set(write.values()) == {"yes"}
    assert job.channels == {"training": tree_hash(scene)}


def test_several_channels_and_a_single_file(run_job: Run, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "one.zip").write_bytes(b"zip")
    (tmp_path / "nothing").mkdir()
    names = ("a.b-c_d", "FASTFILE")
    channels = tuple(
        Channel(n, "FastFile", "s3://b/p/", "S3Prefix", "FullyReplicated") for n in names
    )
    data = {"a.b-c_d": tmp_path / "one.zip", "FASTFILE": tmp_path / "nothing"}
    seen = saw(run_job(ask(channels=channels), channels=data))
    assert "/opt/ml/input/data/a.b-c_d/one.zip" in seen["tree"]
    assert "/opt/ml/input/data/FASTFILE" in seen["tree"]
    assert seen["config"]["inputdataconfig"]["FASTFILE"]["TrainingInputMode"] == "FastFile"


def test_failure_text_becomes_failure_reason(run_job: Run, ask: Ask, tmp_path: Path) -> None:
    job = run_job(ask("failure E_SCENE: no images", "exit 3"))
    assert (job.status, job.secondary_status, job.exit) == ("Failed", "Failed", 3)
    assert job.failure == "E_SCENE: no images"
    assert job.failure_reason == "AlgorithmError: E_SCENE: no images, exit code: 3"
    assert (tmp_path / "job/failure").read_text() == job.failure


def test_failure_without_text(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("exit 1"))
    assert (job.failure, job.failure_reason) == (None, "AlgorithmError: , exit code: 1")


def test_failure_text_of_a_completed_job_is_no_reason(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("failure left behind"))
    assert (job.status, job.failure, job.failure_reason) == ("Completed", "left behind", "")


def test_stop_leaves_time_to_save(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("term save", "hang"), stop_when=lambda line: line == "hanging")
    assert (job.status, job.secondary_status, job.ended_by) == (
        "Stopped",
        "Stopped",
        "StopTrainingJob",
    )
    assert (job.exit, job.failure_reason) == (0, "")
    assert [m.path for m in job.members] == ["stopped.ply"]
    assert job.stop_seconds is not None
    assert job.stop_seconds < 2


def test_sigterm_ignored_is_killed_after_grace(run_job: Run, ask: Ask) -> None:
    steps = ("model", "term ignore", "hang")
    job = run_job(ask(*steps), stop_when=lambda line: line == "hanging", grace=1.5)
    assert (job.status, job.exit, job.oom) == ("Stopped", 137, False)
    assert job.stop_seconds is not None
    assert 1.4 <= job.stop_seconds < 5
    assert "point_cloud.ply" in [m.path for m in job.members]


def test_sigterm_without_a_handler_is_ignored_by_pid_1(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("hang"), stop_when=lambda line: line == "hanging", grace=1.0)
    assert job.exit == 137


def test_max_runtime_stops_the_job(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("term save", "hang", max_runtime=2))
    assert (job.status, job.secondary_status) == ("Stopped", "MaxRuntimeExceeded")
    assert [m.path for m in job.members] == ["stopped.ply"]
    assert 1.8 <= job.phases["Training"] < 6


def test_own_deadline_is_not_sagemakers(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("term save", "hang"), deadline=4.0)
    assert (job.status, job.ended_by, job.exit, job.oom) == ("Failed", "Deadline", 137, False)
    assert job.failure_reason.startswith("Splatgate:")


def test_out_of_memory_is_told_apart(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("eat"), limits=Limits(memory_bytes=64 * MIB))
    assert (job.status, job.exit, job.oom) == ("Failed", 137, True)
    assert job.failure_reason == "AlgorithmError: , exit code: 137"


def test_other_137_is_not_out_of_memory(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("kill"))
    assert (job.exit, job.oom) == (137, False)


@pytest.mark.parametrize(
    ("changes", "argv"),
    [
        ({}, ["/probe/probe.py", "train"]),
        ({"entrypoint": ("python3", "/probe/probe.py")}, ["/probe/probe.py"]),
        ({"arguments": ("a", "b")}, ["/probe/probe.py", "a", "b"]),
        (
            {"entrypoint": ("python3", "/probe/probe.py"), "arguments": ("a",)},
            ["/probe/probe.py", "a"],
        ),
    ],
    ids=["neither", "entrypoint", "arguments", "both"],
)
def test_command_line(run_job: Run, ask: Ask, changes: dict[str, Any], argv: list[str]) -> None:
    job = run_job(ask(**changes))
    assert saw(job)["argv"] == argv
    assert list(job.command)[-len(argv) :] == argv


def test_no_entry_point_and_no_train(run_job: Run, ask: Ask, build: Callable[..., str]) -> None:
    job = run_job(ask(), image=build("ARG BASE\nFROM ${BASE}\nCMD python3\n"))
    assert (job.status, job.exit) == ("Failed", 127)
    assert job.failure_reason == (
        'AlgorithmError: exec: "train": executable file not found in $PATH, exit code: 127'
    )
    assert job.log == ()


def test_entry_point_without_execute_bit(run_job: Run, ask: Ask) -> None:
    job = run_job(ask(entrypoint=("/probe/probe.py",)))
    assert (job.status, job.exit) == ("Failed", 126)
    assert "permission denied" in job.failure_reason


def test_unknown_user_is_the_images_fault(
    run_job: Run, ask: Ask, build: Callable[..., str]
) -> None:
    image = build('ARG BASE\nFROM ${BASE}\nUSER nobody-here\nENTRYPOINT ["python3"]\n')
    job = run_job(ask(), image=image)
    assert (job.status, job.exit) == ("Failed", None)
    assert job.failure_reason.startswith("ClientError: ")
    assert "nobody-here" in job.failure_reason


def test_odd_members_are_listed_and_not_followed(run_job: Run, ask: Ask, tmp_path: Path) -> None:
    job = run_job(ask("model", "links"), keep={"archive"})
    kinds = {m.path: m.kind for m in job.members}
    first = kinds["point_cloud.ply"], kinds["twice.ply"]
    assert sorted(first) == ["file", "link"]
    assert (kinds["absolute"], kinds["beside"], kinds["pipe"]) == ("symlink", "symlink", "fifo")
    assert kinds["not-utf8-\\xff"] == "file"
    assert len({m.sha256 for m in job.members if m.path in ("point_cloud.ply", "twice.ply")}) == 1
    modes = {m.path: m.mode for m in job.members}
    assert modes["more/metrics.json"] == 0o600
    model = tmp_path / "job/model"
    assert not [p for p in model.rglob("*") if p.is_symlink()]
    assert (model / "twice.ply").read_text() == "ply\n"
    with tarfile.open(tmp_path / "job/model.tar.gz") as tar:
        assert tar.getmember("absolute").issym()
        assert tar.extractfile("twice.ply").read() == b"ply\n"  # type: ignore[union-attr]
    assert evidence.read(tmp_path / "job/job.json", Job) == job


def test_writes_outside_are_named(run_job: Run, ask: Ask) -> None:
    job = run_job(ask("outside"))
    assert job.writes_outside == (
        "/opt/ml/code/extra.py",
        "/opt/ml/input/config/hyperparameters.json",
        "/tmp/scratch.txt",
        "/var/lib/trainer/cache/a.bin",
    )


def test_log_keeps_streams_times_and_long_lines(run_job: Run, ask: Ask) -> None:
    log = run_job(ask("streams")).log
    texts = {line.text: line for line in log}
    assert texts["to stdout"].stream == "stdout"
    assert texts["to stderr"].stream == "stderr"
    assert "x" * 40000 in texts
    assert "a\rb\rc" in texts
    assert log[-1].text == "no end of line"
    assert [line.seconds for line in log] == sorted(line.seconds for line in log)
    assert 0 < log[-1].seconds < 30


def test_checkpoints_survive_into_a_second_job(run_job: Run, ask: Ask, tmp_path: Path) -> None:
    """A spot interruption: the container starts from zero, the checkpoints are restored."""
    first = run_job(ask("checkpoint"), keep={"checkpoints"})
    assert [m.path for m in first.checkpoint_members] == ["step-0.pt"]
    (tmp_path / "job").rename(tmp_path / "first")
    second = run_job(ask("checkpoint"), checkpoints=tmp_path / "first/checkpoints")
    assert 'checkpoints ["step-0.pt"]' in second.text
    assert [m.path for m in second.checkpoint_members] == ["step-0.pt", "step-1.pt"]
    assert not (tmp_path / "job/checkpoints").exists()


@pytest.mark.parametrize("path", ["/opt/ml/other", "/mnt/checkpoints"])
def test_checkpoints_at_another_path(run_job: Run, ask: Ask, path: str, tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before/a.pt").write_text("a")
    job = run_job(ask(checkpoints=path), checkpoints=tmp_path / "before")
    assert [m.path for m in job.checkpoint_members] == ["a.pt"]
    assert job.writes_outside == ()


def test_limits_beyond_the_engine_are_recorded(run_job: Run, ask: Ask, client: Any) -> None:
    asked = Limits(memory_bytes=10**15, cpus=4096.0)
    job = run_job(ask(), limits=asked)
    assert job.limits_asked == asked
    assert job.limits_applied.cpus == client.info()["NCPU"]
    assert job.limits_applied.memory_bytes is not None
    assert job.limits_applied.memory_bytes < client.info()["MemTotal"]
    assert [note for note in job.unverified if note.startswith("limits: ")]


def test_instance_of_the_request_sets_the_limits(run_job: Run, ask: Ask) -> None:
    job = run_job(ask(), limits=None)
    assert job.limits_asked.memory_bytes == 15 * 1024 * MIB
    assert (job.limits_asked.cpus, job.limits_asked.disk_bytes) == (4.0, 125 * 10**9)


def test_network_is_there_when_not_isolated(run_job: Run, ask: Ask) -> None:
    assert len(saw(run_job(ask(isolated=False)))["network"]) > 1
