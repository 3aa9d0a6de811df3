"""How a run of `judge` ends: interrupted, on a full disk, as a part of the whole, cut short."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from splatgate import checklist, cli, summary, verdict
from splatgate.container.distribution import remedy
from splatgate.container.sweep import controller
from splatgate.evidence import BadInput, Header, files, read, write, write_bytes
from splatgate.judge.interrupts import Interrupts
from splatgate.paths import ROOT
from splatgate.record import Record, State, sealed
from splatgate.sources import resume
from splatgate.sources.run import PART, RUNS, Run

GOOD = ROOT / "tests" / "evidence" / "good"
JUDGE = [sys.executable, "-m", "splatgate", "judge", "--evidence", str(GOOD)]
RECORD = replace(read(GOOD / "record.json", Record), door="live")


@pytest.mark.parametrize(
    ("workers", "moment"),
    [("0", b""), ("0", b"[ 50%]"), ("2", b"[ 50%]"), ("0", b"verdict: ")],
    ids=["start", "middle", "middle-of-workers", "end"],
)
def test_an_interrupt_of_the_whole_group_is_in_the_record(tmp_path, workers, moment):
    run = subprocess.Popen(
        [*JUDGE, "--lane", "container", "-n", workers, "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = b""
    if not moment:
        # Past the interpreter's own start, whose interrupt is not ours to answer.
        while "SigBlk:\t0000000000004002" not in Path(f"/proc/{run.pid}/status").read_text():
            assert run.poll() is None
    while moment not in said:
        said += os.read(run.stdout.fileno(), 4096)
    # As a terminal does it, and again by somebody impatient.
    for _ in range(2):
        os.killpg(run.pid, signal.SIGINT)
    said += run.communicate(timeout=120)[0]
    assert run.returncode == 3, said.decode()
    assert read(tmp_path / "record.json", Record).interrupted
    assert b"Traceback" not in said
    assert b"nterrupted" in said.splitlines()[-1]


def test_only_the_first_interrupt_raises_and_none_while_a_run_ends():
    told = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        told._take(signal.SIGINT, None)
    told._take(signal.SIGINT, None)
    late = Interrupts()
    late.ending = True
    late._take(signal.SIGTERM, None)
    assert (told.seen, late.seen) == (True, True)


def judge_with(tmp_path, plugin):
    """The verb over good evidence, beside a plugin of pytest that spoils the run."""
    (tmp_path / "spoils.py").write_text(plugin)
    return subprocess.run(
        [*JUDGE, "--lane", "container", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTEST_PLUGINS": "spoils", "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_interrupt_in_text_that_is_run_is_answered_once(tmp_path):
    done = judge_with(tmp_path, "def pytest_runtestloop():\n    exec('raise KeyboardInterrupt')\n")
    assert done.returncode == 3
    assert read(tmp_path / "out" / "record.json", Record).interrupted


def test_an_engine_that_is_gone_is_said_once_and_ends_with_3(tmp_path):
    done = judge_with(
        tmp_path,
        "from splatgate.judge import session\n"
        "from splatgate.container.engine import EngineError\n"
        "def gone(run, say):\n"
        "    raise EngineError('the engine ended', 'start it again')\n"
        "session.open_door = gone\n",
    )
    assert done.returncode == 3, done.stderr
    assert "It could not be judged: the engine ended; start it" in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stdout + done.stderr


def run_in(out, door="live"):
    where = {name: out for name in ("out", "folder", "scratch", "scene", "source")}
    return Run(
        id="r", door=door, image=None, pushed=None, subject=None, request=None, quick=False,
        instance_types=(), given={}, controller=controller(), **where,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("there", "door", "whole", "beside"),
    [
        (None, "live", False, False),
        ({}, "live", True, False),
        ({}, "live", False, True),
        ({}, "recorded", True, True),
        ({"part": "lane gpu"}, "live", False, False),
        ({"interrupted": True}, "live", True, False),
        ({"interrupted": True}, "recorded", True, True),
        ({"door": "recorded"}, "recorded", False, True),
        ({"door": "recorded"}, "live", False, False),
    ],
)
def test_a_record_is_never_written_over_one_of_more_worth(tmp_path, there, door, whole, beside):
    if there is not None:
        write(tmp_path / "record.json", replace(RECORD, **there))
    placed = run_in(tmp_path, door).place(whole=whole)
    assert placed == (tmp_path / PART if beside else tmp_path)


def test_a_part_leaves_the_whole_alone_and_says_what_it_is(tmp_path):
    write(tmp_path / "record.json", replace(RECORD, door="recorded"))
    before = (tmp_path / "record.json").read_bytes()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "runtime_cuda", "tests/container"]
    done = subprocess.run(
        [*command, "--evidence", str(GOOD), "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (tmp_path / "record.json").read_bytes() == before, done.stdout
    part = read(tmp_path / PART / "record.json", Record)
    assert part.part == f"{len(part.checks)} chosen checks"
    cases = ElementTree.parse(tmp_path / PART / "junit.xml").getroot().iter("testcase")
    assert len(list(cases)) == len(part.checks) < len(RECORD.checks)
    assert done.stdout.splitlines()[-1].startswith("verdict: partial. ")


def cut_short(tmp_path, **changes):
    """Evidence of an interrupted run, and the run that may go on from it."""
    shutil.copytree(GOOD, tmp_path / "evidence")
    write(tmp_path / "record.json", replace(RECORD, interrupted=True))
    run = replace(run_in(tmp_path), folder=tmp_path / RUNS / "now", **changes)
    return run, read(GOOD / "evidence.json", Header)


def test_jobs_of_a_run_that_was_cut_short_are_taken_over_once_whole(tmp_path):
    run, header = cut_short(tmp_path)
    jobs = tmp_path / "evidence" / "jobs"
    smoke, truth = next(jobs.glob("smoke-*")), next(jobs.glob("truth-*"))
    (smoke / "model" / "metrics.json").write_text("{}")
    (truth / "log.txt").unlink()
    said = []
    taken = resume.take_over(run, replace(header, run="now", created="9"), said.append)
    found = {path.name for path in (run.folder / "jobs").iterdir()}
    expected = {job.key for job in RECORD.jobs if job.status != "Stopped"}
    kept = {p.parent.name for p in jobs.glob("*/log.txt")}
    assert found == {k for k in expected & kept if resume.complete(jobs / k, header)}
    assert not {smoke.name, truth.name} & found
    assert len(found) > 10
    assert (taken.run, taken.created) == ("now", header.created)
    assert said == [
        f"taking over {len(found)} jobs of a run that was cut short (--fresh runs all anew)"
    ]


@pytest.mark.parametrize(
    "change",
    [{"image_id": "sha256:other"}, {"scene": "other"}, {"extra": {resume.SUITE: "other"}}],
    ids=["image", "scene", "suite"],
)
def test_jobs_of_another_image_scene_or_suite_are_not(tmp_path, change):
    run, header = cut_short(tmp_path)
    resume.take_over(run, replace(header, **change), pytest.fail)
    assert not (run.folder / "jobs").exists()


def test_jobs_of_a_run_that_reached_its_end_are_not(tmp_path):
    run, header = cut_short(tmp_path)
    write(tmp_path / "record.json", RECORD)
    resume.take_over(run, header, pytest.fail)


def test_fresh_takes_over_nothing(tmp_path):
    run, header = cut_short(tmp_path, fresh=True)
    resume.take_over(run, header, pytest.fail)


def test_evidence_of_a_killed_run_is_found(tmp_path):
    host, pid, _ = controller().rsplit(":", 2)
    for name in (f"{host}:{pid}:1.dead", f"{controller()}.alive"):
        (tmp_path / RUNS / name).mkdir(parents=True)
    assert [path.name for path in resume.cut_short(tmp_path)] == [f"{host}:{pid}:1.dead"]


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match=r"file/record.json: .*; give another folder"):
        write_bytes(tmp_path / "file" / "record.json", b"x")
    assert files.unwritable(OSError(28, "No space left on device")) == (
        "No space left on device; free some disk space"
    )


def test_a_verb_that_cannot_write_exits_3(tmp_path, monkeypatch, capsys):
    def full(argv):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "stop_engine", full)
    assert cli.main(["stop-engine"]) == 3
    assert capsys.readouterr().err == (
        "splatgate stop-engine: No space left on device; free some disk space\n"
    )


class Lines:
    """A terminal of a width."""

    def __init__(self, width):
        self.fullwidth, self.text = width, ""

    def section(self, title, **_):
        self.text += f"{title}\n"

    def write(self, text, **_):
        self.text += text

    def write_line(self, line, **_):
        self.text += f"{line}\n"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_but_a_command_is_wider_than_the_terminal(width):
    out = Lines(width)
    summary.write(out, RECORD, checklist.load(), Path("build"))
    long = [line for line in out.text.splitlines() if len(line) > width]
    assert all(line.startswith("verdict: ") or " " not in line.strip() for line in long)


def test_each_line_says_its_own_reason():
    out = Lines(200)
    summary.write(out, RECORD, checklist.load(), Path("build"))
    assert ", as test_" not in out.text
    lines = out.text.splitlines()
    at = next(n for n, line in enumerate(lines) if "[runtime.cuda]" in line)
    assert "no GPU on this machine" in lines[at + 1]


def ended(**changes):
    record = sealed(replace(RECORD, **changes))
    return summary.next_step(record, checklist.load())


def failed(item):
    states = dict(RECORD.items)
    states[item] = replace(states[item], state=State.FAILED)
    return {"items": states, "verdict": verdict.NON_CONFORMANT}


@pytest.mark.parametrize(
    ("changes", "why", "then"),
    [
        ({}, "The gpu lane is missing", "on a GPU machine: "),
        ({"interrupted": True}, "Interrupted after ", "the same command goes on from the 31 jobs"),
        (failed("runtime.cuda"), "runtime.cuda failed", "mend it as said above, then: "),
        ({"door": "recorded"}, "Recorded evidence", "make test-image"),
        ({"part": "lane gpu"}, "Only a part was judged (lane gpu)", "make test-image"),
        ({"verdict": verdict.CONFORMANT}, "Every line holds", "make gate"),
        ({"checks": ()}, "It could not be judged", "then: "),
        (
            {"checks": (replace(RECORD.checks[0], error=True, reason="no disk"),)},
            "It could not be judged: no disk",
            "then: ",
        ),
    ],
    ids=["laptop", "interrupted", "failed", "replay", "part", "conformant", "nothing", "error"],
)
def test_the_last_line_says_why_and_what_next(changes, why, then):
    found = ended(**changes)
    assert found[0].startswith(why)
    assert then in found[1]


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        ("dial tcp 127.0.0.1:5000: connect: connection refused", "check host and network"),
        ("dial tcp: lookup registry.example: no such host", "check host and network"),
        ("denied: requested access to the resource is denied", "docker login registry.example"),
        ("no basic auth credentials", "docker login registry.example"),
        ("401 UNAUTHORIZED: authentication required", "docker login registry.example"),
        ("manifest invalid", "look at the registry"),
    ],
)
def test_a_login_helps_only_who_is_refused(said, helps):
    assert remedy(said, "registry.example") == helps


def test_each_lock_is_kept(tmp_path):
    locks = [tmp_path / name / "requirements.txt" for name in "ab"]
    values = {"--lock": [str(path) for path in locks], "--out": "build", "--instance-type": []}
    config = SimpleNamespace(
        getoption=values.get, invocation_params=SimpleNamespace(dir=tmp_path), option=None
    )
    assert Run.of(config).given == {
        "lock/given.txt": locks[0].resolve(),
        "lock/given-1.txt": locks[1].resolve(),
    }
    assert json.loads(json.dumps(Run.of(config).to_builtins()))["given"]
