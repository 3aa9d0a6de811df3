"""What the wheel carries is what the code reads: nothing works in a checkout alone by accident."""

import re
import tomllib

import pytest

from splatgate import cli
from splatgate.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CARRIED = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
#: Read by verbs that only a checkout has, or left out where it is missing.
CHECKOUT_ONLY = {"image", "docs/checks.md", "tests/equivalent.toml", "tests/evidence"}
CHECKOUT_ONLY |= {"tests/faults"}


def read_by_the_code():
    """Paths below ROOT that stand in the code, up to their first part that is computed."""
    for path in (ROOT / "splatgate").rglob("*.py"):
        for found in re.findall(r'\bROOT((?: / "[\w.-]+")+)', path.read_text()):
            yield "/".join(re.findall(r'"([\w.-]+)"', found))


@pytest.mark.parametrize("path", sorted(set(read_by_the_code())))
def test_what_is_read_is_carried_or_the_checkouts_own(path):
    def covers(known):
        return path == known or f"{path}/".startswith(f"{known}/") or known.startswith(f"{path}/")

    assert any(covers(known) for known in {*CARRIED, *CHECKOUT_ONLY})


@pytest.mark.parametrize("path", CARRIED)
def test_what_is_carried_is_there_and_lies_where_the_code_looks(path):
    assert (ROOT / path).exists()
    assert CARRIED[path] == f"splatgate/suite/{path}"


@pytest.mark.parametrize("verb", cli.CHECKOUT_VERBS)
def test_a_verb_of_the_checkout_says_so_elsewhere(verb, monkeypatch, capsys):
    monkeypatch.setattr(cli, "CHECKOUT", None)
    assert cli.main([verb]) == 3
    err = capsys.readouterr().err
    assert "clone" in err
    assert err.count("\n") == 1
