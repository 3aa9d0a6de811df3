"""What people keep state machines in: each is read, or answered with what to give instead."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from splatgate.evidence import BadInput
from splatgate.paths import ROOT
from splatgate.pipeline import source
from splatgate.pipeline.cli import main
from splatgate.pipeline.document import parse
from splatgate.pipeline.findings import DOCS, RULES

SOUND = {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}
BROKEN = {"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "B"}}}
TYPE = "AWS::StepFunctions::StateMachine"


def resource(**properties):
    return {"Type": TYPE, "Properties": properties}


def template(**resources):
    return json.dumps({"Resources": resources})


def terraform(address, **values):
    found = {"type": "aws_sfn_state_machine", "address": address, "values": values}
    module = {"child_modules": [{"resources": [found]}]}
    return json.dumps({"planned_values": {"root_module": module}})


IN_YAML = f"""
Parameters:
  Seconds: {{Type: Number, Default: 30}}
Resources:
  One:
    Type: AWS::Serverless::StateMachine
    Properties:
      Definition:
        StartAt: W
        States:
          W: {{Type: Wait, Seconds: !Ref Seconds, Next: T}}
          T:
            Type: Task
            Resource: !Sub "arn:${{AWS::Partition}}:states:::sns:publish"
            Parameters: {{TopicArn: !Ref Topic, Message: x, Since: 2026-01-01}}
            End: true
  Two:
    Type: {TYPE}
    Properties:
      DefinitionString: !Sub |
        {json.dumps(SOUND)}
"""
#: file name: (text, machines in it, rules of their musts)
FILES = {
    "a.json": (json.dumps(SOUND), [""], set()),
    "b.yaml": (yaml.safe_dump(BROKEN), [""], {"asl"}),
    "c.jsonc": ("// ours\n" + json.dumps(SOUND)[:-1] + ",\n}", [""], set()),
    "described.json": (json.dumps({"definition": json.dumps(SOUND)}), [""], set()),
    "twice.json": ('{"StartAt": "A", "StartAt": "A", "States": {"A": {"Type": "Succeed"}}}', [""],
                   {"json"}),
    "template.yaml": (IN_YAML, ["One", "Two"], {"request"}),
    "string.json": (template(M=resource(DefinitionString=json.dumps(BROKEN))), ["M"], {"asl"}),
    "join.json": (template(M=resource(DefinitionString={"Fn::Join": ["", [
        '{"StartAt":"A","States":{"A":{"Type":"Task","End":true,"Resource":"',
        {"Fn::GetAtt": ["F", "Arn"]}, '"}}}']]})), ["M"], set()),
    "filled.json": (template(M=resource(
        DefinitionString='{"StartAt":"A","States":{"A":{"Type":"Wait","Seconds":${S},"End":true}}}',
        DefinitionSubstitutions={"S": 5})), ["M"], set()),
    "nobody.json": (template(M=resource(
        Definition={"StartAt": "A", "States": {"A": {"Type": "Pass", "Result": "${X}",
                                                     "End": True}}})), ["M"], {"json"}),
    "uri.json": (template(M=resource(DefinitionUri="a.json")), ["M"], set()),
    "plan.json": (terraform("aws_sfn_state_machine.m", definition=json.dumps(SOUND)),
                  ["aws_sfn_state_machine.m"], set()),
    "serverless.yml": (yaml.safe_dump({"stepFunctions": {"stateMachines": {
        "m": {"name": "m", "definition": BROKEN}}}}), ["m"], {"asl"}),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, (text, _, _) in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def told(capsys, *arguments):
    status = main([*map(str, arguments), "--json"])
    found = json.loads(capsys.readouterr().out)
    return status, found if isinstance(found, list) else [found]


@pytest.mark.parametrize("name", FILES)
def test_each_format_is_read(folder, capsys, name):
    _, machines, rules = FILES[name]
    status, found = told(capsys, folder / name)
    assert [f["source"].partition("#")[2] for f in found] == machines
    musts = {f["rule"] for v in found for f in v["findings"] if f["level"] == "must"}
    assert musts == rules
    assert status == (1 if rules else 0)


def test_every_machine_of_a_folder_is_judged(folder, capsys):
    status, found = told(capsys, folder)
    assert len(found) == sum(len(machines) for _, machines, _ in FILES.values())
    assert status == 1


def test_one_machine_of_several_is_named(folder, capsys):
    _, found = told(capsys, folder / "template.yaml", "--machine", "Two")
    assert [f["source"] for f in found] == ["template.yaml#Two"]
    with pytest.raises(BadInput, match="One, Two"):
        main([str(folder / "template.yaml"), "--machine", "Three"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "// x\n{}", "line 1: a comment"),
        ("a.json", '{"a": 1,\n}', "line 1: a comma"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", "no object"),
        ("a.json", '{"stateMachines": [{"name": "x"}]}', "an object of 'stateMachines'"),
        ("a.json", '{"Resources": {}}', "no state machine"),
        ("a.json", '{"States": {% if x %}{}{% endif %}}', "render the template first"),
        ("a.yaml", "a: [", "neither JSON nor YAML"),
        ("a.yaml", "a: {{ x }}\nb", "neither JSON nor YAML"),
        ("a.tf", 'resource "x" "y" {}', "terraform show -json"),
        ("a.json", template(M=resource(DefinitionUri="s3://b/k")), "give that file"),
        ("a.json", terraform("m"), "after apply"),
    ],
)
def test_what_cannot_be_read_is_bad_input_in_one_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        main([str(tmp_path / name)])
    assert "\n" not in str(caught.value)


def test_one_of_several_that_cannot_be_read_is_told(tmp_path, capsys):
    path = tmp_path / "t.json"
    good, bad = resource(Definition=SOUND), resource(DefinitionUri="s3://b/k")
    path.write_text(template(Good=good, Bad=bad))
    assert main([str(path)]) == 3
    assert "t.json#Bad: its definition lies elsewhere" in capsys.readouterr().err


def test_findings_have_their_line_and_sarif_shows_it(tmp_path, capsys):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(BROKEN, indent=1))
    assert main([str(path), "--format", "sarif"]) == 1
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    result = run["results"][0]
    assert (result["ruleId"], result["level"]) == ("asl", "error")
    place = result["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 4}
    assert place["artifactLocation"]["uri"] == str(path)
    assert {r["id"] for r in run["tool"]["driver"]["rules"]} >= {"asl"}


def test_yaml_keeps_lines_too():
    document, _ = parse(yaml.safe_dump(BROKEN, sort_keys=False), "m.yaml")
    assert document["States"]["A"].line == 4


@given(st.text(alphabet='{}[]:,"ab$ \n-/*!&1', max_size=60), st.sampled_from(["a.json", "a.yaml"]))
def test_any_text_is_a_document_or_bad_input(text, name):
    try:
        parse(text, name)
    except BadInput as error:
        told = str(error)
    else:
        told = ""
    assert "\n" not in told


def test_what_aws_says_is_asked_for(monkeypatch):
    class Client:
        def validate_state_machine_definition(self, definition):
            assert json.loads(definition) == SOUND
            return {"diagnostics": [{"severity": "ERROR", "code": "C", "message": "m"}]}

    assert source.validated(SOUND, Client()) == [("ERROR", "C: m")]


def test_every_rule_has_its_page():
    text = (ROOT / DOCS).read_text()
    assert {line[3:] for line in text.splitlines() if line.startswith("## ")} == RULES.keys()
