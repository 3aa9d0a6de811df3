"""What the code cites is in docs/: sections and traps of the contract, known failures."""

import re
import subprocess

import pytest

from splatgate.paths import ROOT
from splatgate.proof.report import anchors

PAGES = ("docs/sagemaker-contract.md", "docs/known-failures.md")
NUMBERS = r"\d+(?:\.\d+)?(?:(?:, | and )\d+(?:\.\d+)?\b(?!%))*"
CITATIONS = {
    "contract": re.compile(rf"\b[Cc]ontract ({NUMBERS})"),
    "trap": re.compile(rf"\btraps? ({NUMBERS})"),
    "known failure": re.compile(r"\b(K\d\d)\b"),
}


def texts():
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.toml", "*.md", "*.sh", "*Dockerfile"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.split() if name not in PAGES]


@pytest.fixture(scope="module")
def known():
    return {
        "contract": set(anchors("sagemaker-contract.md", r"\d+(?:\.\d+)?")),
        "trap": {n.removeprefix("trap-") for n in anchors("sagemaker-contract.md", r"trap-\d+")},
        "known failure": set(anchors("known-failures.md", r"K\d\d")),
    }


@pytest.mark.parametrize("kind", CITATIONS)
def test_every_citation_is_a_link_target(kind, known):
    cited = {
        (str(path.relative_to(ROOT)), number)
        for path in texts()
        for found in CITATIONS[kind].findall(path.read_text())
        for number in re.split(r", | and ", found)
    }
    assert cited
    missing = sorted((where, number) for where, number in cited if number not in known[kind])
    assert not missing, f"{kind}: no such anchor in docs/: {missing}"


def test_nothing_is_named_twice(known):
    for page, pattern in (
        ("sagemaker-contract.md", r"\d+(?:\.\d+)?|trap-\d+"),
        ("known-failures.md", r"K\d\d"),
    ):
        names = anchors(page, pattern)
        assert len(names) == len(set(names))
