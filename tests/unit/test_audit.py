"""The hook of the instrumented run, in an interpreter of its own, and what is read of its words."""

import os
import shutil
import subprocess
import sys

import pytest

from splatgate.evidence.missing import NotVerified
from splatgate.sagemaker import audit
from splatgate.sagemaker.audit import Event


@pytest.fixture
def run(tmp_path):
    """Run a trainer of some lines under the hook; gives its events, and what else it said."""
    hooks = tmp_path / audit.FOLDER
    hooks.mkdir()
    shutil.copyfile(audit.HOOK, hooks / "sitecustomize.py")

    def run(text, *options):
        script = tmp_path / "train.py"
        script.write_text(text)
        done = subprocess.run(
            [sys.executable, *options, str(script)],
            env={**os.environ, "PYTHONPATH": str(hooks)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        lines = done.stderr.splitlines()
        return audit.read(lines), [line for line in lines if audit.MARK not in line], done

    return run


def test_a_download_whose_failure_is_swallowed_is_heard(run):
    events, said, done = run(
        "import threading, urllib.request\n"
        "def fetch():\n"
        "    try:\n"
        "        urllib.request.urlopen('http://weights.invalid:8/x', timeout=1)\n"
        "    except OSError:\n"
        "        pass\n"
        "thread = threading.Thread(target=fetch)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    assert (done.returncode, said) == (0, [])
    found = [e for e in events if e.fetches]
    assert [(e.event, e.what) for e in found] == [("lookup", "weights.invalid")]
    assert found[0].at.endswith("train.py:4")


def test_a_connection_is_heard_also_in_a_child_and_not_one_within_the_machine(run):
    events, _, _ = run(
        "import os, socket, subprocess, sys\n"
        "def knock(address):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    try:\n"
        "        s.connect(address)\n"
        "    except OSError:\n"
        "        pass\n"
        "knock(('127.0.0.1', 9))\n"
        "if os.fork() == 0:\n"
        "    knock(('192.0.2.7', 9))\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "more = 'import socket; socket.socket(2, 2).connect((\"192.0.2.8\", 9))'\n"
        "subprocess.run([sys.executable, '-c', more])\n"
        "try:\n"
        "    socket.socket(socket.AF_UNIX).connect('/nowhere')\n"
        "except OSError:\n"
        "    pass\n"
    )
    assert sorted(e.what for e in events if e.fetches) == ["192.0.2.7:9", "192.0.2.8:9"]
    assert "127.0.0.1:9" in {e.what for e in events}


def test_files_of_the_trainer_are_heard_and_packages_are_not(run, tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1")
    (tmp_path / "link.yaml").symlink_to("a.yaml")
    events, _, _ = run(
        "import json, pathlib, email.message\n"
        "for _ in range(2):\n"
        "    open('link.yaml').close()\n"
        "open(pathlib.Path('none.ini'), 'w').close()\n"
        "open(b'/proc/self/status').close()\n"
    )
    opened = [e.what for e in events if e.event == "open"]
    assert opened == [str(tmp_path / "a.yaml"), str(tmp_path / "none.ini")]


def test_an_images_own_sitecustomize_still_runs(run, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import sys\nsys.own = True\n")
    hooks = tmp_path / audit.FOLDER
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.own, sys.path)"],
        env={**os.environ, "PYTHONPATH": f"{hooks}:{tmp_path / 'own'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("True")
    assert audit.FOLDER not in done.stdout


def test_an_interpreter_that_takes_no_hook_is_not_verified(run):
    with pytest.raises(NotVerified, match="not loaded"):
        run("pass", "-I")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["step=1"], "not loaded"),
        ([audit.MARK + '{"event": "start"'], "not whole"),
        ([audit.MARK + '{"event": "error", "what": "E()", "at": "open"}'], "hook failed: error E"),
    ],
    ids=["nothing", "cut", "failed"],
)
def test_what_was_not_heard_whole_is_not_verified(lines, reason):
    with pytest.raises(NotVerified, match=reason):
        audit.read(lines)


def test_words_stand_also_in_the_middle_of_a_line():
    line = audit.MARK + '{"event": "start", "what": "3.13", "at": ""}'
    assert audit.read([f" 50%|###  {line}"]) == (Event("start", "3.13", ""),)


@pytest.mark.parametrize(
    ("command", "fetches"),
    [
        ("/usr/bin/python3 -m pip install lpips", True),
        ("pip3 install -q x", True),
        ("sh -c apt-get -qq install git", True),
        ("curl -fsSL https://x", True),
        ("/usr/local/cuda/bin/nvcc -c x.cu", True),
        ("ninja -v", True),
        ("git -C /opt clone https://x", True),
        ("git rev-parse HEAD", False),
        ("/sbin/ldconfig -p", False),
        ("pip list", False),
        ("nvidia-smi", False),
        ("which nvcc", False),
        ("nvcc --version", False),
    ],
)
def test_commands_that_fetch(command, fetches):
    assert Event("process", command, "").fetches is fetches


@pytest.mark.parametrize(
    ("what", "fetches"),
    [
        ("api.wandb.ai", True),
        ("169.254.169.254:80", True),
        ("127.0.0.1:29500", False),
        ("localhost", False),
        ("::1:29500", False),
        ("", False),
    ],
)
def test_addresses_that_a_network_carries(what, fetches):
    assert Event("lookup", what, "").fetches is fetches
