"""The published catalogue is what the docstrings say."""

import inspect

from splatgate.checklist import LANES
from splatgate.judge.in_process import cases
from splatgate.proof import published


def test_the_catalogue_is_in_step_with_the_docstrings():
    assert published.FILE.read_text() == published.text(), (
        "run: python -m splatgate checks --write docs/checks.md"
    )


def test_every_check_says_its_requirement_and_its_source():
    for case in cases(*LANES):
        doc = inspect.getdoc(case.function) or ""
        assert doc.partition("\n\n")[0].rstrip().endswith("."), case.check.node
        assert case.check.item, case.check.node
