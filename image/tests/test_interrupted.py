"""Killed at any moment, started again: it resumes, ends alike, and nothing half-written is seen."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import configure, make_job, metrics, run, run_to
from trainer import checkpoint, export

WRITING = ("open", "write", "fsync", "rename")
#: Point, and the step that the next start resumes from (checkpoints come at steps 5 and 10).
POINTS = [
    ("phase.photos", 0),
    ("start", 0),
    ("step:3", 0),
    ("step:8", 5),
    *((f"checkpoint.pt.{moment}:2", 10 if moment == "rename" else 5) for moment in WRITING),
    *((f"point_cloud.ply.{moment}", 10) for moment in WRITING),
    ("phase.evaluate", 10),
    *((f"metrics.json.{moment}", 10) for moment in WRITING),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that nothing interrupted."""
    base = make_job(tmp_path_factory.mktemp("whole"))
    assert run(base) == 0
    return base


@pytest.mark.parametrize(("point", "resumes"), POINTS, ids=[p for p, _ in POINTS])
def test_killed_and_started_again_ends_alike(
    whole: Path, tmp_path: Path, point: str, resumes: int
) -> None:
    shutil.copytree(whole / "input", tmp_path / "input")
    # A fork server that has PyTorch loaded saves each start its seconds.
    spawn = multiprocessing.get_context("forkserver")
    spawn.set_forkserver_preload(["small", "trainer.train"])
    killed = spawn.Process(target=run_to, args=(tmp_path, point))
    killed.start()
    killed.join(300)
    assert killed.exitcode == -signal.SIGKILL
    see_only_whole_files(tmp_path)
    assert run(tmp_path) == 0
    see_only_whole_files(tmp_path)
    found = metrics(tmp_path)
    assert (found["resumed_from"] or 0) == resumes
    assert found["steps"] == metrics(whole)["steps"]
    # The CPU's sums are repeatable: what is left is float32 noise.
    assert found["psnr"] == pytest.approx(metrics(whole)["psnr"], abs=1e-3)


def see_only_whole_files(base: Path) -> None:
    """Every file in model and checkpoints can be read to its end."""
    for folder in ("model", "checkpoints"):
        for path in (base / folder).glob("*"):
            if path.suffix == ".ply":
                export.read_ply(path)
            elif path.name == "checkpoint.pt":
                torch.load(path, weights_only=True)
            else:
                assert path.name in ("metrics.json", "training_config.json")
                assert path.read_text().endswith("}")


def test_state_of_the_optimiser_is_resumed(whole: Path) -> None:
    found = torch.load(whole / "checkpoints/checkpoint.pt", weights_only=True)
    assert found["step"] == 10
    assert set(found["moments"]) == {"means", "quats", "scales", "opacities", "sh0", "shN"}
    assert float(found["moments"]["means"]["step"]) == 10
    assert found["moments"]["means"]["exp_avg"].any()


def test_resumes_before_the_first_gradient_of_a_tensor(tmp_path: Path) -> None:
    """Colour above degree 0 has no moments until its degree is in use."""
    base = make_job(tmp_path, max_iterations=6, sh_every=1000, eval_every=0)
    assert run(base) == 0
    assert run(base) == 0
    assert metrics(base)["resumed_from"] == 5


def test_foreign_checkpoint_is_ignored_with_a_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    configure(tmp_path, seed=5)
    assert run(tmp_path) == 0
    assert "belongs to another scene or configuration" in capsys.readouterr().out
    assert metrics(tmp_path)["resumed_from"] is None


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_checkpoint_is_ignored_or_whole(whole: Path, data: st.DataObject) -> None:
    """Cut short, or with a flipped bit: it is refused, or what it holds is what was saved."""
    path = whole / "checkpoints/checkpoint.pt"
    good = path.read_bytes()
    saved = torch.load(path, weights_only=True)
    store = checkpoint.Checkpoints(path.parent, 5, saved["fingerprint"])
    broken = bytearray(good[: data.draw(st.integers(0, len(good)) | st.just(len(good)))])
    if broken:
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(bytes(broken))
        found = store.load(torch.device("cpu"))
    finally:
        path.write_bytes(good)
    if found is not None:
        assert found["step"] == saved["step"]
        assert all(torch.equal(found["values"][n], v) for n, v in saved["values"].items())


@pytest.mark.parametrize("moment", ["open", "write"])
def test_full_disk_costs_a_checkpoint_not_the_job(
    tmp_path: Path, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_job(tmp_path, max_iterations=6)
    assert run_to(base, f"checkpoint.pt.{moment}=full") == 0
    assert "warning: no checkpoint at step 5: No space left" in capsys.readouterr().out
    assert not list((base / "checkpoints").iterdir())
