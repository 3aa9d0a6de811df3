"""Hyperparameters: both dialects read, everything doubtful refused with a way out."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer import config
from trainer.errors import TrainerError


def load(tmp_path: Path, parameters: object = None, **environment: str) -> config.Config:
    """Write ``hyperparameters.json`` under ``tmp_path`` (None: no file) and read it back."""
    if parameters is not None:
        path = tmp_path / "input/config/hyperparameters.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(parameters))
    return config.load(tmp_path, environment)


def test_table_and_dataclass_name_the_same_parameters() -> None:
    names = [f.name for f in fields(config.Config)]
    assert names == [p.name for p in config.TABLE] + ["coarse", "sources"]


@pytest.mark.parametrize("parameters", [None, {}], ids=["absent", "empty"])
def test_no_parameters_mean_defaults(tmp_path: Path, parameters: object) -> None:
    got = load(tmp_path, parameters)
    assert got.values() == {p.name: p.default for p in config.TABLE}
    assert set(got.sources.values()) == {"default"}


@pytest.mark.parametrize("raw", ["7", '"7"', " 7 ", "007", "7.0", "0.7e1", 7], ids=repr)
def test_every_spelling_of_a_number_is_read(tmp_path: Path, raw: object) -> None:
    assert load(tmp_path, {"max_iterations": raw}).max_iterations == 7


@pytest.mark.parametrize("raw", ["cpu", '"cpu"'])
def test_text_is_read_in_both_dialects(tmp_path: Path, raw: str) -> None:
    assert load(tmp_path, {"device": raw}).device == "cpu"


@pytest.mark.parametrize(
    "raw",
    [
        "abc",
        "",
        "null",
        '""',
        "True",
        "true",
        "nan",
        "inf",
        "1e999",
        "1_000",
        "0x10",
        "7.5",
        "-3",
        "0",
        "[1]",
        "{}",
        "٧",
        True,
        None,
        [],
        {"a": 1},
        "9" * 400,
    ],
    ids=lambda raw: repr(raw)[:20],
)
def test_no_whole_number_is_refused_by_name(tmp_path: Path, raw: object) -> None:
    with pytest.raises(TrainerError, match=r"max_iterations=.*hyperparameters\.json.*give") as e:
        load(tmp_path, {"max_iterations": raw})
    assert e.value.code == "E_HYPERPARAMETER"
    assert e.value.kind.exit == 3


def test_hyperparameters_win_over_environment(tmp_path: Path) -> None:
    got = load(tmp_path, {"seed": "1"}, SEED="2", DEVICE="cpu", HOLD_OUT="4")
    assert (got.seed, got.device, got.hold_out) == (1, "cpu", 4)
    assert got.sources["device"] == "environment variable DEVICE"


def test_bad_environment_is_refused_with_its_variable(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="environment variable MAX_ITERATIONS"):
        load(tmp_path, MAX_ITERATIONS="many")


def test_unknown_key_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="did you mean max_iterations"):
        load(tmp_path, {"max_iteration": "7"})


def test_keys_of_sdk_and_tuning_are_ignored(tmp_path: Path) -> None:
    load(tmp_path, {"sagemaker_program": '"x.py"', "_tuning_objective_metric": "psnr"})


def test_all_problems_come_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(TrainerError) as e:
        load(tmp_path, {"max_iterations": "abc", "bogus": "1", "sh_degree": "4"})
    assert all(word in str(e.value) for word in ("max_iterations", "bogus", "sh_degree"))


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_iterations": "100", "refine_start": "200"},
        {"refine_start": "9", "refine_stop": "9"},
        {"max_iterations": "100", "refine_stop": "101"},
    ],
)
def test_contradictions_are_refused(tmp_path: Path, parameters: dict[str, str]) -> None:
    with pytest.raises(TrainerError, match="refine_"):
        load(tmp_path, parameters)


def test_short_run_with_defaults_is_no_contradiction(tmp_path: Path) -> None:
    assert load(tmp_path, {"max_iterations": "10"}).last_refinement == 9


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "7", "", "[" * 100_000], ids=lambda t: t[:9])
def test_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "input/config/hyperparameters.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(TrainerError, match=r"hyperparameters\.json"):
        config.load(tmp_path, {})


def test_a_name_given_twice_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "input/config/hyperparameters.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"seed": "1", "max_iterations": "7", "seed": "2"}')
    with pytest.raises(TrainerError, match="'seed' is given twice") as refused:
        config.load(tmp_path, {})
    assert refused.value.code == "E_HYPERPARAMETER"


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "input/config/hyperparameters.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"seed": "3"}', encoding="utf-8-sig")
    assert config.load(tmp_path, {}).seed == 3


@given(st.sampled_from(config.TABLE), st.text() | st.integers() | st.floats() | st.booleans())
def test_coerce_gives_a_valid_value_or_a_reason(parameter: config.Parameter, raw: object) -> None:
    reason = value = None
    try:
        value = config.coerce(parameter, raw)
    except ValueError as error:
        reason = str(error)
    if value is None:
        assert reason is not None
        assert "leave it out for" in reason
        return
    assert type(value) is parameter.type
    if not isinstance(value, str):
        assert parameter.low <= value <= parameter.high or (parameter.zero and value == 0)


@given(st.sampled_from(config.TABLE))
def test_defaults_are_in_their_own_range(parameter: config.Parameter) -> None:
    assert config.coerce(parameter, str(parameter.default)) == parameter.default
    assert config.coerce(parameter, json.dumps(str(parameter.default))) == parameter.default


def test_help_names_every_parameter() -> None:
    assert all(p.name in config.help_text() and p.help for p in config.TABLE)
