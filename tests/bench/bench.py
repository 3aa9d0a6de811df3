"""How long the container lane takes, held against container-structure-test on the same image.

Three numbers, each of a whole process from its start to its end, taken in turns in one run:

lane    the container lane without training, image present: at most 30 s on 2 cores
nine    the same nine facts by Splatgate and by container-structure-test: no slower
fact    time for each fact of the whole lane, by theirs for each of the nine: at most a quarter

Both must find every fact to hold, or the times mean nothing. ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import monotonic

from splatgate.evidence import BadInput, read
from splatgate.judge.in_process import cases
from splatgate.paths import ROOT, built_image
from splatgate.record import Record, State

LANE_SECONDS, NINE_RATIO, FACT_RATIO = 30.0, 1.0, 0.25
CONFIG = Path(__file__).with_name("structure.yaml")
#: The checks that answer the questions of structure.yaml.
NINE = (
    "test_entrypoint_is_exec_form_and_absolute",
    "test_environment_asks_for_the_gpu",
    "test_labels_name_the_image_and_its_origin",
    "test_entry_script_exists_and_is_executable",
    "test_environment_hides_no_gpu",
    "test_every_source_of_the_trainer_compiles",
    "test_imports_resolve",
    "test_gsplat_backend_loads_without_a_compiler",
    "test_starts_with_the_word_train",
)


def main() -> int:
    """Time all three; 0: within the bounds, 1: not, 3: could not measure."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--image", default=built_image(), help="default: the image built here")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds (default 3)")
    parser.add_argument("--json", action="store_true", help="the times on standard output")
    options = parser.parse_args()
    tool = shutil.which("container-structure-test")
    try:
        if tool is None:
            raise BadInput("no container-structure-test on PATH; run `make bench`, which has one")
        if options.image is None:
            raise BadInput("no image: build one (make image) or give --image REF")
        found = measure(tool, options.image, options.repeat)
    except BadInput as error:
        sys.stderr.write(f"bench: {error}\n")
        return 3
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0 if found["lane"]["ok"] and found["nine"]["ok"] and found["fact"]["ok"] else 1


def measure(tool: str, image: str, repeat: int) -> dict[str, dict[str, object]]:
    """Run everything in turns, so that what else the machine does falls on all alike."""
    nodes = {case.check.name: case.check.node for case in reversed(cases("container", "sagemaker"))}
    if missing := [name for name in NINE if name not in nodes]:
        raise BadInput(f"no check {', '.join(missing)} any more; mend NINE in {__file__}")
    wanted = tuple(nodes[name] for name in NINE)
    nine, theirs, lane, facts = [], [], [], 0
    for number in range(1, repeat + 1):
        seconds, count = structure(tool, image)
        theirs.append(seconds)
        nine.append(splatgate(image, *wanted)[0])
        seconds, facts = splatgate(image, str(ROOT / "tests" / "container"), "--quick")
        lane.append(seconds)
        say(
            f"round {number}: container-structure-test {theirs[-1]:.1f} s for {count} facts, "
            f"Splatgate {nine[-1]:.1f} s for the same, {lane[-1]:.1f} s for the lane's {facts}"
        )
    ratio = median(nine) / median(theirs)
    each = (median(lane) / facts) / (median(theirs) / len(NINE))
    found: dict[str, dict[str, object]] = {
        "lane": {"seconds": lane, "facts": facts, "ok": median(lane) <= LANE_SECONDS},
        "nine": {"seconds": nine, "theirs": theirs, "ratio": ratio, "ok": ratio <= NINE_RATIO},
        "fact": {"ratio": each, "ok": each <= FACT_RATIO},
    }
    for name, value, bound in (
        ("container lane, seconds", median(lane), LANE_SECONDS),
        ("nine facts, our time by theirs", ratio, NINE_RATIO),
        ("for each fact, our time by theirs", each, FACT_RATIO),
    ):
        say(f"{name:<36}{value:6.2f}  (at most {bound:g}{'' if value <= bound else ': MISSED'})")
    return found


def structure(tool: str, image: str) -> tuple[float, int]:
    """Seconds that container-structure-test takes for its configuration, and how many facts.

    Raises:
        BadInput: a fact does not hold there.
    """
    started = monotonic()
    done = subprocess.run(
        [tool, "test", "--image", image, "--config", str(CONFIG), "--output", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = monotonic() - started
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BadInput(f"container-structure-test: {last}") from None
    bad = [r for r in found.get("Results") or () if not r.get("Pass")]
    if bad or not found.get("Total"):
        raise BadInput(f"container-structure-test finds {bad or 'nothing'}; see {CONFIG}")
    return seconds, len(NINE)


def splatgate(image: str, *what: str) -> tuple[float, int]:
    """Seconds that pytest takes for some checks, and how many passed.

    Raises:
        BadInput: one fails or ends in an error, or of the nine one gives no answer.
    """
    with tempfile.TemporaryDirectory(prefix="splatgate-bench-") as out:
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"]
        started = monotonic()
        done = subprocess.run(
            [*command, *what, f"--image={image}", f"--out={out}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = monotonic() - started
        path = Path(out) / "record.json"
        if not path.exists():
            raise BadInput(f"pytest left no record: {(done.stdout + done.stderr)[-400:]}")
        checks = read(path, Record).checks
    bad = [c for c in checks if c.error or c.state in (State.FAILED, State.BLOCKED)]
    passed = [c for c in checks if c.state == State.PASSED]
    if bad or not passed or ("--quick" not in what and len(passed) != len(what)):
        raise BadInput(f"not all facts hold: {[(c.name, c.reason) for c in bad]}; see `judge`")
    return seconds, len(passed)


def say(text: str) -> None:
    """Progress, and the result for people."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
