"""The checklist is the guide's, complete, and its open cells only shrink."""

import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from splatgate import checklist as checklists
from splatgate.evidence import BadInput
from splatgate.paths import ROOT

#: The guide's checklist, word for word.
GUIDE = """\
GitHub Actions build completed successfully
No warnings or errors in build logs
Container pushed to ECR with latest tag
Dockerfile follows linux/amd64 platform specification
Entry point script exists and is executable
Python dependencies installed correctly
CUDA/GPU libraries available and compatible
File permissions set correctly
Hyperparameters passed correctly from Step Functions
Input/output paths configured properly
Instance type (ml.g4dn.xlarge) has GPU access
CloudWatch logging enabled and accessible
Container produces expected .ply output files
Processing time within expected range (60-120 minutes)
Error handling works correctly
Integration with compression stage functional"""


@pytest.fixture(scope="module")
def collected():
    """Lane and item of every check, and all names of checks and of what they need."""
    code = (
        "import pytest, json, sys\n"
        "class P:\n"
        "    def pytest_collection_finish(self, session):\n"
        "        from splatgate.judge.plugin import CHECK\n"
        "        rows = [(c.lane, c.item, c.name, c.needs) for c in\n"
        "                (i.stash[CHECK] for i in session.items) if c.level == 'must']\n"
        "        print('ROWS', json.dumps(rows))\n"
        "sys.exit(pytest.main(['--collect-only', '-q', 'tests/container', 'tests/sagemaker',\n"
        "                      'tests/gpu'], plugins=[P()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("ROWS ")), None)
    assert line, done.stdout + done.stderr
    return json.loads(line[5:])


def test_the_guides_lines_stand_word_for_word():
    ours = [item.sentence for item in checklists.load().item if not item.ours]
    assert ours == GUIDE.splitlines()


def test_open_cells_are_those_without_a_check(collected):
    seen = {(item, lane) for lane, item, _, _ in collected}
    checklist = checklists.load()
    open_cells = {
        f"{item.id}/{lane}"
        for item in checklist.item
        for lane in item.required
        if (item.id, lane) not in seen
    }
    assert open_cells == set(checklist.open), "checklist.toml lists other cells as open"


def test_needs_name_checks_that_exist(collected):
    names = {name for _, _, name, _ in collected}
    needed = {need for _, _, _, needs in collected for need in needs}
    assert needed <= names


def test_needs_form_no_circle(collected):
    """Two checks that explain each other would hide a failure."""
    graph = {}
    for _, _, name, needs in collected:
        graph.setdefault(name, set()).update(needs)
    tuple(TopologicalSorter(graph).static_order())


def test_fixtures_name_checks_that_exist(collected):
    from splatgate.judge.fixtures.jobs import COMPRESSES, PLY, TRAINS

    text = (ROOT / "splatgate" / "sources" / "docker.py").read_text()
    blocking = {
        TRAINS,
        PLY,
        COMPRESSES,
        *re.findall(r'Blocked\(\s*"(\w+)"', text),
    }
    assert blocking <= {name for _, _, name, _ in collected}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("build.completed", "shed.completed"), "unknown shed"),
        (('required = ["container"]', 'required = ["cellar"]'), "unknown cellar"),
        (("schema = 1", "schema = "), "Invalid value"),
        (('id = "build.clean-log"', 'id = "build.completed"'), "twice"),
        (("sentence =", "sentense ="), "sentence"),
    ],
    ids=["section", "lane", "toml", "twice", "field"],
)
def test_a_broken_checklist_is_refused_in_one_line(tmp_path, change, said):
    path = tmp_path / "checklist.toml"
    path.write_text(checklists.FILE.read_text().replace(*change, 1))
    with pytest.raises(BadInput, match=said) as caught:
        checklists.load(path)
    assert "\n" not in str(caught.value)
