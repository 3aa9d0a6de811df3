"""How a run fails: codes, the failure file, the machine's shortcomings, the channel."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer import channel, errors, files, host
from trainer.errors import TrainerError
from trainer.stop import Stop

SCRIPT = Path(host.__file__).parents[1] / "train_gaussian_production.py"


def start(base: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the entry script as SageMaker does, from another directory, with its bare environment."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *(argv or ("train",))],
        cwd="/",
        text=True,
        timeout=60,
        capture_output=True,
        env={"SAGEMAKER_BASE_DIR": str(base), **environment},
        check=False,
    )


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_failure_text_fits_and_leads_with_the_cause(cause: str, detail: str) -> None:
    text = TrainerError("E_SCENE_POINTS", cause, detail).text()
    assert len(text.encode()) <= errors.FAILURE_BYTES
    assert text.splitlines()[0].startswith("E_SCENE_POINTS: ")


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "E_OOM"),
        (OutOfMemoryError("CUDA out of memory"), "E_OOM"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "E_OOM"),
        (RuntimeError("CUDA error: no kernel image is available"), "E_ARCH"),
        (OSError(errno.ENOSPC, "No space left"), "E_DISK"),
        (ValueError("x"), "E_INTERNAL"),
    ],
)
def test_exceptions_have_their_code(error: BaseException, code: str) -> None:
    assert errors.classify(error).code == code
    assert errors.classify(error).kind.exit == 1


def test_unwritable_output_is_told_not_raised(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file, not a folder")
    assert errors.write_failure(tmp_path, "E_X: y")


def test_atomic_write_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_atomically(path, lambda s: s.write(b"old"))

    def break_off(stream: io.BufferedIOBase) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        files.write_atomically(path, break_off)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_entry_script_compiles_and_is_executable() -> None:
    compile(SCRIPT.read_text(), str(SCRIPT), "exec")
    assert SCRIPT.stat().st_mode & 0o111 == 0o111
    assert SCRIPT.read_bytes().startswith(b"#!/opt/venv/bin/python\n")


def test_help_needs_no_torch(tmp_path: Path) -> None:
    done = start(tmp_path, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "max_iterations" in done.stdout
    assert "E_NO_GPU" in done.stdout
    assert " torch" not in done.stderr


def test_empty_base_is_an_empty_channel(tmp_path: Path) -> None:
    done = start(tmp_path)
    assert done.returncode == 3
    assert (tmp_path / "output/failure").read_text().startswith("E_CHANNEL_EMPTY: ")
    assert done.stdout.startswith("3DGS trainer ")


def test_bad_hyperparameter_is_refused_before_anything_slow(tmp_path: Path) -> None:
    done = start(tmp_path, MAX_ITERATIONS="abc", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 3
    assert "max_iterations='abc'" in (tmp_path / "output/failure").read_text()
    assert " torch" not in done.stderr


def test_name_in_no_encoding_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "input/data/training", os.fsdecode(b"caf\xe9/cameras.bin"))
    done = start(tmp_path, DEVICE="cpu")
    assert r"caf\udce9/cameras.bin" in done.stdout
    assert (tmp_path / "output/failure").read_text().startswith("E_SCENE_LAYOUT: ")


@pytest.mark.parametrize("log", [">&-", ">/dev/full"], ids=["closed", "full"])
def test_lost_log_costs_neither_the_job_nor_its_failure_text(tmp_path: Path, log: str) -> None:
    command = f"SAGEMAKER_BASE_DIR={tmp_path} PYTHONUNBUFFERED=1 {sys.executable} {SCRIPT} {log}"
    assert subprocess.run(command, shell=True, timeout=60, check=False).returncode == 3
    assert (tmp_path / "output/failure").read_text().startswith("E_CHANNEL_EMPTY: ")


def test_unknown_argument_is_refused(tmp_path: Path) -> None:
    assert start(tmp_path, "train", "--iterations=7").returncode == 3


@pytest.mark.skipif(bool(host.driver_version()), reason="there is a GPU here")
def test_no_gpu_is_refused_by_name(tmp_path: Path) -> None:
    scene = tmp_path / "input/data/training"
    scene.mkdir(parents=True)
    (scene / "x").write_text("x")
    done = start(tmp_path, CUDA_VISIBLE_DEVICES="all")
    text = (tmp_path / "output/failure").read_text()
    assert done.returncode == 3
    assert text.startswith("E_NO_GPU: ")
    assert "device=cpu" in text
    assert "CUDA_VISIBLE_DEVICES='all'" in text


def fake_driver(root: Path, line: str) -> Path:
    """A root file system with the kernel driver's version file."""
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(line)
    return root


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13\n"
            "GCC version:  gcc version 7.3.1",
            "470.57.02",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build",
            "580.159.04",
        ),
        ("garbage", None),
    ],
)
def test_driver_version_is_read(tmp_path: Path, line: str, version: str | None) -> None:
    assert host.driver_version(fake_driver(tmp_path, line)) == version


def test_old_driver_is_refused_with_both_numbers(tmp_path: Path) -> None:
    root = fake_driver(tmp_path, "NVRM version: NVIDIA Kernel Module  470.57.02  x")
    with pytest.raises(TrainerError, match=r"470\.57\.02 is below 525") as e:
        host.require_gpu({"TRAINER_DRIVER_FLOOR": "525"}, root)
    assert e.value.code == "E_DRIVER"
    host.require_gpu({"TRAINER_DRIVER_FLOOR": "470"}, root)
    host.require_gpu({}, root)


@pytest.mark.parametrize("visible", ["", "all", "-1", "none", "void"])
def test_hidden_gpu_is_named(tmp_path: Path, visible: str) -> None:
    root = fake_driver(tmp_path, "NVRM version: NVIDIA Kernel Module  580.1.1")
    with pytest.raises(TrainerError, match="hides every GPU") as e:
        host.require_gpu({"CUDA_VISIBLE_DEVICES": visible}, root)
    assert e.value.code == "E_NO_GPU"
    host.require_gpu({"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "all"}, root)


def fill(folder: Path, *names: str) -> Path:
    """Files of one byte under ``folder``."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


MODEL = ("cameras.bin", "images.bin", "points3D.bin")


@pytest.mark.parametrize("prefix", ["sparse/0", "sparse", "scene/sparse/0"])
def test_layouts_are_found(tmp_path: Path, prefix: str) -> None:
    fill(tmp_path, *(f"{prefix}/{n}" for n in (*MODEL, "rigs.bin")))
    fill(tmp_path / prefix.split("sparse")[0], "images/a.jpg")
    with channel.open_channel(tmp_path) as layout:
        assert layout.model == tmp_path / prefix
        assert layout.images.name == "images"


def test_missing_images_folder_is_named(tmp_path: Path) -> None:
    fill(tmp_path, *(f"sparse/0/{n}" for n in MODEL))
    with pytest.raises(TrainerError, match="no images/ folder"), channel.open_channel(tmp_path):
        pass


def make_archive(path: Path, kind: str, members: dict[str, bytes]) -> None:
    """A zip or tar that holds ``members``."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
            for name, data in members.items():
                pack.writestr(name, data)
        return
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


GOOD = {**{f"s/sparse/0/{n}": b"x" for n in MODEL}, "s/images/a b.JPG": b"x"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archive_is_unpacked_and_tidied(tmp_path: Path, kind: str) -> None:
    make_archive(tmp_path / f"scene.{kind}", kind, GOOD)
    with channel.open_channel(tmp_path) as layout:
        unpacked = layout.images / "a b.JPG"
        assert unpacked.read_bytes() == b"x"
    assert not unpacked.exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_archive_that_points_outside_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    make_archive(tmp_path / "scene", kind, {name: b"x"})
    with pytest.raises(TrainerError, match="outside"), channel.open_channel(tmp_path):
        pass


@pytest.mark.parametrize(
    ("name", "why"),
    [("s/images", "both"), ("s/sparse/0/images.bin/x", "both"), ("x" * 300, "long")],
)
def test_archive_that_no_disk_can_hold_is_refused(tmp_path: Path, name: str, why: str) -> None:
    make_archive(tmp_path / "scene", "zip", {**GOOD, name: b"x"})
    with pytest.raises(TrainerError, match=why) as e, channel.open_channel(tmp_path):
        pass
    assert e.value.code == "E_CHANNEL_ARCHIVE"


def test_link_that_leads_nowhere_is_as_good_as_absent(tmp_path: Path) -> None:
    fill(tmp_path, *(f"sparse/0/{n}" for n in MODEL), "images/a.jpg")
    (tmp_path / "images/b.jpg").symlink_to("b.jpg")
    with channel.open_channel(tmp_path):
        pass


def test_second_model_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, *(f"sparse/{k}/{n}" for n in MODEL for k in "01"), "images/a.jpg")
    with channel.open_channel(tmp_path):
        assert (
            "2 models (sparse/0 0, sparse/1 0 images): only sparse/0 is trained"
            in capsys.readouterr().out
        )


def test_link_in_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("images")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    with pytest.raises(TrainerError, match="link"), channel.open_channel(tmp_path):
        pass


def test_bomb_is_refused(tmp_path: Path) -> None:
    make_archive(tmp_path / "s.zip", "zip", {"images/a.jpg": bytes(80 << 20)})
    with pytest.raises(TrainerError, match="honestly"), channel.open_channel(tmp_path):
        pass


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_truncated_archive_is_refused(tmp_path: Path, kind: str) -> None:
    make_archive(tmp_path / "s", kind, {**GOOD, "images/noise": os.urandom(9000)})
    data = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(data[: len(data) // 2])
    with pytest.raises(TrainerError) as e, channel.open_channel(tmp_path):
        pass
    assert e.value.code in ("E_CHANNEL_ARCHIVE", "E_SCENE_LAYOUT")


def test_stop_before_the_first_step_is_refused() -> None:
    stop = Stop()
    stop.refuse_if_asked("loading")
    stop._handle(signal.SIGTERM, None)
    with pytest.raises(TrainerError, match="SIGTERM came while loading"):
        stop.refuse_if_asked("loading")
