"""How often diagnose is right on `tests/bundles`: `python -m tests.bundles.measure [--out FILE]`.

Whoever wrote the bundles and their expectations had only public threads at hand, and had not seen
the rules. The table of the first run stands unedited in docs/measured/diagnose-unseen-first.json,
the last one beside it.
"""

import argparse
import json
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

from splatgate.diagnose.explain import explain
from splatgate.diagnose.load import load
from splatgate.evidence import BadInput

HERE = Path(__file__).parent
NAMES = sorted(path.parent.name for path in HERE.glob("*/expected.toml"))


def expected(name):
    """What its author says of a bundle."""
    return tomllib.loads((HERE / name / "expected.toml").read_text())


def accepted(told):
    """Lines of the checklist of which one must come first."""
    return [told["item"], *told.get("or_first", ())] if "item" in told else []


def answer(path):
    """Verdict and the first three lines."""
    found = explain(load(path))
    return {"verdict": found.verdict, "ranked": [e.item for e in found.ranked[:3]]}


def log_alone(name, folder):
    """The answer to the lines of the log and nothing else, or None without any."""
    try:
        lines = [s.text for s in load(HERE / name / "bundle").log]
    except BadInput:
        return None
    if not lines:
        return None
    path = Path(folder) / f"{name}.log"
    path.write_text("\n".join(lines) + "\n")
    return answer(path)


def table():
    """One row for each bundle, and the sums."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            name: answer(HERE / name / "bundle") | {"log_alone": log_alone(name, folder)}
            for name in NAMES
        }
    return {"sums": sums(rows), "rows": rows}


def sums(rows):
    """What counts."""
    told = {name: expected(name) for name in rows}
    failures = [name for name in rows if told[name]["verdict"] == "cause"]
    alone = [n for n in failures if told[n]["log_only"] and rows[n]["log_alone"]]
    confusion = Counter(f"{told[n]['verdict']} → {rows[n]['verdict']}" for n in rows)

    def right(answers, most):
        return sum(
            bool(set(a["ranked"][:most]) & set(accepted(told[n]))) for n, a in answers.items()
        )

    whole, logs = {n: rows[n] for n in failures}, {n: rows[n]["log_alone"] for n in alone}
    return {
        "failures": len(failures),
        "first": right(whole, 1),
        "within three": right(whole, 3),
        "log alone, where it can tell": len(alone),
        "log alone, first": right(logs, 1),
        "log alone called well": sum(
            (r["log_alone"] or {}).get("verdict") == "well" for r in rows.values()
        ),
        "verdicts, expected → got": dict(sorted(confusion.items())),
        "healthy with nothing ranked": sum(
            not rows[n]["ranked"] for n in rows if told[n]["verdict"] == "well"
        ),
        "wrong first": {
            n: {"accepted": accepted(told[n]), "got": rows[n]["ranked"]}
            for n in failures
            if not set(rows[n]["ranked"][:1]) & set(accepted(told[n]))
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where the table is written")
    options = parser.parse_args()
    found = json.dumps(table(), indent=1, ensure_ascii=False) + "\n"
    (options.out.write_text if options.out else print)(found)
