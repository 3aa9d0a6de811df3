"""Instructions that do not do what they say, and those that only look so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate.container import cleanlog, dockerfile
from splatgate.paths import ROOT


@pytest.mark.parametrize(
    ("command", "rules"),
    [
        ("pip install numpy>=2.0", ["unquoted-constraint", "DL3013"]),
        ("pip install 'numpy>=2.0'", ["DL3013"]),
        ("python3 -m pip install nerfstudio", ["DL3013"]),
        ("pip install torch torchvision --index-url https://x/whl/cu118", ["DL3013"]),
        ("pip install torch==2.1.0 'a[b]==1.0' --index-url https://x/y", []),
        ("pip3 install --no-cache-dir -r requirements.txt", []),
        ("pip install --upgrade pip setuptools", []),
        ("pip install .", []),
        ("pip install git+https://x/y@abc", []),
        ("pip install /wheels/*.whl && echo done > /log", []),
        ("pip install a==1.0 >log.txt 2>&1", []),
        ("uv pip install torch~=2.0", ["DL3013"]),
        ("apt-get install -y python3", []),
        ("pip install ${TORCH}", []),
    ],
)
def test_commands(command, rules):
    assert [rule for rule, _ in dockerfile.command(command)] == rules


def test_a_dockerfile_is_read_with_its_waivers():
    text = (
        "# hadolint ignore=DL3013\nRUN pip install torch\nRUN pip install \\\n  # why\n  torch\n"
        "FROM --platform=linux/arm64 x\nFROM --platform=$BUILDPLATFORM x\n"
    )
    found = [(f.rule, f.text.split(",")[0]) for f in dockerfile.judge(dockerfile.read(text))]
    assert found == [("DL3013", "line 3"), ("DL3029", "line 6")]


def test_our_own_dockerfile_is_clean():
    text = (ROOT / "image" / "Dockerfile").read_text()
    assert dockerfile.judge(dockerfile.read(text)) == []


@pytest.mark.parametrize(
    "created_by",
    [
        "RUN /bin/sh -c pip install torch # buildkit",
        "/bin/sh -c pip install torch",
        "RUN |2 A=1 B=2 /bin/sh -c pip install torch # buildkit",
    ],
)
def test_the_command_of_a_layer(created_by):
    assert dockerfile.history(created_by) == "pip install torch"


@given(st.text())
def test_no_text_breaks_the_reader(text):
    dockerfile.judge(dockerfile.read(text))
    list(dockerfile.command(text))
    cleanlog.failed(text)
    cleanlog.made(text)
    cleanlog.commands(text)


@pytest.mark.parametrize(
    ("log", "failed"),
    [
        ('#12 ERROR: process "/bin/sh -c x" did not complete successfully: exit code: 137', True),
        ("The command '/bin/sh -c x' returned a non-zero code: 1", True),
        ("job\tbuild\t2026-01-01T00:00:00.0Z ##[error]Process completed with exit code 1.", True),
        ("ERROR: failed to solve: failed to fetch", True),
        ("#12 3.1 ERROR: pip's dependency resolver does not currently", False),
        ("#19 writing image sha256:" + 64 * "a" + " done", False),
    ],
    ids=["buildkit", "classic", "github", "solve", "pip", "good"],
)
def test_a_log_tells_whether_the_build_failed(log, failed):
    assert bool(cleanlog.failed(log)) is failed


def test_a_log_tells_which_image_was_made():
    assert cleanlog.made("#1 writing image sha256:" + 64 * "a" + " done") == 64 * "a"
    assert cleanlog.made("Step 1/2 : FROM x\nSuccessfully built 0123456789ab\n") == "0123456789ab"
    assert cleanlog.made("nothing") is None
