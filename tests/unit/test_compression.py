"""The compressor's lock, its installation's refusals, and what a recording of it is worth."""

import json
import re
import subprocess

import pytest

from splatgate.evidence import Compression, ToolRun, write
from splatgate.evidence.missing import NotVerified
from splatgate.expectations import COMPRESSOR, FORMATS, READ_BACK
from splatgate.sagemaker import compression
from splatgate.sources.recorded import Recorded

from .test_splats import make_splats


@pytest.fixture
def job(tmp_path):
    """A job's folder with a model of one .ply."""
    model = tmp_path / "jobs" / "truth-0" / "model"
    model.mkdir(parents=True)
    (model / "point_cloud.ply").write_bytes(b"ply\n")
    (model / "metrics.json").write_bytes(b"{}")
    return model.parent


@pytest.fixture
def tool(tmp_path):
    """A tool that copies its input, or fails as the real one does when that says so."""
    script = tmp_path / "tool.sh"
    script.write_text(
        "for last; do source=$target; target=$last; done\n"
        'if grep -q broken "$source"; then\n'
        "  printf '    ✗ Error: invalid ply header\\n    at read (file:///a/cli.mjs:1:2)\\n' >&2\n"
        "  exit 1\n"
        "fi\n"
        'cp "$source" "$target"\n'
    )
    return compression.Tool(("sh", str(script)), "2.7.1", "20.0.0")


def test_the_lock_pins_one_version_and_names_no_registry():
    package = json.loads((compression.LOCKED / "package.json").read_text())
    text = (compression.LOCKED / "package-lock.json").read_text()
    locked = json.loads(text)["packages"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", package["dependencies"][COMPRESSOR])
    pinned = locked[f"node_modules/{COMPRESSOR}"]["version"]
    assert pinned == package["dependencies"][COMPRESSOR]
    assert all("integrity" in entry for name, entry in locked.items() if name)
    assert "http" not in text


def test_without_node_nothing_is_verified(monkeypatch):
    monkeypatch.setattr(compression.shutil, "which", lambda name: None)
    with pytest.raises(NotVerified, match="no Node"):
        compression.install(print)


def test_an_old_node_is_refused(monkeypatch):
    monkeypatch.setattr(compression.shutil, "which", lambda name: name)
    monkeypatch.setattr(compression, "_output", lambda command: "v16.20.0")
    with pytest.raises(NotVerified, match=r"Node 16\.20\.0: 18 or newer"):
        compression.install(print)


def test_a_registry_out_of_reach_is_one_line(monkeypatch, tmp_path):
    def fails(command, **options):
        said = "npm error code ENOTFOUND\nnpm error network x\nnpm error A complete log of this"
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(compression.subprocess, "run", fails)
    with pytest.raises(NotVerified, match=r"cannot be installed.*ENOTFOUND") as caught:
        compression._npm(["npm"], tmp_path)
    assert "\n" not in str(caught.value)


def test_every_format_is_written_and_one_is_read_back(job, tool):
    found = compression.compress(tool, job)
    assert [r.exit for r in found.runs] == [0] * (len(FORMATS) + 1)
    assert found.runs[-1].source == f"point_cloud.{READ_BACK}"
    assert {m.path for m in found.files} == {
        *(f"point_cloud.{form}" for form in FORMATS),
        compression.ROUND_TRIP,
    }
    assert [m.path for m in found.found] == ["point_cloud.ply"]


def test_what_it_said_is_kept_without_stack_and_paths(job, tool):
    (job / "model" / "point_cloud.ply").write_bytes(b"broken")
    found = compression.compress(tool, job)
    assert [r.exit for r in found.runs] == [1] * len(FORMATS)
    assert {r.stderr for r in found.runs} == {"✗ Error: invalid ply header"}
    assert found.files == ()


@pytest.mark.parametrize("more", [True, False], ids=["two", "none"])
def test_the_finder_takes_only_what_is_alone(job, tool, more):
    path = job / "model" / "point_cloud.ply"
    if more:
        (job / "model" / "input.ply").write_bytes(b"ply\n")
    else:
        path.rename(job / "model" / "model.splat")
    found = compression.compress(tool, job)
    assert (len(found.found), found.runs, found.files) == (2 if more else 0, (), ())


def test_a_recording_speaks_of_the_model_that_was_compressed(job, tool, tmp_path):
    class Named:
        key = "truth-0"

    write(tmp_path / "evidence.json", {})
    compression.compress(tool, job)
    source = Recorded(tmp_path, tmp_path)
    assert len(source.compressed(Named).runs) == len(FORMATS) + 1
    (job / "model" / "point_cloud.ply").write_bytes(b"ply\nanother")
    with pytest.raises(NotVerified, match="another than the one compressed"):
        source.compressed(Named)


def test_splats_are_read_back_in_the_tools_order(tmp_path):
    import numpy as np

    from splatgate.evidence import BadInput
    from splatgate.scene.splats import read_splats, write_splats

    splats = make_splats(count=9)
    write_splats(tmp_path / "a.ply", splats)
    header, end, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    lines = header.splitlines(keepends=True)
    table = np.frombuffer(body, "<f4").reshape(9, -1)
    lines[3:], table = lines[:2:-1], table[:, ::-1]
    (tmp_path / "b.ply").write_bytes(b"".join(lines) + end + table.tobytes())
    back = read_splats(tmp_path / "b.ply", any_order=True)
    np.testing.assert_array_equal(back.shN, splats.shN)
    np.testing.assert_array_equal(back.quats, splats.quats)
    with pytest.raises(BadInput, match="out of order"):
        read_splats(tmp_path / "b.ply")


def test_records_are_read_back():
    from splatgate.evidence import from_json, to_json

    record = Compression("t", "1", "20", (), (ToolRun("a", "b", 0, "", 0.1),), ())
    assert from_json(to_json(record), Compression, "here") == record


def test_the_finder_takes_the_model_among_decoys(job):
    for decoy in ("point_cloud.ply.tmp", ".half.ply", "._point_cloud.ply", "input.PLY.txt"):
        (job / "model" / decoy).write_bytes(b"ply\n")
    for folder in ("point_cloud/iteration_7000", "checkpoints", "folder.ply"):
        (job / "model" / folder).mkdir(parents=True)
        (job / "model" / folder / "point_cloud.ply").write_bytes(b"ply\n")
    assert [member.path for member in compression.archived(job)] == ["point_cloud.ply"]
