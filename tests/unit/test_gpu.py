"""The gpu lane's judgement on constructed evidence, each of its faults, and what its eyes see."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from splatgate.evidence import Header, Job, Limits, LogLine, Machine, Origin, Use, read, write
from splatgate.judge.in_process import Fixtures, judged
from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.proof import catalogue, report
from splatgate.proof.bench import remember
from splatgate.record import Record, State
from splatgate.sagemaker import process
from splatgate.sagemaker.channels import tree_hash
from splatgate.sagemaker.request import smoke_request
from splatgate.sagemaker.result import ending
from splatgate.scene.splats import write_splats
from splatgate.scene.truth import SplatsVerdict
from splatgate.sources import process as device
from splatgate.sources.recorded import Recorded

from .test_splats import make_splats

FAULTS = ROOT / "tests" / "faults"
GPU = "NVIDIA H100 80GB HBM3, 9.0, 580.159.04, 81559 MiB, 345 MHz, 1980 MHz"
VIEWS = [{"name": "a.jpg", "width": 64, "height": 48}]
#: Of each whole training: its PSNR, dB, and by how much it is better than the best trivial answer.
QUALITY = {"scene": (18.9, 4.0), "banana": (27.9, 9.0), "shuffled": (11.0, -1.0)}
#: Of the judged, by a source or a .ply that is really trained alone: their faults need a GPU.
ELSEWHERE = {
    "test_job_trains_on_the_machines_gpu",
    "test_trains_on_the_gpu",
    "test_ply_is_sound",
    "test_quality_is_not_below_the_baseline",
    "test_passes_over_the_tiles_agree",
    "test_update_is_the_references_adam",
}


class Constructed(Recorded):
    """Evidence of a GPU as it would be, a job at a time as it is asked for."""

    def job(self, spec):
        key = self.job_key(spec)
        folder = self.folder / "jobs" / key
        if not folder.exists():
            self._write(spec, key, folder)
        return super().job(spec)

    def _write(self, spec, key, folder):
        starved, stopped = spec.name == "gpu-starved", spec.stop_on is not None
        log = ["step=100 loss=0.1 psnr=20 gaussians=9 it_per_s=900"] * 3
        log += ["warning: memory ran out at step 900"] if spec.name == "gpu-short" else []
        data = {
            "scene": self.header.scene,
            "banana": tree_hash(ROOT / "tests" / "scenes" / "banana"),
        }
        failure = "E_OOM: memory ran out" if starved else None
        end = ending(int(starved), "StopTrainingJob" if stopped else None, failure)
        if not starved:
            (folder / "model").mkdir(parents=True)
            write_splats(folder / "model" / "point_cloud.ply", make_splats(9, seed=len(spec.data)))
            self._metrics(spec, folder / "model" / "metrics.json")
        write(folder / "gpu.json", Use(4 * 2**20, 4 * 2**20))
        request = self.request(spec)
        job = Job(
            key=key,
            name=request.name,
            image_id="",
            request=dict(request.raw),
            channels={"training": data.get(spec.data, spec.data)},
            status=end.status,
            secondary_status=end.secondary,
            failure_reason=end.reason,
            exit=int(starved),
            oom=False,
            ended_by="StopTrainingJob" if stopped else None,
            stop_seconds=0.4 if stopped else None,
            command=("python", "train"),
            limits_asked=Limits(),
            limits_applied=Limits(),
            phases={"Training": 9.0},
            log=tuple(LogLine(5.0 + n, "stdout", text) for n, text in enumerate(log)),
            failure=failure,
            env_names=(),
            members=tuple(process.members(folder / "model")) if not starved else (),
            output_members=(),
            checkpoint_members=(),
            writes_outside=(),
            origin=Origin.GPU,
        )
        write(folder / "job.json", job)

    def _metrics(self, spec, path):
        psnr, _ = QUALITY[spec.data]
        found = {
            "psnr": psnr,
            "views": VIEWS,
            "device_name": GPU.split(", ")[0],
            "projected_seconds": 9.0,
            "peak_gpu_bytes": 200_000_000,
            "gpu_memory_needed_bytes": 300_000_000,
        }
        path.write_text(json.dumps(found))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Constructed evidence of a good trainer on a GPU, what is known of it, and its record."""
    folder = tmp_path_factory.mktemp("gpu")
    shutil.copyfile(ROOT / "image" / "subject.toml", folder / "subject.toml")
    errors = {"means": 1e-6, "quats": 1e-6}
    case = {"case": "one", "rasteriser": "own", "image": 1e-6, "gradients": errors, "finite": True}
    case |= {"autograd_gsplat": {"image": 1e-6, "gradients": errors}, "mismatches": 0, "dropped": 0}
    kernels = {
        "schema": "splatgate-trainer/kernels/1",
        "cuda": "13.0",
        "cases": [case],
        "adam": {"own": {"means": 1e-4}},
        "memory": {"after_first": 9, "after_second": 9},
        "shortage": {"raised": True, "count_kept": True, "finite_after": True},
    }
    write(folder / "gpu" / "kernels.json", kernels)
    header = Header("r", None, "2026-01-01T00:00:00", Machine(gpu=GPU), tree_hash(DEFAULT_SCENE))
    write(folder / "evidence.json", replace(header, scene_name=DEFAULT_SCENE.name))
    source = Constructed(folder, DEFAULT_SCENE)
    fixtures = Fixtures(source)
    known = {}
    for data, (psnr, margin) in QUALITY.items():
        found = fixtures.getfixturevalue("trained_on")(data)
        path = source.scene_of(found.job)
        digest = hashlib.sha256(found.ply.read_bytes()).hexdigest()
        views = [tuple(VIEWS[0].values())]
        known[f"gpu measured {digest} {views} {path}"] = SplatsVerdict(
            9, layout_ok=True, logits_ok=True, psnr=psnr, margin=margin
        )
    for name in ("gpu_stopped", "gpu_capped", "gpu_short", "gpu_starved"):
        fixtures.getfixturevalue(name)
    return folder, known, judged(folder, DEFAULT_SCENE, known, ("gpu",))


def test_good_evidence_passes_every_check_but_the_declared_gpus(good):
    assert {c.name: (c.state, c.reason) for c in good[2].checks if c.state != State.PASSED} == {
        "test_projected_time_fits_the_request": (
            State.NOT_VERIFIED,
            "9 s projected on NVIDIA H100 80GB HBM3; declared is ml.g4dn.xlarge (T4)",
        )
    }


OF_EVIDENCE = {
    name: fault
    for name, fault in catalogue.load(FAULTS).items()
    if fault.lane == "gpu" and fault.of_evidence
}


def spoilt(name, good, tmp_path):
    folder, known, before = good
    work = shutil.copytree(folder, tmp_path / "evidence")
    catalogue.spoil(OF_EVIDENCE[name], FAULTS / name, work)
    remember(OF_EVIDENCE[name].kind, work)
    return judged(work, DEFAULT_SCENE, dict(known), ("gpu",)), before


@pytest.mark.parametrize("name", OF_EVIDENCE)
def test_each_fault_is_caught_by_one_check_alone(name, good, tmp_path):
    record, before = spoilt(name, good, tmp_path)
    found = report.weigh(name, OF_EVIDENCE[name], record, before)
    failed = {c.name for c in record.checks if c.state == State.FAILED}
    assert (found.status, found.collateral, len(failed)) == ("caught", (), 1), (found, failed)


def test_every_check_of_the_lane_has_a_fault(good, tmp_path):
    caught = set()
    for name in OF_EVIDENCE:
        record, _ = spoilt(name, good, tmp_path / name)
        caught |= {c.name for c in record.checks if c.state == State.FAILED}
    assert {c.name for c in good[2].checks} == caught | ELSEWHERE
    assert not caught & ELSEWHERE


def test_a_ply_that_was_not_kept_is_not_verified(good, tmp_path):
    folder, _, _ = good
    work = shutil.copytree(folder, tmp_path / "evidence")
    for path in work.glob("jobs/*/model/point_cloud.ply"):
        path.unlink()
    record = judged(work, DEFAULT_SCENE, {}, ("gpu",))
    silent = {c.name for c in record.checks if c.state != State.PASSED}
    assert silent == {
        *("test_ply_is_sound", "test_reported_quality_is_the_artefacts"),
        *("test_quality_is_not_below_the_baseline", "test_projected_time_fits_the_request"),
        "test_quality_collapses_when_photos_are_shuffled",
    }
    assert not [c for c in record.checks if c.error]


def test_an_allocator_that_takes_no_limit_is_not_verified(good, tmp_path):
    folder, known, _ = good
    work = shutil.copytree(folder, tmp_path / "evidence")
    (path,) = work.glob("jobs/gpu-capped-*/job.json")
    job = read(path, Job)
    line = LogLine(3.0, "stdout", "RuntimeError: Unrecognized CachingAllocator option: per_process")
    end = ending(1, None, "E_INTERNAL")
    told = replace(job, exit=1, failure="E_INTERNAL", log=(*job.log, line), status=end.status)
    write(path, replace(told, secondary_status=end.secondary, failure_reason=end.reason))
    record = judged(work, DEFAULT_SCENE, known, ("gpu",))
    capped = next(c for c in record.checks if c.name == "test_trains_in_the_declared_gpus_memory")
    assert capped.state == State.NOT_VERIFIED
    assert "takes no limit" in capped.reason


def test_a_job_that_need_not_give_way_must_name_memory(good, tmp_path):
    """Another team's trainer may end where memory runs out, if it says why."""
    folder, known, _ = good
    states = {}
    for failure in ("CUDA out of memory", "illegal address"):
        work = shutil.copytree(folder, tmp_path / failure)
        subject = work / "subject.toml"
        subject.write_text(subject.read_text().replace("gives_way = true", "gives_way = false"))
        for path in work.glob("jobs/gpu-short-*/job.json"):
            end = ending(1, None, failure)
            job = replace(read(path, Job), exit=1, failure=failure, status=end.status)
            write(path, replace(job, secondary_status=end.secondary, failure_reason=end.reason))
        record = judged(work, DEFAULT_SCENE, known, ("gpu",))
        states[failure] = next(
            c.state for c in record.checks if c.name == "test_shortage_of_gpu_memory_is_told"
        )
    assert states == {"CUDA out of memory": State.PASSED, "illegal address": State.FAILED}


SCRIPT = """
import os, pathlib, sys
home, base = pathlib.Path.home(), pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
assert not list(home.iterdir()) and "SECRET" not in os.environ
(home / ".nv").mkdir()
(home / ".nv" / "index").write_text("x")
pathlib.Path(os.environ["TMPDIR"], "scratch").write_text("x")
(base / "model" / "m").write_text("x")
print(sys.argv[1])
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """An nvidia-smi that tells of a GPU on which each look finds 1 GB more in use."""
    path = tmp_path / "bin" / "nvidia-smi"
    path.parent.mkdir()
    path.write_text(
        f"#!/bin/sh\ncd {tmp_path}; echo x >> looks\n"
        f'case "$*" in *memory.used*) echo "$(wc -l < looks)000 MiB";; *) echo "{GPU}";; esac\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


def test_the_process_runtime_sees_what_a_job_leaves(tmp_path, monkeypatch, smi):
    monkeypatch.setenv("SECRET", "1")
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "a").write_text("a")
    folder = tmp_path / "jobs" / "k"
    with device.watched(folder):
        job = process.run(
            *(tmp_path / "train.py", smoke_request(), tmp_path / "scene", folder),
            key="k",
            deadline=60,
            say=lambda line: None,
        )
    assert (job.status, job.text) == ("Completed", "train")
    assert job.writes_outside == ("~/.nv/index", "/tmp/scratch")
    assert [m.path for m in job.members] == ["m"]
    assert job.command == (Path(sys.executable).name, "train.py", "train")
    assert str(tmp_path) not in (folder / "job.json").read_text()
    used = read(folder / "gpu.json", Use)
    assert (used.before, used.after) == (1000 * 2**20, 2000 * 2**20)


def test_without_nvidia_smi_there_is_no_gpu(monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert device.gpu() is None
    assert device.memory_used() is None


def test_evidence_is_bound_to_the_sources_and_to_what_was_compiled(tmp_path):
    for name in ("trainer/a.py", "kernels/step.so", "tests/t.py", "trainer/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = device.source_hash(tmp_path)
    (tmp_path / "trainer" / "__pycache__" / "a.pyc").write_text("2")
    (tmp_path / "tests" / "t.py").write_text("2")
    assert device.source_hash(tmp_path) == before
    (tmp_path / "kernels" / "step.so").write_text("2")
    assert device.source_hash(tmp_path) != before


def judge(evidence, out):
    command = [sys.executable, "-m", "splatgate", "judge", "--lane", "gpu"]
    done = subprocess.run(
        [*command, "--evidence", str(evidence), "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (out / "record.json").exists(), done.stderr
    return read(out / "record.json", Record)


def test_a_record_says_what_it_was_seen_on_and_is_bound_to(good, tmp_path):
    work = shutil.copytree(good[0], tmp_path / "evidence")
    for path in work.glob("jobs/*/model/point_cloud.ply"):
        path.unlink()
    header = read(work / "evidence.json", Header)
    bound = {"runtime": "process", device.SOURCE: "abc"}
    write(work / "evidence.json", replace(header, extra=bound))
    found = judge(work, tmp_path / "out")
    assert (found.image.ref, found.image.source_sha256) == (None, "abc")
    assert found.machine == Machine(gpu=GPU, cuda="13.0", runtime="process")
    assert {c.supporting for c in found.checks} == {True}


@pytest.mark.skipif(not catalogue.RECORDED_GPU.exists(), reason="no GPU was recorded yet")
def test_what_a_gpu_machine_saw_is_judged_alike_without_one(tmp_path):
    """All but what needs the .ply, which is too large to be kept."""
    seen = read(catalogue.RECORDED_GPU / "record.json", Record)
    found = judge(catalogue.RECORDED_GPU, tmp_path)
    kept = [c.node for c in found.checks if "was not kept" not in c.reason and not c.blocked_by]
    states = {c.node: c.state for c in seen.checks}
    assert {c.node: c.state for c in found.checks if c.node in kept} == {n: states[n] for n in kept}
    assert len(kept) > len(states) / 2
