"""The parts of the training host that need no engine."""

from __future__ import annotations

import io
import os
import tarfile
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate.container import sweep
from splatgate.evidence import Limits, LogLine
from splatgate.instances import INSTANCES
from splatgate.sagemaker.assumptions import GIB, MIB, Assumptions
from splatgate.sagemaker.environment import command_line, config_files
from splatgate.sagemaker.limits import fit, has_gpu, limits_of
from splatgate.sagemaker.logs import log_lines, nanoseconds
from splatgate.sagemaker.request import Metric, smoke_request
from splatgate.sagemaker.resources import HostFailed, NotStarted, Stage, _not_started
from splatgate.sagemaker.result import ending, failure_reason, log_stream, metric_points

# Instances and limits


def test_reference_instance_has_the_contracts_numbers() -> None:
    g4dn = INSTANCES["ml.g4dn.xlarge"]
    assert (g4dn.vcpus, g4dn.memory_mib, g4dn.gpu, g4dn.sm, g4dn.nvme_gb) == (
        4,
        16384,
        "T4",
        75,
        125,
    )
    assert INSTANCES["ml.m5.xlarge"].sm is None


def test_disk_of_a_host_with_instance_store_is_not_the_volume() -> None:
    assumed = Assumptions()
    assert limits_of(INSTANCES["ml.g4dn.xlarge"], assumed, 500).disk_bytes == 125 * 10**9
    assert limits_of(INSTANCES["ml.m5.xlarge"], assumed, 500).disk_bytes == 500 * 10**9
    assert limits_of(INSTANCES["ml.g4dn.xlarge"], assumed, 0).memory_bytes == 15 * GIB
    assert limits_of(None, assumed, 500).memory_bytes is None


def test_limits_are_fitted_to_the_engine_and_said() -> None:
    asked = Limits(15 * GIB, 64 * MIB, 100, 4.0, 10**9)
    got, notes = fit(asked, {"MemTotal": 8 * GIB, "NCPU": 2})
    assert got == Limits(int(8 * GIB * 0.9), 64 * MIB, 100, 2.0, None)
    assert len(notes) == 3
    assert fit(Limits(GIB, None, 10, 1.0), {"MemTotal": 8 * GIB, "NCPU": 2}) == (
        Limits(GIB, None, 10, 1.0),
        [],
    )
    can_not = {"MemoryLimit": False, "CpuCfsQuota": False, "PidsLimit": False}
    assert fit(Limits(GIB, None, 10, 1.0), can_not)[0] == Limits()


@pytest.mark.parametrize(
    ("info", "has"),
    [
        ({}, False),
        ({"Runtimes": {"runc": {}}}, False),
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, True),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, True),
        ({"DiscoveredDevices": None, "Runtimes": None}, False),
    ],
)
def test_gpu_of_the_engine(info: dict[str, Any], has: bool) -> None:
    assert has_gpu(info) is has


# Command line and configuration


@pytest.mark.parametrize(
    ("algorithm", "options", "whole"),
    [
        ({}, {"command": ["train"]}, ("/e", "train")),
        ({"ContainerEntrypoint": ["/x"]}, {"entrypoint": ["/x"]}, ("/x",)),
        ({"ContainerArguments": ["a"]}, {"command": ["a"]}, ("/e", "a")),
        (
            {"ContainerEntrypoint": ["/x", "y"], "ContainerArguments": ["a"]},
            {"entrypoint": ["/x", "y"], "command": ["a"]},
            ("/x", "y", "a"),
        ),
    ],
    ids=["neither", "entrypoint", "arguments", "both"],
)
def test_four_rows_of_the_command_line(
    algorithm: dict[str, Any], options: dict[str, Any], whole: tuple[str, ...]
) -> None:
    from splatgate.sagemaker.request import parse

    raw = smoke_request().raw
    request = parse(
        {**raw, "AlgorithmSpecification": {**raw["AlgorithmSpecification"], **algorithm}}
    )
    image = SimpleNamespace(attrs={"Config": {"Entrypoint": ["/e"], "Cmd": ["dropped"]}})
    assert command_line(request, image) == (options, whole)


def test_configuration_files_hold_no_s3_uri() -> None:
    files = config_files(smoke_request(hyperparameters={"a": '"quoted"'}), Assumptions())
    assert files["input/config/hyperparameters.json"] == b'{"a": "\\"quoted\\""}'
    assert b"s3://" not in files["input/config/inputdataconfig.json"]
    assert b'"current_host": "algo-1"' in files["input/config/resourceconfig.json"]


def test_hyperparameter_file_may_be_absent() -> None:
    without = Assumptions(empty_hyperparameters_file=False)
    name = "input/config/hyperparameters.json"
    assert config_files(smoke_request(), Assumptions())[name] == b"{}"
    assert name not in config_files(smoke_request(), without)


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ('OCI runtime create failed: exec: "train": not found: unknown', 127, NotStarted),
        ("unable to find user x: no matching entries in passwd file", 128, NotStarted),
        ("nvidia-container-cli: requirement error: unsatisfied condition", 128, NotStarted),
        ("Cannot mkdir: /etc/passwd is not a directory", None, NotStarted),
        ("no space left on device", 128, HostFailed),
        ("cgroup controllers are missing", 128, HostFailed),
    ],
)
def test_engine_at_fault_is_told_from_the_image(text: str, code: int | None, kind: type) -> None:
    error = _not_started(text, code)
    assert isinstance(error, kind)
    if isinstance(error, NotStarted):
        assert error.exit_code == (127 if code == 127 else None)
        assert not str(error).endswith("unknown")


# The end of a job


@pytest.mark.parametrize(
    ("exit_code", "ended_by", "failure", "status", "secondary", "reason"),
    [
        (0, None, None, "Completed", "Completed", ""),
        (0, None, "left", "Completed", "Completed", ""),
        (1, None, None, "Failed", "Failed", "AlgorithmError: , exit code: 1"),
        (3, None, "why", "Failed", "Failed", "AlgorithmError: why, exit code: 3"),
        (0, "StopTrainingJob", None, "Stopped", "Stopped", ""),
        (137, "StopTrainingJob", "x", "Stopped", "Stopped", ""),
        (1, "MaxRuntimeExceeded", None, "Stopped", "MaxRuntimeExceeded", ""),
    ],
)
def test_ending(
    exit_code: int,
    ended_by: str | None,
    failure: str | None,
    status: str,
    secondary: str,
    reason: str,
) -> None:
    end = ending(exit_code, ended_by, failure)
    assert (end.status, end.secondary, end.reason) == (status, secondary, reason)


@given(st.text(max_size=3000), st.integers(1, 255))
def test_failure_reason_is_at_most_1024_characters(text: str, code: int) -> None:
    reason = failure_reason(text, code)
    assert len(reason) <= 1024
    assert reason.startswith("AlgorithmError: ")
    if len(text) <= 900:
        assert reason == f"AlgorithmError: {text}, exit code: {code}"


def test_container_that_never_was_is_a_client_error() -> None:
    assert failure_reason(None, None, "no such user") == "ClientError: no such user"
    assert failure_reason(None, 127, "exec: x") == "AlgorithmError: exec: x, exit code: 127"


def test_log_stream_has_the_epoch_of_the_start() -> None:
    assert log_stream("job", "2019-11-21T05:38:43+00:00") == "job/algo-1-1574314723"


def test_metrics_are_read_as_cloudwatch_would() -> None:
    log = [LogLine(1.5, "stdout", "step=1 psnr=12.5 loss=0.1"), LogLine(2, "stderr", "psnr=high")]
    points = metric_points(log, [Metric("psnr", r"psnr=(\S+)"), Metric("none", "loss=")])
    assert [(p.name, p.value, p.seconds) for p in points] == [("psnr", 12.5, 1.5)]


# Logs


def test_time_stamps_to_the_nanosecond() -> None:
    assert nanoseconds("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert nanoseconds(b"1970-01-01T02:00:00.000000001+02:00 text") == 1
    assert nanoseconds("0001-01-01T00:00:00Z") < 0
    assert nanoseconds("text") == 0


@given(st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)))
def test_time_stamps_agree_with_datetime(when: datetime) -> None:
    stamp = when.replace(tzinfo=UTC)
    assert (
        nanoseconds(stamp.isoformat())
        == (stamp - datetime(1970, 1, 1, tzinfo=UTC))
        // (datetime(1, 1, 1, 0, 0, 0, 1) - datetime(1, 1, 1))
        * 1000
    )


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=50), max_size=8
    )
)
def test_frames_give_back_the_lines(texts: list[str]) -> None:
    """However long a line is, and wherever the engine cuts it."""
    frames = []
    for text in texts:
        raw = text.encode() + b"\n"
        pieces = [raw[i : i + 16] for i in range(0, len(raw), 16)]
        frames += [b"2026-01-01T00:00:02.000000000Z " + piece for piece in pieces]
    start = nanoseconds("2026-01-01T00:00:00Z")
    lines = [line for _, line in log_lines(frames, "stdout", start)]
    assert [line.text for line in lines] == texts
    assert all(line.seconds == 2 for line in lines)


def test_last_line_without_end_and_broken_utf8() -> None:
    lines = list(log_lines([b"2026-01-01T00:00:00Z a\xff\rb"], "stderr", 0))
    assert [(line.text, line.stream) for _, line in lines] == [("a\ufffd\rb", "stderr")]


# Sweeping


def test_controller_of_this_process_is_not_gone() -> None:
    assert not sweep.is_gone(sweep.controller())


def test_controller_that_ended_is_gone() -> None:
    import socket
    import subprocess

    process = subprocess.Popen(["true"])
    process.wait()
    assert sweep.is_gone(f"{socket.gethostname()}:{process.pid}:1")
    # The number lives, but it is another process.
    assert sweep.is_gone(f"{socket.gethostname()}:{os.getpid()}:1")


@given(st.text())
def test_label_that_says_nothing_is_kept(label: str) -> None:
    assert not sweep.is_gone(label)


@pytest.mark.parametrize("label", ["elsewhere:1:1", ":1:1", "a:b:c:d", "host:0:1"])
def test_other_hosts_runs_are_kept(label: str) -> None:
    assert not sweep.is_gone(label)


# Volumes


class Volumes:
    """An engine that keeps what is put into a container in its volumes, or, as Podman, not."""

    def __init__(self, *, kept: bool) -> None:
        self.kept, self.files = kept, set[str]()
        self.volumes = self.containers = self

    def create(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(name="v", put_archive=self.put, get_archive=self.get)

    def put(self, root: str, tar: Any) -> None:
        with tarfile.open(fileobj=io.BytesIO(b"".join(tar))) as found:
            names = {name.removeprefix("ml/") for name in found.getnames()}
        self.files |= {n.replace("data/", "input/data/", 1) for n in names} if self.kept else set()

    def get(self, path: str) -> Any:
        import docker.errors

        if path.removeprefix("/opt/ml/") not in self.files:
            raise docker.errors.NotFound(path)
        return iter([b"tar"]), {}


@pytest.mark.parametrize("kept", [True, False])
def test_a_job_that_would_see_nothing_of_its_input_is_not_started(tmp_path, kept) -> None:
    (tmp_path / "cameras.txt").write_text("x")
    image = SimpleNamespace(id="sha256:1", attrs={})
    stage = Stage(Volumes(kept=kept), image, {}, smoke_request(), Assumptions())
    stage.build()
    stage.fill({"training": tmp_path}, {"input/config/a.json": b"{}"}, None, print, float("inf"))
    if kept:
        stage.create(Limits(), gpus=0)
        return
    with pytest.raises(HostFailed, match=r"a\.json did not reach the job's volume.*Docker engine"):
        stage.create(Limits(), gpus=0)
