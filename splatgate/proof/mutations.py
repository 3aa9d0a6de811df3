"""What is edited in evidence, by which documented bad values, and which edits nobody should notice.

Typed data and pure functions over JSON values; ``splatgate.proof.mutants`` tries them.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from splatgate.container.distribution import INDEXES
from splatgate.container.image import LABEL_FLOOR
from splatgate.evidence import strict
from splatgate.expectations import CAPABILITIES, VISIBLE
from splatgate.paths import ROOT
from splatgate.proof.edit import COMMANDS, Path_, ended

FILE = ROOT / "tests" / "equivalent.toml"


def edits(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, str, Any]]:
    """Every edit of a JSON value as (path, mutation, edited document)."""
    if isinstance(value, dict):
        if value:
            yield path, "emptied", {}
        for key in value:
            yield (*path, key), "removed", {k: v for k, v in value.items() if k != key}
            for where, what, edited in edits(value[key], (*path, key)):
                yield where, what, {**value, key: edited}
    elif isinstance(value, list):
        yield path, "emptied" if value else "filled", [] if value else ["mutant"]
        for index, element in enumerate(value):
            yield (*path, index), "removed", value[:index] + value[index + 1 :]
            for where, what, edited in edits(element, (*path, index)):
                yield where, what, [*value[:index], edited, *value[index + 1 :]]
    elif isinstance(value, bool):
        yield path, "flipped", not value
    elif isinstance(value, int | float):
        yield from ((path, f"set to {n}", n) for n in (0, -1, 10**9) if value != n)
    elif isinstance(value, str):
        yield from ((path, f"set to {t!r}", t) for t in ("", "mutant") if value != t)
    else:
        yield from ((path, f"set to {v!r}", v) for v in ("mutant", 1))


@dataclass(frozen=True)
class Bad:
    """A documented bad value: on it some check must fail. ``source`` names a known failure, a
    trap or a section of the contract.
    """

    file: str
    changes: Mapping[Path_, Any]
    source: str

    @property
    def name(self) -> str:
        """What is changed, for people."""
        return ", ".join(f"{'.'.join(map(str, p))}={v!r}" for p, v in self.changes.items())


def _one(file: str, path: Path_, source: str, *values: Any) -> Iterator[Bad]:
    yield from (Bad(file, {path: value}, source) for value in values)


def _slow(seconds: float) -> dict[Path_, Any]:
    return {("stop_seconds",): seconds}


def _job(name: str) -> str:
    # The key's hash has eight digits, by which `stop` is not `stop-export`.
    return f"jobs/{name}-????????/job.json"


_IMAGE, _FACTS, _COMMANDS = "image.json", "container/facts.json", COMMANDS
_TRAIN = "cd /* && exec *"
_REFUSALS = ("empty-channel", "malformed", "no-gpu", "no-photos")
_INDENT = "IndentationError: unexpected indent (train.py, line 7)"
_TRACEBACK = "Traceback (most recent call last):\n  File ...\nKeyError: 'SM_CHANNEL_TRAINING'\n"

BAD: tuple[Bad, ...] = (
    *_one(_IMAGE, ("architecture",), "contract 4, platform", "arm64", "386", ""),
    *_one(_IMAGE, ("os",), "contract 4, platform", "windows"),
    *_one(
        _IMAGE,
        ("entrypoint",),
        "contract 1.1, traps 1 and 3",
        [],
        ["/bin/sh", "-c", "python /opt/trainer/train.py"],
        ["python", "/opt/trainer/train.py"],
        ["/usr/bin/python3", "train.py"],
    ),
    *_one(_IMAGE, ("labels", LABEL_FLOOR), "contract 5.2, trap 15", "450", "470.57", ""),
    *_one("registry.json", ("image", "served"), "K40", None),
    *_one("registry.json", ("image", "served", "image_id"), "K40", "sha256:" + 64 * "0", None),
    *_one("registry.json", ("image", "served", "media_type"), "K48, trap 19", *INDEXES),
    *_one("registry.json", ("tags",), "K49, K50", {}),
    *_one("build.json", ("image_id",), "guide, Step 1", "sha256:" + 64 * "0"),
    *_one(_FACTS, ("machine",), "contract 4, platform", "aarch64"),
    *_one(_FACTS, ("libraries", "*/csrc*.so", "machine"), "contract 4, platform", "aarch64"),
    *_one(
        _FACTS, ("environment", "CUDA_VISIBLE_DEVICES"), "K12, K18", "", "all", "-1", "none", "0"
    ),
    *_one(_FACTS, ("environment", VISIBLE), "contract 5.3, trap 16", "", "void", "none"),
    *_one(_FACTS, ("environment", CAPABILITIES), "contract 5.3, trap 16", "", "utility", "compute"),
    *_one(
        _FACTS, ("libraries", "*/csrc*.so", "cubins"), "contract 5.2, trap 14", [], [80], [86, 89]
    ),
    *_one(_FACTS, ("libraries",), "contract 5.2, trap 14", []),
    *_one(_FACTS, ("torch_cuda",), "guide, cause 2", None, ""),
    *_one(_FACTS, ("torch_cuda",), "contract 6.1, trap 15", "13.0"),
    *_one(_FACTS, ("gsplat_extension",), "contract 6.3, K14, trap 13", None),
    *_one(_FACTS, ("sources", "*/train_gaussian_production.py", "error"), "K01", _INDENT),
    *_one(
        _FACTS,
        ("imports", "gsplat", "error"),
        "K02",
        "ModuleNotFoundError: No module named 'gsplat'",
    ),
    *_one(_FACTS, ("distributions", "MarkupSafe", "version"), "K10", "0.0.1"),
    *_one(_FACTS, ("writable", "/opt/ml/model"), "K08", False),
    *_one(_FACTS, ("compilers",), "K14", ["/usr/local/cuda/bin/nvcc"]),
    *_one(_COMMANDS, ("test -e *", "status"), "contract 2.1, trap 5", 1),
    *_one(_COMMANDS, ("stat -Lc %a *", "stdout"), "guide, Step 2", "644\n"),
    *_one(_COMMANDS, (_TRAIN, "status"), "contract 1.1, 1.3", 0, 126, 127),
    Bad(_COMMANDS, {(_TRAIN, "stdout"): "", (_TRAIN, "stderr"): ""}, "contract 1.2"),
    Bad(_COMMANDS, {(_TRAIN, "stderr"): _TRACEBACK}, "contract 1.3, trap 7"),
    Bad(
        _COMMANDS,
        {
            (_TRAIN, "status"): 2,
            (_TRAIN, "stderr"): "usage: train.py [-h]\nerror: unrecognized arguments: train\n",
        },
        "contract 1.1, trap 2",
    ),
    *(
        Bad(_job("smoke"), ended(code, None), "contract 1.3, K17")
        for code in (1, 127, 137, 139, None)
    ),
    Bad(_job("smoke"), ended(0, None, "MaxRuntimeExceeded") | _slow(3.0), "K47"),
    *_one(_job("smoke"), ("writes_outside",), "contract 2.1, 2.6", ["/root/.cache/torch"]),
    *_one(
        "jobs/smoke-*/model/training_config.json",
        ("parameters", "max_iterations"),
        "K43, trap 6",
        30000,
        None,
    ),
    *_one("jobs/truth-*/model/metrics.json", ("psnr",), "K19, K20", 54.0),
    *_one("jobs/truth-*/model/metrics.json", ("gaussians",), "K19", 1_000_000),
    *_one("jobs/truth-*/model/metrics.json", ("held_out",), "design, decision 7", []),
    *_one(_job("smoke"), ("log",), "contract 1.2, K28", []),
    *_one(_job("smoke"), ("members",), "contract 1.3", []),
    *_one(_job("truth"), ("members",), "K45", []),
    *_one(_job("truth"), ("members", "*.ply", "kind"), "contract 2.5, trap 25", "symlink"),
    *_one(_job("truth"), ("members", "*.ply", "path"), "K45", "iteration_7000/point_cloud.ply"),
    *(Bad(_job(name), ended(0, None), "contract 1.3, trap 8") for name in _REFUSALS),
    *(Bad(_job(name), ended(1, None), "contract 1.3, trap 7") for name in _REFUSALS),
    *(Bad(_job(name), ended(1, "CUDA error"), "K27") for name in _REFUSALS),
    *_one(_job("no-gpu"), ("phases", "Training"), "K13", 780.0),
    Bad(_job("empty-channel"), ended(3, "E_CHANNEL_EMPTY " + 1200 * "x"), "contract 1.3"),
    Bad(
        _job("stop"),
        ended(137, None, "StopTrainingJob") | _slow(120.0),
        "contract 1.4, trap 4",
    ),
    *_one(_job("stop"), ("members",), "contract 1.4, trap 4", []),
    *_one(_job("stop"), ("checkpoint_members",), "contract 1.5", []),
    Bad(_job("resumed"), ended(1, None), "contract 1.5"),
)


@dataclass(frozen=True)
class Rule:
    """Why no check should notice some edits: patterns over ``file:field``, or over both and the
    mutation.
    """

    why: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class _Rules:
    rule: tuple[Rule, ...]


@cache
def rules(path: Path = FILE) -> tuple[Rule, ...]:
    """The written rules."""
    return strict.read(path, _Rules).rule


@cache
def _excused() -> re.Pattern[str]:
    patterns = (pattern for rule in rules() for pattern in rule.fields)
    return re.compile("|".join(map(fnmatch.translate, patterns)))


def equivalent(file: str, field: str, mutation: str = "") -> bool:
    """Whether a written rule says that no check should notice."""
    names = (f"{file}:{field}", f"{file}:{field} {mutation}")
    return any(_excused().match(name) for name in names)
