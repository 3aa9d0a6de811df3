"""Runtime: the entry point is its own, compiles, and starts the way SageMaker starts it."""

import re
import shlex

import pytest

from splatgate.container.image import entry_script
from splatgate.evidence.missing import NotVerified
from splatgate.evidence.text import pattern
from splatgate.expectations import NEVER_STARTED, USAGE

#: How a program of machine code begins.
ELF = "\x7fELF"
#: Names of scripts.
ENDS = (".py", ".sh")
#: Programs that run another one, named by their arguments.
WRAPPER = re.compile(
    r"python[\d.]*|(?:ba|da|z)?sh|env|tini|dumb-init|catchsegv|exec"
    r"|nvidia_entrypoint\.sh|docker-entrypoint\.sh|_entrypoint\.sh"
)
#: argparse's and the interpreter's own words for an argument that they do not take.
REFUSED = re.compile(r"usage:|can't open file|unrecognized arguments|invalid choice")
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
def test_entrypoint_names_a_trainer(image):
    """ENTRYPOINT names a program of its own, not just an interpreter or a base's wrapper.

    An entry point inherited from a base runs `train` as a file or a command that is not there
    (K07); tini takes it for a program (contract 1.1, "tini").
    """
    first, *rest = (word.rpartition("/")[2] for word in image.entrypoint)
    words = [word for word in rest if not word.startswith("-")]
    assert words or not WRAPPER.fullmatch(first), (
        f"ENTRYPOINT {list(image.entrypoint)} would run a program named `train`; "
        "name the trainer's script in it"
    )


@pytest.mark.runtime_entry_point
@pytest.mark.needs("test_entrypoint_is_exec_form_and_absolute", "test_entrypoint_names_a_trainer")
def test_entry_script_exists_and_is_executable(image, host):
    """The script that ENTRYPOINT names exists with /opt/ml shadowed, may be read, and is
    executable.

    SageMaker may hide everything that the image has below /opt/ml (contract 2.1, trap 5); the
    guide's own line asks for `chmod +x`.
    """
    path = entry_script(image)
    script = host.file(path)
    assert script.exists, f"{path} is not there once /opt/ml is mounted; keep code outside /opt/ml"
    assert script.mode & 0o111, f"{path} has mode {script.mode:o}; add RUN chmod +x {path}"


@pytest.mark.runtime_entry_point
@pytest.mark.needs("test_entry_script_exists_and_is_executable")
def test_first_line_of_a_script_names_its_interpreter(image, host):
    """A script that is started by itself begins with `#!` and an interpreter that is there.

    A line that ends in CR names `python\\r`: exit 127 (contract 1.1, "CRLF line ends").
    """
    path = image.entrypoint[0]
    head = host.run("head -c 128 %s", path)
    if head.rc != 0 or not head.stdout:
        raise NotVerified(f"{path} could not be read: {head.stderr}")
    if head.stdout.startswith(ELF):
        return
    first = head.stdout.partition("\n")[0]
    assert first.startswith("#!"), f"{path} begins with {first[:40]!r}; begin it with #!/…/python"
    assert "\r" not in first, f"{path} ends its lines in CR LF: {first!r}; use LF (.gitattributes)"
    words = first[2:].split()
    program = words[-1] if words[0].endswith("/env") else words[0]
    found = host.run("command -v %s", program)
    assert found.rc == 0, f"{path} asks for {program}, which is not in the image"


@pytest.mark.runtime_entry_point
@pytest.mark.needs("test_entrypoint_is_exec_form_and_absolute")
def test_every_source_of_the_trainer_compiles(sources):
    """Each Python file beside the entry script compiles under the image's own interpreter.

    An indentation error built green, was pushed, and died as a job with no trace (the failure that
    the guide was written about): nothing had ever compiled the script.
    """
    if not sources.entry_script:
        raise NotVerified("the entry point leads to no Python source that could be seen")
    seen = {source.path for source in sources.sources}
    assert sources.entry_script in seen, (
        f"{sources.entry_script} was not among the sources compiled: {sorted(seen)}"
    )
    broken = [f"{source.path}: {source.error}" for source in sources.sources if source.error]
    assert not broken, "does not compile: " + "; ".join(broken)


@pytest.mark.runtime_entry_point
@pytest.mark.needs("test_every_source_of_the_trainer_compiles")
def test_every_name_that_the_trainer_reads_is_bound(sources):
    """No source reads a name that nothing binds.

    It is a NameError in the first job that gets there, often the last line of a branch that no
    test takes: four deploys, each one step later (K05).
    """
    found = [f"{s.path}: {', '.join(s.undefined)}" for s in sources.sources if s.undefined]
    assert not found, f"never bound: {'; '.join(found)}; import or define it"


@pytest.mark.runtime_entry_point
@pytest.mark.needs(
    "test_first_line_of_a_script_names_its_interpreter",
    "test_every_source_of_the_trainer_compiles",
    "test_imports_resolve",
)
@pytest.mark.parametrize(
    ("folder", "words"),
    [("/", "train"), ("/tmp", "train"), ("/", "train --anything 1")],
    ids=["root", "tmp", "arguments"],
)
def test_starts_with_the_word_train(host, image, folder, words):
    """The entry point accepts `train` from any directory with an empty /opt/ml, and ends with words
    of its own.

    SageMaker appends `train` to ENTRYPOINT and documents no working directory. With nothing to
    train on it must fail: cleanly, saying something, not with a usage text or a traceback (contract
    1.1, traps 2 and 3). Words of the request's own (ContainerArguments) may be refused, with a
    usage text too.
    """
    done, output = started(host, image, folder, words)
    assert done.rc not in NEVER_STARTED, (
        f"exit {done.rc}: {NEVER_STARTED[done.rc]}: {output[-300:]}"
    )
    refused = done.rc == USAGE and REFUSED.search(output)
    assert not refused or words != "train", f"refuses `{words}`: {output[-300:]}"
    assert done.rc != 0, "exit 0 with nothing to train on; fail, and say why"
    assert output.strip(), f"exit {done.rc} without a word; print a first line at once"
    last = output.strip().splitlines()[-1]
    assert not EXCEPTION.search(last), f"ends in an exception that nothing handled: {last}"


@pytest.mark.runtime_entry_point
@pytest.mark.needs("test_starts_with_the_word_train")
def test_first_line_of_the_log_is_the_trainers_own(host, image, profile):
    """The first line that the subject profile promises is printed, even with nothing to train on.

    A program that ends before it has said which version it is, for which job, leaves a log that
    cannot be told from a dead entry point's (contract 1.2, "an early crash").
    """
    said = started(host, image, "/", "train")[1].strip().splitlines()
    assert any(pattern(profile.log.first_line).search(line) for line in said), (
        f"no line like {profile.log.first_line!r}, but {said[:1]}; print it before anything can "
        "fail"
    )


@pytest.mark.runtime_entry_point
@pytest.mark.needs("test_entry_script_exists_and_is_executable")
def test_entry_point_of_the_request_is_in_the_image(image, host, request_given):
    """A ContainerEntrypoint of the request names a program, and a script, that the image has.

    It takes ENTRYPOINT's place: `docker run --entrypoint` (contract 1.1).
    """
    if not request_given.entrypoint:
        return
    first, *rest = request_given.entrypoint
    scripts = [f"{image.workdir}/{w}" if w[0] != "/" else w for w in rest if w.endswith(ENDS)]
    missing = [path for path in scripts if not host.file(path).exists]
    missing += [first] if not host.exists(first) else []
    assert not missing, f"ContainerEntrypoint names {', '.join(missing)}, not in the image"


def started(host, image, folder, words):
    """How the entry point ended with some words in a folder, and all that it said."""
    entry = " ".join(shlex.quote(word) for word in image.entrypoint)
    done = host.run(f"cd {folder} && exec {entry} {words}")
    return done, done.stdout + done.stderr
