"""The verbs of ``python -m splatgate``. Each is a thin door to the room that does the work."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from splatgate.checklist import LANES
from splatgate.container import cuda
from splatgate.container.engine import EngineError
from splatgate.container.reference import parse
from splatgate.evidence import BadInput, Header, from_json, read, to_json
from splatgate.evidence.text import plain
from splatgate.judge import options
from splatgate.paths import DEFAULT_SCENE, ROOT, built_image
from splatgate.record import Record
from splatgate.sources.run import GIVEN
from splatgate.verdict import EXIT_NO_JUDGEMENT, exit_status

#: Verb, the function that answers it, and one line of help.
VERBS = {
    "image": ("splatgate.container.build:main", "build our trainer image"),
    "judge": ("splatgate.cli:judge", "look at an image and judge it, or judge recorded evidence"),
    "faults": ("splatgate.proof.cli:main", "prove that the judge can say no"),
    "diagnose": ("splatgate.diagnose.cli:main", "explain a failed job by the checklist"),
    "checks": ("splatgate.proof.published:main", "the catalogue of checks, from their docstrings"),
    "job": ("splatgate.sagemaker.cli:main", "run one training job as SageMaker would"),
    "probe": ("splatgate.probing.cli:main", "answer open points by one short job in your account"),
    "pipeline": ("splatgate.pipeline.cli:main", "judge a state machine and its requests"),
    "scene": ("splatgate.scene.cli:main_scene", "judge a COLMAP scene"),
    "push": ("splatgate.signoff.cli:push", "push an image to a staging repository"),
    "gate": ("splatgate.signoff.cli:main", "merge records, decide under a policy, promote"),
    "sign": ("splatgate.signoff.cli:sign", "sign a run record with a key"),
    "verify": ("splatgate.signoff.cli:verify", "verify the signed sign-off of a digest"),
    "stop-engine": ("splatgate.cli:stop_engine", "stop the engine that `image` started, if it did"),
    "splats": ("splatgate.scene.cli:main_splats", "judge a .ply against its scene"),
}

#: Ways on for a machine on which no engine can run.
WITHOUT_ENGINE = (
    "or name one elsewhere (DOCKER_HOST=ssh://HOST), or judge recorded evidence (make replay)"
)


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
    module, _, name = VERBS[verb][0].partition(":")
    try:
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
    except KeyboardInterrupt:
        sys.stderr.write(f"splatgate {verb}: interrupted\n")
        return 130


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
        cuda.target(name)
    for name in GIVEN.values():
        path = getattr(asked, name[2:].replace("-", "_"))
        if path is not None and not Path(path).is_file():
            raise BadInput(f"{name} {path}: no such file")
    out = Path(asked.out).resolve()
    record = out / "record.json"
    if asked.baseline:
        read(Path(asked.baseline), Record)
        if Path(asked.baseline).resolve() == record:
            raise BadInput(f"--baseline {record}: this run writes its own there; give --out DIR")
    process = False
    if asked.evidence:
        if not (Path(asked.evidence) / "evidence.json").exists():
            raise BadInput(f"{asked.evidence}: no evidence.json in it; give a folder of evidence")
        read(Path(asked.evidence) / "evidence.json", Header)
    elif asked.lane == ["gpu"] and asked.image is None and not engine_answers():
        process = True
    else:
        preflight(asked.image or built_image(), Path(asked.scene or DEFAULT_SCENE))
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pytest.ini")]
    command += ["-v", "--tb=no", "-rN", "--no-header", "-p", "no:cacheprovider"]
    command += ["-n", asked.workers] if asked.workers != "0" else []
    command += [f"--junitxml={out / 'junit.xml'}"]
    command += options.passed_on(asked)
    command += ["--process"] if process else []
    command += [str(ROOT / "tests" / lane) for lane in asked.lane or LANES[:3]]
    run_pytest(command, quiet=asked.json)
    if not record.exists():
        raise BadInput("the run left no record; see what pytest said above")
    result = from_json(record.read_bytes(), Record, str(record))
    if asked.json:
        sys.stdout.write(to_json(result).decode())
    return exit_status(result)


def stop_engine(argv: Sequence[str]) -> int:
    """Verb ``stop-engine``: stop the engine that was started here, and no other."""
    from splatgate.container import starting

    argparse.ArgumentParser(
        prog="splatgate stop-engine", description=VERBS["stop-engine"][1]
    ).parse_args(argv)
    started = starting.stop_ours()
    sys.stderr.write("stopped the engine\n" if started else "no engine was started here\n")
    return 0


def run_pytest(command: Sequence[str], *, quiet: bool) -> int:
    """Run pytest, handing interrupts on to it so that it can sweep; its output goes to standard
    error if quiet.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=sys.stderr if quiet else None, env={**os.environ}
    )
    previous = {
        number: signal.signal(number, lambda received, _: process.send_signal(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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


def preflight(ref: str | None, scene: Path) -> None:
    """Find out before anything starts whether there is something to judge, and something to judge
    it with.

    Raises:
        BadInput: no such image, or no scene.
        EngineError: no engine.
    """
    from splatgate.container import engine, image
    from splatgate.scene import colmap

    if ref is None:
        raise BadInput("no image to judge: build one (make image) or give --image REF")
    image.see(engine.client(), ref)
    colmap.load_scene(scene)


def as_json(value: object) -> str:
    """One JSON object, indented."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
