"""hadolint's remarks on a Dockerfile, and what the checks are told of them."""

import shutil
from types import SimpleNamespace

import pytest

from splatgate.container import lint
from splatgate.container.backends import NotRecorded
from splatgate.evidence import Lint, Remark, write
from splatgate.evidence.missing import CannotLook, NotVerified
from splatgate.judge.in_process import Fixtures
from splatgate.paths import ROOT
from splatgate.sources.recorded import Recorded

needs_hadolint = pytest.mark.skipif(lint.program() is None, reason="no hadolint here")


@pytest.fixture
def dockerfile(tmp_path):
    path = tmp_path / "Dockerfile"
    path.write_text("FROM debian:trixie-slim\nENV A=1 B=$A\n")
    return path


@needs_hadolint
def test_a_finding_names_its_rule_and_line_and_is_waived_in_the_text(dockerfile):
    found = lint.look(dockerfile)
    assert [(r.code, r.level, r.line) for r in found.remarks] == [("DL3044", "error", 2)]
    assert found.version
    dockerfile.write_text("FROM debian:1\n# why\n# hadolint ignore=DL3044\nENV A=1 B=$A\n")
    assert lint.look(dockerfile).remarks == ()


@needs_hadolint
def test_no_configuration_of_the_machine_bears_on_it(dockerfile, monkeypatch):
    (dockerfile.parent / ".hadolint.yaml").write_text("ignored: [DL3044]\n")
    monkeypatch.chdir(dockerfile.parent)
    monkeypatch.setenv("HADOLINT_IGNORE", "DL3044")
    assert lint.look(dockerfile).remarks


@needs_hadolint
def test_our_own_dockerfile_has_no_finding():
    found = lint.look(ROOT / "image" / "Dockerfile").remarks
    assert [r for r in found if r.level in ("error", "warning")] == []


@pytest.mark.parametrize("program", ["false", "true"], ids=["fails", "says-nothing"])
def test_a_hadolint_that_does_not_run_is_no_verdict(dockerfile, monkeypatch, program):
    monkeypatch.setattr(lint, "program", lambda: shutil.which(program))
    with pytest.raises(CannotLook, match="hadolint"):
        lint.look(dockerfile)


def test_without_hadolint_nothing_is_verified(dockerfile, monkeypatch):
    monkeypatch.setattr(lint, "program", lambda: None)
    with pytest.raises(NotVerified, match="pip install"):
        lint.look(dockerfile)


def test_remarks_on_another_dockerfile_are_no_evidence(tmp_path):
    source = Recorded(tmp_path, tmp_path)
    with pytest.raises(NotVerified, match="--dockerfile"):
        source.lint()
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    (tmp_path / "evidence.json").write_text("{}")
    with pytest.raises(NotRecorded, match="hadolint"):
        source.lint()
    write(tmp_path / "hadolint.json", Lint("1", "another", ()))
    with pytest.raises(NotVerified, match="another Dockerfile"):
        source.lint()


def test_a_dockerfile_that_hadolint_cannot_read_is_not_verified():
    said = (Remark(lint.UNREADABLE, "error", 1, "unexpected 'X'\nexpecting Y"),)
    with pytest.raises(NotVerified, match="cannot read the Dockerfile: unexpected 'X' expecting Y"):
        Fixtures(SimpleNamespace(lint=lambda: Lint("1", "", said))).getfixturevalue("remarks")
