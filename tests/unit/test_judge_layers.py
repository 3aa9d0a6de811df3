"""An image in an archive is judged without an engine, and one that lies about itself is not
believed.
"""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from splatgate.container.layers import images
from splatgate.evidence import Facts, read, write
from splatgate.expectations import WRITABLE
from splatgate.judge.in_process import cases, judge
from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.record import State
from splatgate.sources import layers as doors
from splatgate.sources.recorded import Recorded
from splatgate.sources.run import Run
from tests.unit.layered import ELF, SITE, File, debian, docker_save, folder, oci, tar
from tests.unit.test_contents import ENTRY, PATH, trainer

LABELS = {
    "org.opencontainers.image.title": "t",
    "org.opencontainers.image.version": "1",
    "io.splatgate.driver-floor": "525",
}
CONFIG = {
    "Entrypoint": list(ENTRY),
    "Env": [f"PATH={PATH}", "NVIDIA_VISIBLE_DEVICES=all"],
    "Labels": LABELS,
}
#: What somebody may do to a trainer: its compiled code gone, open to all, a compiler that is root.
BROKEN = {
    f"{SITE}/gsplat/.wh.csrc.so": "",
    "opt/trainer": folder(0o777),
    "opt/trainer/train.py": File("import os\nprint(os)\n", 0o777),
    "usr/bin/gcc": File(ELF, 0o4777),
}
LIE = {f"{SITE}/zz.pth": "import os; os.write(1, open('/answers').read())\n", "answers": "{}"}


def open_door(tmp_path, monkeypatch, archive):
    monkeypatch.setattr(doors, "CACHE", tmp_path / "cache")
    run = Run(
        id="1", out=tmp_path, door="layers", folder=tmp_path / "run", scratch=tmp_path / "run",
        image=str(archive), pushed=None, subject=None, scene=DEFAULT_SCENE, request=None,
        source=ROOT / "image", quick=False, instance_types=(), given={}, controller="c",
    )  # fmt: skip
    return doors.Layers(run, lambda line: None)


def judged(door, lane="container"):
    return {c.name: c for c in (judge(case, door) for case in cases(lane))}


def failed(checks):
    return {c.item for c in checks.values() if c.state == State.FAILED and c.level == "must"}


@pytest.fixture
def layered(tmp_path, monkeypatch):
    def door(*layers):
        raw = [tar(layer) for layer in (debian(), trainer(), *layers)]
        return open_door(tmp_path, monkeypatch, docker_save(tmp_path / "i.tar", raw, **CONFIG))

    return door


def test_static_checks_have_a_verdict_and_the_others_say_what_they_need(layered):
    checks = judged(layered())
    states = {name: check.state for name, check in checks.items()}
    for name in (
        "test_image_is_for_linux_amd64",
        "test_entrypoint_is_exec_form_and_absolute",
        "test_entry_script_exists_and_is_executable",
        "test_first_line_of_a_script_names_its_interpreter",
        "test_every_source_of_the_trainer_compiles",
        "test_installed_packages_agree",
        "test_torch_is_built_for_cuda",
        "test_no_layer_keeps_what_a_later_one_removed",
        "test_setuid_programs_are_the_distributions_own",
        "test_bill_of_materials_lists_what_is_installed",
    ):
        assert states[name] == State.PASSED, (name, checks[name].reason)
    assert failed(checks) == set()
    assert not [c for c in checks.values() if c.error]
    for name in ("test_imports_resolve", "test_mounts_are_writable_by_the_containers_user"):
        assert states[name] == State.NOT_VERIFIED
        assert checks[name].reason == "no engine: needs a running container"
    started = checks["test_starts_with_the_word_train"].reason
    assert started.startswith("needs a running container: cd /")


def test_a_broken_image_fails_by_its_layers(layered):
    assert failed(judged(layered(BROKEN))) == {"runtime.cuda", "build.supply-chain"}


def test_an_image_that_answers_for_itself_fails_the_same_lines(layered, tmp_path, monkeypatch):
    """Its probe says what a good image's would say; recorded so, as a live run writes it."""
    good = layered().contents()
    told = {f.name: getattr(good, f.name) for f in dataclasses.fields(good)}
    lie = Facts(
        **told,
        uid=0,
        environment={"PATH": PATH},
        imports=(),
        writable=dict.fromkeys(WRITABLE, True),
    )
    images_folder = tmp_path / "liar"
    raw = [tar(layer) for layer in (debian(), trainer(), BROKEN, LIE)]
    images_folder.mkdir()
    archive = docker_save(images_folder / "i.tar", raw, **CONFIG)
    door = open_door(images_folder, monkeypatch, archive)
    door.contents(), door.layers()
    write(door.folder / "container" / "facts.json", lie)
    again = judged(Recorded(door.folder, DEFAULT_SCENE))
    assert failed(again) == {"runtime.cuda", "build.supply-chain", "runtime.dependencies"}
    reason = again["test_installed_packages_agree"].reason
    assert "the image's own Python says gsplat's extension" in reason
    assert f"/{SITE}/zz.pth: import os; os.write" in reason


def test_what_was_read_from_layers_is_judged_again_alike(layered):
    door = layered(BROKEN)
    first = {name: (c.state, c.item) for name, c in judged(door).items()}
    again = {
        name: (c.state, c.item) for name, c in judged(Recorded(door.folder, DEFAULT_SCENE)).items()
    }
    assert again == first


def test_code_below_a_mount_of_the_job_is_not_there(tmp_path, monkeypatch):
    layers = [tar(debian()), tar({"opt/ml/code/train.py": File("", 0o755)})]
    config = CONFIG | {"Entrypoint": [ENTRY[0], "/opt/ml/code/train.py"]}
    door = open_door(tmp_path, monkeypatch, oci(tmp_path / "l", layers, **config))
    check = judged(door)["test_entry_script_exists_and_is_executable"]
    assert check.state == State.FAILED
    assert "once /opt/ml is mounted" in check.reason


def test_the_verb_needs_no_engine(tmp_path):
    raw = [tar(layer) for layer in (debian(), trainer(), BROKEN)]
    archive = docker_save(tmp_path / "i.tar", raw, **CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "splatgate", "judge", "--json", "--out", str(tmp_path / "out"),
         "--lane", "container", "--image", str(archive)],
        cwd=ROOT, env={**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    record = json.loads(done.stdout)
    assert done.returncode == 1
    assert (record["door"], record["image"]["ref"]) == ("layers", str(archive))
    assert record["items"]["build.platform"]["state"] != "failed"
    assert "nothing of it was run" in done.stderr
    assert (tmp_path / "out" / "evidence" / "contents.json").exists()
    assert read(tmp_path / "out" / "evidence" / "image.json", dict)["os"] == "linux"


def test_an_archive_that_is_none_is_one_line_and_exit_3(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"x")
    assert images.is_image(tmp_path / "x.tar")
    done = subprocess.run(
        [sys.executable, "-m", "splatgate", "judge", "--image", str(tmp_path / "x.tar")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (3, 1)
    assert "no archive that can be read" in done.stderr
