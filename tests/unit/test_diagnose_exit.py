"""Nothing that must not be shared leaves, nothing that a reader would obey, from any bundle."""

import json
import os
import random
import re
import string
import time
import tracemalloc
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splatgate.diagnose import cli, files, reader
from splatgate.diagnose.explain import explain
from splatgate.diagnose.kinds import kinds
from splatgate.diagnose.load import load
from splatgate.diagnose.redact import FORMS, Redactor, prose, stripped
from splatgate.evidence import BadInput
from tests.unit.bundles import TABLE, training

ALPHABET = string.ascii_letters + string.digits
LAST = "RuntimeError: No CUDA GPUs are available"


def word(length, alphabet=ALPHABET, seed=0):
    return "".join(random.Random(length + seed).choices(alphabet, k=length))


HEX = "0123456789abcdef"
B64 = word(64, ALPHABET + "+/")
#: What must not be seen, by maker, and a line that a log or a request may hold it in.
SECRETS = {
    "account": ("738201946652", "arn:aws:iam::738201946652:role/train"),
    "aws-id": ("AKIA" + word(16, string.ascii_uppercase), "credentials {}"),
    "aws-secret": (word(40, ALPHABET + "/+"), "AWS_SECRET_ACCESS_KEY={}"),
    "aws-session": ("IQoJb3JpZ2lu" + word(120), "token {}"),
    "presigned": (
        word(64, HEX),
        "GET https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature={}",
    ),
    "github": ("ghp_" + word(36), "https://x-access-token:{}@github.com/a/b.git"),
    "github-fine": ("github_pat_" + word(70), "remote {}"),
    "gitlab": ("glpat-" + word(20), "clone with {}"),
    "hugging-face": ("hf_" + word(34), "HF_TOKEN={}"),
    "wandb": (word(40, HEX), "WANDB_API_KEY: {}"),
    "openai": ("sk-proj-" + word(48), "key {}"),
    "slack": ("xoxb-" + word(24, string.digits + "-"), "notify {}"),
    "google": ("AIza" + word(35), "maps {}"),
    "stripe": ("sk_live_" + word(24), "billing {}"),
    "sendgrid": ("SG." + word(22) + "." + word(43), "mail {}"),
    "npm": ("npm_" + word(36), "//registry.npmjs.org/:_authToken={}"),
    "pypi": ("pypi-AgEI" + word(60), "twine {}"),
    "docker": ("dckr_pat_" + word(27), "docker login -u me --password {}"),
    "databricks": ("dapi" + word(32, HEX), "spark {}"),
    "vault": ("hvs." + word(28), "vault {}"),
    "nvidia": ("nvapi-" + word(64), "ngc {}"),
    "jwt": ("eyJhbGciOiJIUzI1NiJ9." + word(30) + "." + word(43), "cookie {}"),
    "bearer": (word(30, string.ascii_lowercase), "Authorization: Bearer {}"),
    "azure": (word(86) + "==", "DefaultEndpointsProtocol=https;AccountKey={}"),
    "password": ("hunter2hunter2", "postgres://me:{}@db.internal/x"),
    "named": ("open-sesame-please", "DB_PASSWORD={}"),
    "pem": (B64, "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----"),
    "mail": ("jane.roe@customer-site.example", "requested by {}"),
    "ip": ("203.0.113.77", "connect to {} failed"),
    "place": ("47.620506", "GPSLatitude: {}"),
}


def folder_of(tmp_path):
    """A folder bundle whose every line of evidence holds a secret."""
    job = training(TABLE["K18"])
    job["Environment"] = {f"{n}_token".upper(): value for n, (value, _) in SECRETS.items()}
    job["HyperParameters"] = {n: line.replace("{}", v) for n, (v, line) in SECRETS.items()}
    lines = [line.replace("{}", value) for value, line in SECRETS.values()]
    job["FailureReason"] = "AlgorithmError: " + " ".join(lines)[:900]
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    told = [f"RuntimeError: {line}" for line in lines]
    (folder / "run.log").write_text("\n".join([*lines, *told, LAST, *lines[-5:], ""]))
    return folder, lines


def diagnosed(tmp_path, capsys, folder, *options):
    out = tmp_path / "out"
    assert cli.main([str(folder), "--json", "--out", str(out), *options]) == 0
    said = capsys.readouterr()
    kept = {p.name: p.read_text() for p in out.iterdir() if p.is_file()}
    return {"screen": said.err, "json": said.out, **kept}


def test_no_secret_of_a_folder_reaches_any_output(tmp_path, capsys):
    folder, _ = folder_of(tmp_path)
    outputs = diagnosed(tmp_path, capsys, folder)
    assert set(outputs) == {"screen", "json", "incident.md", "request.json"}
    leaks = [(n, where) for n, (v, _) in SECRETS.items() for where, t in outputs.items() if v in t]
    assert leaks == []


@pytest.mark.parametrize("before", range(330, 400, 7))
def test_a_secret_that_a_quote_would_cut_is_not_half_told(tmp_path, capsys, before):
    token = "ghp_" + word(36)
    line = f"RuntimeError: {'word ' * 80}"[:before].ljust(before, ".") + f" {token} refused"
    (tmp_path / "run.log").write_text(line)
    for told in diagnosed(tmp_path, capsys, tmp_path / "run.log").values():
        assert token[:12] not in told


def test_what_was_not_redacted_says_so(tmp_path, capsys):
    folder, _ = folder_of(tmp_path)
    outputs = diagnosed(tmp_path, capsys, folder, "--no-redact")
    assert "Not redacted" in outputs["incident.md"]
    assert json.loads(outputs["json"])["redacted"] is False


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_taken_out_of_its_line(name):
    value, line = SECRETS[name]
    assert value not in Redactor()(line.replace("{}", value))


@pytest.mark.parametrize(
    "line",
    [
        "ImportError: /opt/x.so: undefined symbol: _ZN3c1017RegisterOperatorsD1Ev",
        "KeyError: 'checkpoint_interval'",
        "step=100 loss=0.21334 psnr=15.91 gaussians=230000 it_per_s=31.2",
        "NVIDIA-SMI 550.163.01 Driver Version: 550.163.01 CUDA Version: 12.4",
        "FileNotFoundError: '/opt/ml/input/data/training/sparse/0/cameras.bin'",
        f"image repo@sha256:{word(64, HEX)}",
        "job ml-job-20251118-190812-3dgs began 2025-11-18T21:08:40Z",
    ],
)
def test_evidence_is_left_as_it_is(line):
    assert Redactor()(line) == line


def test_nothing_that_a_terminal_or_a_renderer_obeys_leaves(tmp_path, capsys):
    hostile = (
        "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\ \u202eabc "
        "<script>alert(1)</script> ![x](http://evil/t.png) [go](javascript:alert(1)) ``` "
    )
    job = training({"status": "Failed", "reason": f"AlgorithmError: boom\n# Resolved\n{hostile}"})
    job["TrainingJobName"] = f"scan{hostile}"
    (tmp_path / "job.json").write_text(json.dumps(job))
    (tmp_path / "run.log").write_text(f"ok\n{LAST} {hostile}\n# Fixed\n- [x] all fine\n")
    outputs = diagnosed(tmp_path, capsys, tmp_path)
    for where in ("screen", "incident.md"):
        assert not set(outputs[where]) & {"\x1b", "\x07", "\u202e"}, where
    note = outputs["incident.md"]
    for raw in ("<script>", "![x](", "[go](", "\n# Resolved", "\n# Fixed", "\n- [x]"):
        assert raw not in note
    assert "No CUDA GPUs are available" in note


@given(st.text())
def test_prose_is_one_line_without_markup(text):
    told = prose(text)
    assert "\n" not in told
    assert "<" not in told
    assert stripped(told) == told


def test_links_pipes_and_what_cannot_be_read_are_said(tmp_path):
    inside = tmp_path / "bundle"
    inside.mkdir()
    (tmp_path / "outside.log").write_text("ValueError: outside")
    (inside / "link.log").symlink_to(tmp_path / "outside.log")
    os.mkfifo(inside / "pipe")
    (inside / "photo.jpg").write_bytes(b"\xff\xd8")
    (inside / "run.log").write_text(LAST)
    bundle = load(inside)
    assert [s.text for s in bundle.log] == [LAST]
    assert {u.partition(":")[0] for u in bundle.unread} == {"link.log", "pipe", "photo.jpg"}


def test_of_a_large_file_both_ends_are_read_and_that_is_said(tmp_path):
    with (tmp_path / "run.log").open("wb") as log:
        log.write(b"first\n")
        log.truncate(2 << 30)
        log.seek(0, 2)
        log.write(f"\n{LAST}\n".encode())
    tracemalloc.start()
    bundle = load(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert explain(bundle).ranked[0].item == "sagemaker.gpu-access"
    assert "both ends" in bundle.unread[0]
    assert peak < 64 << 20


def test_an_archive_that_unpacks_to_much_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HEAD", 1 << 16)
    monkeypatch.setattr(files, "TAIL", 1 << 16)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.log", b"0" * (64 << 20))
        archive.writestr("run.log", LAST)
    tracemalloc.start()
    bundle = load(tmp_path / "b.zip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert explain(bundle).ranked[0].item == "sagemaker.gpu-access"
    assert peak < 32 << 20


@pytest.mark.parametrize("end", ["\r", " ", ": ", "x=", "error "])
def test_time_is_linear_in_the_length_of_a_line(tmp_path, end):
    line = f"step 1 loss{end}" * 40_000
    (tmp_path / "run.log").write_text(f"{line}\n{LAST}\n")
    begun = time.process_time()
    found = explain(load(tmp_path))
    assert time.process_time() - begun < 10
    assert found.ranked[0].item == "sagemaker.gpu-access"


def test_json_of_any_depth_ends_nothing(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    (tmp_path / "b.json").write_text('{"a":' * 100_000)
    (tmp_path / "run.log").write_text(LAST)
    assert explain(load(tmp_path)).verdict == "cause"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
MEMBERS = (
    *("TrainingJobName", "TrainingJobStatus", "ProcessingJobName", "ProcessingJobStatus", "events"),
    *("FailureReason", "SecondaryStatusTransitions", "HyperParameters", "AlgorithmSpecification"),
    *("InputDataConfig", "ResourceConfig", "StoppingCondition", "TrainingStartTime", "Contents"),
    *("message", "timestamp", "type", "id", "taskFailedEventDetails", "cause", "error", "output"),
    *("executionArn", "status", "definition", "images", "imageDetails", "rootfs", "log", "RoleArn"),
    *("failure_reason", "missing", "State", "ExitCode", "results", "statistics", "Environment"),
)
OBJECT = st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=6)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(OBJECT | OBJECT.map(lambda o: {"events": [o, o]}), min_size=1, max_size=3), st.text()
)
def test_no_bundle_ends_in_a_traceback(tmp_path, capsys, objects, log):
    folder = tmp_path / "bundle"
    folder.mkdir(exist_ok=True)
    for number, value in enumerate(objects):
        (folder / f"{number}.json").write_text(json.dumps(value))
    (folder / "run.log").write_text(
        log + "\nTraceback (most recent call last):\n", "utf-8", "replace"
    )
    try:
        assert cli.main([str(folder), "--json", "--out", str(tmp_path / "out")]) == 0
    except BadInput:
        return
    json.loads(capsys.readouterr().out)


PIECES = ["a", "error ", "no image ", "/", ": ", "x: ", "a.", "a/b", "line 1: ", "failed camera 0 "]
PIECES += [
    "step 1 loss ",
    "1.2.3.",
    "a:b:",
    "\x1b[",
    '{"a":',
    "'",
    "A1b2",
    "gps 1.1 ",
    "x@y.",
    " ",
    "ERROR ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_no_pattern_takes_long_over_what_repeats(piece):
    """That a line is cut bounds a pattern only if the pattern is no worse than quadratic."""
    line = (piece * 1500)[:1500]
    patterns = [kind.search for kind in kinds()] + [pattern for _, pattern in FORMS]
    patterns += [p for p in vars(reader).values() if isinstance(p, re.Pattern)]
    slow = []
    for pattern in patterns:
        begun = time.process_time()
        pattern.search(line)
        if time.process_time() - begun > 0.5:
            slow.append(pattern.pattern)
    assert slow == []
