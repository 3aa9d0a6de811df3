"""Runtime: the entry point is its own, compiles, and starts the way SageMaker starts it."""

import re
import shlex

import pytest

from splatgate.facts import NEVER_STARTED, USAGE

#: The last line of a traceback; a SyntaxError in the script itself has no other.
EXCEPTION = re.compile(r"^([\w.]+\.)?\w*(Error|Exception|Exit)\b(:|$)")


@pytest.mark.runtime_entry_point
@pytest.mark.needs("test_image_is_for_linux_amd64")
def test_entrypoint_is_exec_form_and_absolute(image):
    """ENTRYPOINT is in exec form, and its program and script are absolute paths.

    SageMaker runs `docker run IMAGE train`: the word replaces CMD, a shell form swallows it and
    keeps SIGTERM from the trainer, and a relative path depends on the working directory (contract
    1.1, traps 1 and 3).
    """
    entry = image.entrypoint
    assert entry, (
        f"no ENTRYPOINT (CMD is {list(image.cmd)}, which the word `train` replaces); "
        'use ENTRYPOINT ["/absolute/python", "/absolute/script.py"]'
    )
    assert entry[0] not in ("/bin/sh", "sh", "/bin/bash", "bash") or "-c" not in entry, (
        f"shell form {list(entry)}: neither signals nor `train` reach the trainer; use exec form"
    )
    relative = [
        word for word in (entry[0], *(w for w in entry[1:] if w.endswith(".py"))) if word[0] != "/"
    ]
    assert not relative, f"relative in ENTRYPOINT: {relative}; use absolute paths"


@pytest.mark.runtime_entry_point
@pytest.mark.needs("test_entrypoint_is_exec_form_and_absolute")
def test_entry_script_exists_and_is_executable(facts, image, host):
    """The script that ENTRYPOINT names exists with /opt/ml shadowed, may be read, and is
    executable.

    SageMaker may hide everything that the image has below /opt/ml (contract 2.1, trap 5); the
    guide's own line asks for `chmod +x`.
    """
    path = facts.entry_script or image.entrypoint[0]
    script = host.file(path)
    assert script.exists, f"{path} is not there once /opt/ml is mounted; keep code outside /opt/ml"
    assert script.mode & 0o111, f"{path} has mode {script.mode:o}; add RUN chmod +x {path}"


@pytest.mark.runtime_entry_point
@pytest.mark.needs("test_entrypoint_is_exec_form_and_absolute")
def test_every_source_of_the_trainer_compiles(facts):
    """Each Python file beside the entry script compiles under the image's own interpreter.

    An indentation error built green, was pushed, and died as a job with no trace (the failure that
    the guide was written about): nothing had ever compiled the script.
    """
    seen = {source.path for source in facts.sources}
    assert not facts.entry_script or facts.entry_script in seen, (
        f"{facts.entry_script} was not among the sources compiled: {sorted(seen)}"
    )
    broken = [f"{source.path}: {source.error}" for source in facts.sources if source.error]
    assert not broken, "does not compile: " + "; ".join(broken)


@pytest.mark.runtime_entry_point
@pytest.mark.needs(
    "test_entry_script_exists_and_is_executable",
    "test_every_source_of_the_trainer_compiles",
    "test_imports_resolve",
)
@pytest.mark.parametrize("folder", ["/", "/tmp"], ids=["root", "tmp"])
def test_starts_with_the_word_train(host, image, folder):
    """The entry point accepts `train` from any directory with an empty /opt/ml, and ends with words
    of its own.

    SageMaker appends `train` to ENTRYPOINT and documents no working directory. With nothing to
    train on it must fail: cleanly, saying something, not with a usage text or a traceback (contract
    1.1, traps 2 and 3).
    """
    entry = " ".join(shlex.quote(word) for word in image.entrypoint)
    done = host.run(f"cd {folder} && exec {entry} train")
    output = done.stdout + done.stderr
    assert done.rc not in NEVER_STARTED, (
        f"exit {done.rc}: {NEVER_STARTED[done.rc]}: {output[-300:]}"
    )
    assert done.rc != USAGE or "usage:" not in output, f"refuses the word `train`: {output[-300:]}"
    assert done.rc != 0, "exit 0 with nothing to train on; fail, and say why"
    assert output.strip(), f"exit {done.rc} without a word; print a first line at once"
    last = output.strip().splitlines()[-1]
    assert not EXCEPTION.search(last), f"ends in an exception that nothing handled: {last}"
