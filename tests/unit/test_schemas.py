"""Published schemas, against what the verbs really print."""

import json

import pytest

from splatgate import cli, schemas
from splatgate.paths import DEFAULT_SCENE, ROOT


@pytest.mark.parametrize("name", schemas.TYPES)
def test_a_schema_is_json_and_names_fields(name, capsys):
    assert cli.main(["schema", name]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["$ref"].removeprefix("#/$defs/") in found["$defs"]


def fields(name):
    found = schemas.schema(name)
    return found["$defs"][found["$ref"].removeprefix("#/$defs/")]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("scene", ["scene", str(DEFAULT_SCENE), "--json"]),
        ("pipeline", ["pipeline", str(ROOT / "pipeline" / "definition.json"), "--json"]),
    ],
    ids=["scene", "pipeline"],
)
def test_what_a_verb_prints_has_the_schemas_fields(name, arguments, capsys):
    cli.main(arguments)
    printed, known = json.loads(capsys.readouterr().out), fields(name)
    assert set(printed) == set(known["properties"])
    assert set(known.get("required", ())) <= set(printed)


def test_a_recorded_run_has_the_schemas_fields():
    recorded = json.loads((ROOT / "tests" / "evidence" / "good" / "record.json").read_text())
    known = fields("judge")
    assert set(known.get("required", ())) <= set(recorded) <= set(known["properties"])
