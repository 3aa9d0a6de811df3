"""The verbs of ``python -m splatgate``. Each is a thin door to the room that does the work."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from splatgate import checklist
from splatgate.checklist import LANES
from splatgate.container.engine import EngineError
from splatgate.container.layers.images import is_image, open_image
from splatgate.container.reference import host, parse
from splatgate.evidence import BadInput, Header, read, to_json, unwritable
from splatgate.evidence.text import plain
from splatgate.judge import options
from splatgate.judge.interrupts import INTERRUPTS, STOPS
from splatgate.paths import CHECKOUT, DEFAULT_SCENE, ROOT, built_image
from splatgate.record import Record
from splatgate.sagemaker.validate import instance_type
from splatgate.sources.run import GIVEN, Account
from splatgate.verdict import EXIT_NO_JUDGEMENT, exit_status

#: Verb, the function that answers it, and one line of help.
VERBS = {
    "image": ("splatgate.container.build:main", "build our trainer image"),
    "judge": ("splatgate.cli:judge", "look at an image and judge it, or judge recorded evidence"),
    "faults": ("splatgate.proof.cli:main", "prove that the judge can say no"),
    "diagnose": ("splatgate.diagnose.cli:main", "explain a failed job by the checklist"),
    "checks": ("splatgate.proof.published:main", "the catalogue of checks, from their docstrings"),
    "job": ("splatgate.sagemaker.cli:main", "run one training job as SageMaker would"),
    "pipeline": ("splatgate.pipeline.cli:main", "judge a state machine and its requests"),
    "scene": ("splatgate.scene.cli:main_scene", "judge a COLMAP scene"),
    "push": ("splatgate.signoff.cli:push", "push an image to a staging repository"),
    "gate": ("splatgate.signoff.cli:main", "merge records, decide under a policy, promote"),
    "sign": ("splatgate.signoff.cli:sign", "sign a run record with a key"),
    "verify": ("splatgate.signoff.cli:verify", "verify the signed sign-off of a digest"),
    "schema": ("splatgate.schemas:main", "the JSON Schema of what a verb prints"),
    "stop-engine": ("splatgate.cli:stop_engine", "stop the engine that `image` started, if it did"),
    "clean": ("splatgate.clean:main", "what of ours this machine holds; remove it"),
    "splats": ("splatgate.scene.cli:main_splats", "judge a .ply against its scene"),
}

#: Verbs that build or read what lies in the repository alone.
CHECKOUT_VERBS = ("image", "faults", "checks")
#: Ways on for a machine on which no engine can run.
WITHOUT_ENGINE = "or name one elsewhere (DOCKER_HOST), or judge recorded evidence (make replay)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; bad input is one line and exit status 3."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0 if arguments else EXIT_NO_JUDGEMENT
    verb, *rest = arguments
    if verb not in VERBS:
        sys.stderr.write(f"splatgate: no verb {verb!r}; one of {', '.join(VERBS)}\n")
        return EXIT_NO_JUDGEMENT
    if CHECKOUT is None and verb in CHECKOUT_VERBS and not {"-h", "--help"} & set(rest):
        sys.stderr.write(f"splatgate {verb}: needs the suite's repository: clone it\n")
        return EXIT_NO_JUDGEMENT
    module, _, name = VERBS[verb][0].partition(":")
    try:
        if verb != "judge":
            # The modules are loaded: what was held back meanwhile comes through.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        run: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), name)
        return run(rest)
    except BadInput as error:
        # Its message may hold what an image or a registry said.
        sys.stderr.write(f"splatgate {verb}: {' '.join(plain(str(error)).split())}\n")
        return EXIT_NO_JUDGEMENT
    except EngineError as error:
        sys.stderr.write(f"splatgate {verb}: {error}; {WITHOUT_ENGINE}\n")
        return EXIT_NO_JUDGEMENT
    except SystemExit as end:
        # argparse leaves with 2, which here is the gate's.
        return EXIT_NO_JUDGEMENT if end.code == 2 else int(end.code or 0)
    except OSError as error:
        sys.stderr.write(f"splatgate {verb}: {unwritable(error)}\n")
        return EXIT_NO_JUDGEMENT
    except KeyboardInterrupt:
        sys.stderr.write(f"splatgate {verb}: interrupted\n")
        return EXIT_NO_JUDGEMENT


def usage() -> str:
    """The verbs, a line each."""
    lines = [f"  {verb:<12}{text}" for verb, (_, text) in VERBS.items()]
    return "usage: python -m splatgate VERB [--help]\n\n" + "\n".join(lines) + "\n"


def judge(argv: Sequence[str]) -> int:
    """Verb ``judge``: run the checks in a pytest of their own and report its record."""
    parser = argparse.ArgumentParser(
        prog="splatgate judge",
        description="Look at an image and judge it line by line, or judge again what was recorded. "
        "Exit status: 0 nothing failed, 1 a required item failed, 3 could not judge.",
    )
    options.add(parser.add_argument)
    parser.add_argument("--lane", action="append", choices=LANES[:3], help="only this lane")
    parser.add_argument("-n", "--workers", metavar="N", default="0", help="xdist workers")
    parser.add_argument("--json", action="store_true", help="the run record on standard output")
    asked = parser.parse_args(argv)

    if asked.image and asked.evidence:
        raise BadInput("--image or --evidence: what is recorded is of one image; give one of them")
    if asked.pushed and not parse(asked.pushed).host:
        raise BadInput(f"--pushed {asked.pushed}: names no registry; give HOST/NAME:TAG")
    for name in asked.instance_type:
        instance_type(name)
    for name in GIVEN.values():
        value = getattr(asked, name[2:].replace("-", "_"))
        for path in value if isinstance(value, list) else [value] if value else []:
            if not Path(path).is_file():
                raise BadInput(f"{name} {path}: no such file")
    for folder in asked.checks:
        if not Path(folder).is_dir():
            raise BadInput(f"--checks {folder}: no such folder")
    if asked.checklist:
        checklist.extended(checklist.load(), Path(asked.checklist))
    if asked.baseline:
        read(Path(asked.baseline), Record)
        if Path(asked.baseline).resolve() == (record := Path(asked.out).resolve() / "record.json"):
            raise BadInput(f"--baseline {record}: this run writes its own there; give --out DIR")
    # While interrupts are still held back: numpy, broken off while it loads, does not load again,
    # and the end of a run needs it.
    importlib.import_module("splatgate.judge.session")
    run = None
    with suppress(KeyboardInterrupt):
        INTERRUPTS.install()
        run = run_pytest(_command(asked), quiet=asked.json)
    if INTERRUPTS.seen and not (run and run.record and run.record.interrupted):
        run = _interrupted(asked, run)
    if run and run.problem:
        return EXIT_NO_JUDGEMENT
    if run is None or run.record is None:
        raise BadInput("the run left no record; see what pytest said above")
    if asked.json:
        sys.stdout.write(to_json(run.record).decode())
    return exit_status(run.record)


def _command(asked: argparse.Namespace) -> list[str]:
    """pytest's arguments for what is asked, once there is something to judge.

    Raises:
        BadInput: no such evidence, image or scene; or nothing can be written.
        EngineError: no engine.
    """
    process = without_engine = False
    if asked.live and asked.lane:
        raise BadInput("--live: judges lane live alone; leave --lane out")
    if asked.live:
        Account.of(lambda name: getattr(asked, name[2:].replace("-", "_")))
        asked.lane = ["sagemaker"]
    elif asked.evidence:
        if not (Path(asked.evidence) / "evidence.json").exists():
            raise BadInput(f"{asked.evidence}: no evidence.json in it; give a folder of evidence")
        read(Path(asked.evidence) / "evidence.json", Header)
    elif asked.image and is_image(Path(asked.image)):
        asked.image = str(Path(asked.image).resolve())
        open_image(Path(asked.image))
    elif asked.lane == ["gpu"] and asked.image is None and not engine_answers():
        process = True
    else:
        without_engine = not preflight(
            asked.image or built_image(), Path(asked.scene or DEFAULT_SCENE)
        )
    out = Path(asked.out).resolve()
    try:
        # Better now than after minutes of work.
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise BadInput(unwritable(error, out)) from None
    command = ["-c", str(ROOT / "pytest.ini"), "--rootdir", str(ROOT)]
    command += ["-v", "--tb=no", "-rN", "--no-header", "-p", "no:cacheprovider"]
    # It loads hypothesis at the end of a run, which no check uses: a second and more.
    command += ["-p", "no:hypothesispytest"]
    command += ["-n", asked.workers] if asked.workers != "0" else []
    command += options.passed_on(asked)
    command += ["--process"] if process else []
    command += ["--layers"] if without_engine else []
    command += [str(ROOT / "tests" / lane) for lane in asked.lane or LANES[:3]]
    return [*command, *(str(Path(folder).resolve()) for folder in asked.checks)]


def _interrupted(asked: argparse.Namespace, run: Any) -> Any:
    """End a run that pytest did not: interrupted before it had begun, or after its record."""
    from splatgate.judge.plugin import Judge

    INTERRUPTS.ending = True
    if run is None:

        def option(name: str) -> Any:
            return getattr(asked, name[2:].replace("-", "_"), None)

        params = SimpleNamespace(dir=Path.cwd())
        config: Any = SimpleNamespace(getoption=option, invocation_params=params, option=asked)
        run = Judge(config, checklist.load())
    run.collect()
    run.finish(interrupted=True)
    where = run.problem or f"record: {run.folder / 'record.json'}"
    sys.stderr.write(f"splatgate judge: interrupted; {where}\n")
    return run


def stop_engine(argv: Sequence[str]) -> int:
    """Verb ``stop-engine``: stop the engine that was started here, and no other."""
    from splatgate.container import starting

    argparse.ArgumentParser(
        prog="splatgate stop-engine", description=VERBS["stop-engine"][1]
    ).parse_args(argv)
    started = starting.stop_ours()
    sys.stderr.write("stopped the engine\n" if started else "no engine was started here\n")
    return 0


def run_pytest(command: Sequence[str], *, quiet: bool) -> Any:
    """Run pytest in this process, its output on standard error if quiet.

    Returns its ``splatgate.judge.plugin.Judge``; None where it never came so far.
    """
    import pytest

    class Keeper:
        judge: Any = None

        def pytest_sessionstart(self, session: pytest.Session) -> None:
            self.judge = session.config.pluginmanager.getplugin("splatgate-judge")

    keeper = Keeper()
    with suppress(KeyboardInterrupt), redirect_stdout(sys.stderr if quiet else sys.stdout):
        pytest.main(list(command), plugins=[keeper])
    return keeper.judge


def engine_answers() -> bool:
    """Whether an engine is there; where not, the gpu lane runs the source tree in this
    interpreter.
    """
    from splatgate.container import engine

    try:
        engine.client()
    except engine.EngineError:
        return False
    return True


def preflight(ref: str | None, scene: Path) -> bool:
    """Find out before anything starts whether there is something to judge, and whether there is an
    engine to run it; without one, an image in a registry is judged by its layers.

    Raises:
        BadInput: no such image, or no scene.
        EngineError: no engine.
    """
    from splatgate.container import engine, image
    from splatgate.container.layers.remote import open_remote
    from splatgate.scene import colmap

    if ref is None:
        raise BadInput("no image to judge: build one (make image) or give --image REF")
    try:
        image.see(engine.client(), ref)
    except EngineError as error:
        if host(ref) is None:
            raise
        sys.stderr.write(f"{error}: judging {ref} by its layers, from its registry\n")
        open_remote(ref)
        return False
    colmap.load_scene(scene)
    return True


def as_json(value: object) -> str:
    """One JSON object, indented."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
