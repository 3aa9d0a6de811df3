"""The probe runs no code of the image's site files, and finds what a program would find."""

import json
import os
import subprocess
import sys
import venv

import pytest

from splatgate.container import probe
from splatgate.container.probe import main
from splatgate.evidence import Facts, from_json

ASK = {"entrypoint": [], "workdir": "/", "entry_script": None, "paths": [], "subject": None}


@pytest.fixture
def environment(tmp_path):
    """An environment with two distributions, one of them in a folder that a .pth adds."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    for folder, name in ((site, "here"), (tmp_path / "mine", "linked")):
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (site / "mine.pth").write_text(f"{tmp_path / 'mine'}\n")
    return python, site


def look(python, *flags, **variables):
    # The walk over all files of this machine says nothing here.
    text = probe.text().replace(b"files=files()", b"files=None")
    done = subprocess.run(
        [python, *flags, "-", json.dumps(ASK)],
        input=text,
        capture_output=True,
        env={**os.environ, **variables},
        check=False,
    )
    return done.stdout


def names(answer):
    return {d.name: d.folder for d in from_json(answer, Facts, "probe").distributions}


def test_it_finds_what_a_program_finds(environment):
    python, site = environment
    alone = names(look(python, *probe.ISOLATED))
    assert alone == names(look(python))
    assert {"here", "linked"} <= alone.keys()
    assert alone["here"] == os.path.realpath(site)


def test_it_follows_the_variable_of_the_image(environment, tmp_path):
    python, _ = environment
    info = tmp_path / "more" / "more-2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: more\nVersion: 2\n")
    # It may hold a module of the standard library's name, which the probe itself does not take.
    (tmp_path / "more" / "sysconfig.py").write_text("import os; os._exit(0)\n")
    seen = names(look(python, *probe.ISOLATED, PYTHONPATH=str(tmp_path / "more")))
    assert "more" in seen


@pytest.mark.parametrize("file", ["zz.pth", "sitecustomize.py", "usercustomize.py"])
def test_no_site_file_answers_for_it(environment, file):
    python, site = environment
    (site / file).write_text("import os; os.write(1, b'lie'); os._exit(0)\n")
    assert look(python) == b"lie" or file == "usercustomize.py"
    assert "here" in names(look(python, *probe.ISOLATED))


def test_the_suites_own_python_is_seen_as_itself():
    seen = names(look(sys.executable, *probe.ISOLATED))
    assert "pytest" in seen


def test_imports_that_failed_are_kept_where_the_interpreter_died(monkeypatch):
    answers = iter(
        [(None, "died"), ({"failed": {"a": "no a"}}, None), ({"failed": {}, "torch": [1, 2]}, None)]
    )
    monkeypatch.setattr(main, "begin", lambda *given: None)
    monkeypatch.setattr(main, "end", lambda process: next(answers))
    seen = main.attempts(None, {"a": []}, [], ["torch"])
    assert seen == {"failed": {"a": "no a"}, "torch": [1, 2]}
