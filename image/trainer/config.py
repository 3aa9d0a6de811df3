"""Hyperparameters: one typed table, read from SageMaker's file or the environment.

Adding a parameter is one field of ``Config`` and its use; ``--help``, validation, the logged
configuration, ``training_config.json`` and ``docs/trainer.md`` follow from it.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

Value = int | float | str
_TYPES: dict[str, type[int] | type[float] | type[str]] = {
    "int": int,
    "float": float,
    "str": str,
}


#: Values for the parameters that a request leaves at their defaults.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "detail": {},
    "sparse": {
        "max_gaussians": 20_000,
        "growth": 0.2,
        "opacity_reg": 0.003,
        "dropout": 0.2,
        "lr_means": 1.6e-4,
        "background": "random",
        "coarse": 0.0,
    },
}
#: The recipe of one long run on a GPU; its size comes from the scene (``Config.sized``).
MANY: Mapping[str, Any] = {"max_elongation": 10.0, "coarse": 0.4}
#: ``recipe=auto`` chooses for at most so many photographs; on a GPU, and from so many steps.
_CHOOSES_UP_TO, _CHOOSES_FROM = 30, 2000
#: Share of the steps on reduced photographs for the runs of a choice on a GPU.
_COARSE = 0.4
#: Steps for each photograph that is trained on, and at most.
_EACH, _STEPS = 70, 30_000
#: One Gaussian for so many pixels of these; so many for each SfM point in 7,000 steps; at most.
_PIXELS, _POINT, _MOST = 100, 54, 5_000_000


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter. ``low`` and ``high`` are inclusive; ``zero`` also allows 0 (= off)."""

    name: str
    type: type[int] | type[float] | type[str]
    default: Value
    help: str
    section: str
    low: float = -math.inf
    high: float = math.inf
    zero: bool = False
    choices: tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        """The allowed values, in words."""
        if self.choices:
            return " or ".join(self.choices)
        kind = "a whole number" if self.type is int else "a number"
        return f"{kind} from {self.low:.15g} to {self.high:.15g}" + (", or 0" if self.zero else "")


def _row(default: Value, section: str, help: str, *limits: float, **more: Any) -> Any:
    """A field of ``Config``; ``limits`` are low and high, its own name and type complete it."""
    low, high = limits or (-math.inf, math.inf)
    row = dict(default=default, section=section, help=help, low=low, high=high, **more)
    return field(default=default, metadata={"row": row})


@dataclass(frozen=True)
class Config:
    """The effective configuration, and the table of parameters: one field is one parameter."""

    max_iterations: int = _row(7000, "run", "optimisation steps", 1, 1_000_000)
    max_minutes: float = _row(
        0.0, "run", "end with a model in this time; 0 = no limit", 0.05, 40_000, zero=True
    )
    device: str = _row(
        "cuda", "run", "where to train; cpu is for small test jobs", choices=("cuda", "cpu")
    )
    recipe: str = _row(
        "auto",
        "run",
        "what stands for parameters left at their defaults: detail, the defaults; sparse, values "
        "for few photographs; choose, both tried, the better run four times more and merged; many, "
        "one run as long and large as the photographs ask for; auto, on a GPU and for 2000 steps "
        "or more choose for at most 30 photographs and many for more, else detail",
        choices=("auto", "choose", "detail", "many", "sparse"),
    )
    plateau: int = _row(
        0,
        "run",
        "end, at the best model so far, when an eighth of the training photographs, then kept "
        "aside, was drawn no better for this many steps; 0 = off",
        4,
        1_000_000,
        zero=True,
    )
    seed: int = _row(0, "run", "seed of every random draw", 0, 2**31 - 1)
    log_every: int = _row(100, "run", "steps between progress lines", 1, 1_000_000)
    eval_every: int = _row(
        0,
        "run",
        "steps between evaluations on the held-out views; 0 = only at the end",
        1,
        1_000_000,
        zero=True,
    )
    checkpoint_every: int = _row(
        1000, "run", "steps between checkpoints; 0 = none", 1, 1_000_000, zero=True
    )
    max_image_size: int = _row(
        1600, "data", "photographs are reduced to this longest side, in pixels", 32, 16_384
    )
    masks: str = _row(
        "use",
        "data",
        "whether what masks/ or a photograph's alpha leaves out takes no part in loss and figures",
        choices=("use", "ignore"),
    )
    hold_out: int = _row(
        8,
        "data",
        "every n-th photograph by name, from the first, is kept for evaluation; 0 = none",
        2,
        1_000_000,
        zero=True,
    )
    max_gaussians: int = _row(500_000, "model", "cap on the number of Gaussians", 100, 20_000_000)
    sh_degree: int = _row(3, "model", "degree of the spherical harmonics of the colour", 0, 3)
    sh_every: int = _row(1000, "model", "steps between raising the degree in use", 1, 1_000_000)
    init_scale: float = _row(
        0.1,
        "model",
        "initial size of a Gaussian, relative to the distance of its neighbours",
        0.001,
        10,
    )
    max_elongation: float = _row(
        3.0, "model", "longest axis of a Gaussian over its middle one; 0 = free", 1, 1000, zero=True
    )
    refine_start: int = _row(
        500, "densification", "first step that may add Gaussians", 0, 1_000_000
    )
    refine_every: int = _row(100, "densification", "steps between refinements", 1, 1_000_000)
    refine_stop: int = _row(
        0,
        "densification",
        "last step that may add Gaussians; 0 = nine tenths of max_iterations",
        1,
        1_000_000,
        zero=True,
    )
    growth: float = _row(0.05, "densification", "share of Gaussians added per refinement", 0.001, 1)
    opacity_reg: float = _row(0.01, "loss", "weight of the mean opacity", 0, 1)
    background: str = _row(
        "black",
        "loss",
        "what a training render shows where no Gaussian is: black as a viewer does, or a random "
        "colour each step",
        choices=("black", "random"),
    )
    dropout: float = _row(
        0.1,
        "loss",
        "share of Gaussians left out of a step, reached linearly at the last step",
        0,
        0.9,
    )
    lr_means: float = _row(
        3.2e-4,
        "learning rates",
        "of positions, times the scene's size; falls to 1 % at the end",
        0,
        1,
    )
    lr_scales: float = _row(5e-3, "learning rates", "of log scales", 0, 1)
    lr_sh: float = _row(2.5e-3, "learning rates", "of colours; a 20th of it above degree 0", 0, 1)
    #: Share of the steps on photographs reduced to a half, the first three eighths of it to a
    #: quarter; a recipe's, no parameter of a request.
    coarse: float = 0.0
    #: Where each value comes from, by name.
    sources: Mapping[str, str] = field(default_factory=dict)

    def following(self, recipe: str, **own: Any) -> Config:
        """With the values of a recipe, and the scene's ``own``, where the request has none."""
        values = {**{**RECIPES, "many": MANY}[recipe], **own}
        free = {n: v for n, v in values.items() if self._is_default(n)}
        sources = {**self.sources, **dict.fromkeys(free, f"recipe {recipe}")}
        return replace(self, recipe=recipe, **free, sources=sources)

    def resolved(
        self, photographs: int, pixels: int = 0, points: int = 0, most: int = _MOST
    ) -> Config:
        """With ``recipe=auto`` decided, and with the values of the recipe if it is a single one.

        ``pixels`` of all photographs as they are trained, SfM ``points``, and the ``most``
        Gaussians that memory holds: what the size of a run of ``many`` comes from.
        """
        name, gpu = self.recipe, self.device == "cuda"
        if name == "auto":
            few = photographs <= _CHOOSES_UP_TO and not self.plateau
            name = "choose" if few else "many"
            if not gpu or self.max_iterations < _CHOOSES_FROM:
                name = "detail"
        if name == "many":
            return self.following(name, **self._sized(photographs, pixels, max(1, points), most))
        if name == "choose":
            return replace(self, recipe=name, coarse=_COARSE * gpu)
        return self.following(name)

    def _sized(self, photographs: int, pixels: int, points: int, most: int) -> dict[str, Any]:
        """Steps, most Gaussians, and the growth that reaches these at the last refinement."""
        seen = 1 - 1 / self.hold_out if self.hold_out else 1
        steps = min(_STEPS, max(self.max_iterations, int(_EACH * photographs * seen)))
        steps = steps if self._is_default("max_iterations") else self.max_iterations
        target = min(pixels * seen / _PIXELS, points * _POINT * steps / 7000, most)
        target = max(int(target), points, 1000) if self._is_default("max_gaussians") else 0
        target = target or self.max_gaussians
        last = replace(self, max_iterations=steps).last_refinement
        times = max(1, (last - self.refine_start) // self.refine_every)
        growth = min(1.0, max(0.001, (target / points) ** (1 / times) - 1))
        return {"max_iterations": steps, "max_gaussians": target, "growth": round(growth, 4)}

    def _is_default(self, name: str) -> bool:
        return self.sources.get(name, "default") == "default"

    def values(self) -> dict[str, Value]:
        """Name to effective value, in the table's order."""
        return {p.name: getattr(self, p.name) for p in TABLE}

    @property
    def last_refinement(self) -> int:
        """The last step that may add Gaussians, with the default worked out."""
        return self.refine_stop or self.max_iterations * 9 // 10


TABLE: tuple[Parameter, ...] = tuple(
    Parameter(f.name, _TYPES[str(f.type)], **f.metadata["row"])
    for f in fields(Config)
    if "row" in f.metadata
)
_BY_NAME = {p.name: p for p in TABLE}
#: Keys that the SageMaker SDK, its toolkit and hyperparameter tuning add on their own.
_IGNORED = re.compile(r"sagemaker_.*|_tuning_objective_metric")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def load(base: Path, environment: Mapping[str, str]) -> Config:
    """Read the configuration of a job under ``base`` (``/opt/ml`` on SageMaker).

    Values of ``input/config/hyperparameters.json`` win over upper-case environment variables,
    which win over defaults. Raises ``E_HYPERPARAMETER`` naming every problem found.
    """
    path = base / "input" / "config" / "hyperparameters.json"
    given: dict[str, tuple[object, str]] = {
        p.name: (environment[p.name.upper()], f"environment variable {p.name.upper()}")
        for p in TABLE
        if p.name.upper() in environment
    }
    problems = []
    for key, value in _read(path).items():
        if key in _BY_NAME:
            given[key] = (value, "hyperparameters.json")
        elif not _IGNORED.fullmatch(key):
            problems.append(_unknown(key))
    values: dict[str, Value] = {p.name: p.default for p in TABLE}
    sources = dict.fromkeys(values, "default")
    for name, (raw, source) in given.items():
        try:
            values[name] = coerce(_BY_NAME[name], raw)
            sources[name] = source
        except ValueError as error:
            problems.append(f"{name}={_quote(raw)} ({source}) {error}")
    problems += _contradictions(values, sources)
    if problems:
        raise TrainerError("E_HYPERPARAMETER", "; ".join(problems))
    return Config(**values, sources=sources)  # type: ignore[arg-type]  # typed by the table


def coerce(parameter: Parameter, raw: object) -> Value:
    """``raw`` as the parameter's type; ValueError says what is wrong and what would be right.

    Step Functions and boto3 send text as it is (``adam``, ``7000``); the SageMaker SDK encodes it
    as JSON first (``"adam"`` with its quotes). Both are read; so is a bare JSON number.
    """
    otherwise = f"give {parameter.domain}, or leave it out for {parameter.default}"
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise ValueError(f"is not text; {otherwise}")
    text = _unquote(str(raw)).strip()
    if text in ("", "null", "None"):
        raise ValueError(f"is empty; {otherwise}")
    if parameter.type is str:
        if text not in parameter.choices:
            raise ValueError(f"is not known; {otherwise}")
        return text
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"is not a number; {otherwise}")
    number = float(text)
    allowed = parameter.low <= number <= parameter.high or (parameter.zero and number == 0)
    if not allowed:
        raise ValueError(f"is out of range; {otherwise}")
    if parameter.type is float:
        return number
    if not number.is_integer():
        raise ValueError(f"is not a whole number; {otherwise}")
    return int(number)


def help_text() -> str:
    """The table of hyperparameters as text for ``--help``."""
    out = [
        "Hyperparameters (hyperparameters.json, or the same names in upper case in the "
        "environment):"
    ]
    for section in dict.fromkeys(p.section for p in TABLE):
        out.append(f"\n{section}")
        for p in (p for p in TABLE if p.section == section):
            out.append(f"  {p.name:<17} {p.help}\n{'':<20}{p.domain}; default {p.default}")
    return "\n".join(out)


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TrainerError("E_HYPERPARAMETER", f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise TrainerError(
            "E_HYPERPARAMETER",
            f"{path} holds {type(content).__name__}, not a flat map of names to strings",
        )
    return content


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The pairs of one JSON object as a dict; ValueError where a name is given twice."""
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{_quote(key)} is given twice; leave one of them out")
        found[key] = value
    return found


def _unquote(text: str) -> str:
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return decoded if isinstance(decoded, str) else text


def _quote(raw: object) -> str:
    text = str(raw)
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key.lower(), list(_BY_NAME), 1)
    hint = f"did you mean {near[0]}?" if near else "--help lists the names"
    return f"{_quote(key)} (hyperparameters.json) is not a parameter; {hint}"


def _contradictions(values: Mapping[str, Value], sources: Mapping[str, str]) -> list[str]:
    """Combinations that cannot be meant. Defaults never contradict: they give way."""
    found = []
    steps = values["max_iterations"]
    for name in ("refine_start", "refine_stop"):
        if sources[name] != "default" and values[name] > steps:  # type: ignore[operator]
            found.append(
                f"{name}={values[name]} ({sources[name]}) lies after the last step; lower "
                f"it, or raise max_iterations={steps}"
            )
    if values["recipe"] == "choose" and values["plateau"]:
        found.append("recipe=choose and plateau both keep photographs aside; leave one out")
    start, stop = values["refine_start"], values["refine_stop"]
    if stop and start >= stop:  # type: ignore[operator]
        found.append(f"refine_start={start} is not before refine_stop={stop}; lower the first")
    return found
