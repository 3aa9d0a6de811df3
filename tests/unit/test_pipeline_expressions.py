"""Templates evaluate as in moto's interpreter of Step Functions, which is the only other at hand.

moto proves the shape of our own evaluation here, and nothing about an account.
"""

import json
import time

import boto3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from moto import mock_aws

from splatgate.pipeline import source
from splatgate.pipeline.expressions import UNKNOWN, Open, PathError, Scope, evaluate, put, render

DATA = {
    "n": 7,
    "x": 0.25,
    "t": "a/b-c",
    "yes": True,
    "none": None,
    "list": [3, 1, 3],
    "rows": [{"k": 1, "a b": "q"}, {"k": 2, "a b": "r"}],
    "o": {"b": [1, {"c": "d"}], "e": "f"},
    "json": '{"p": [1, 2]}',
}
EXPRESSIONS = (
    "$",
    "$.n",
    "$['o']['e']",
    "$.rows[*].k",
    "$.list[0]",
    "$.list[1:]",
    "States.Format('{}-{}', $.t, $.n)",
    "States.Format('{} {} {}', $.yes, $.none, $.x)",
    "States.JsonToString($.o)",
    "States.StringToJson($.json)",
    "States.Array($.n, 'two', States.Format('{}', 3))",
    "States.ArrayPartition($.list, 2)",
    "States.ArrayContains($.list, 1)",
    "States.ArrayRange(1, 9, 2)",
    "States.ArrayGetItem($.list, 2)",
    "States.ArrayLength($.list)",
    "States.ArrayUnique($.list)",
    "States.Base64Encode($.t)",
    "States.Base64Decode('YWJj')",
    "States.Hash($.t, 'SHA-1')",
    "States.Hash('x', 'MD5')",
    "States.MathAdd($.n, -3)",
    "States.StringSplit($.t, '/-')",
    "States.ArrayGetItem(States.StringSplit($.t, '/'), 1)",
)
#: Where moto differs from the Step Functions Developer Guide ("Paths", "Intrinsic functions"): it
#: wraps what is below an index into a list, and does not know \' in a text.
GUIDE = {"$.o.b[1].c": "d", "$.rows[0]['a b']": "q", "States.Format('it\\'s {}', 'so')": "it's so"}


@mock_aws(config={"stepfunctions": {"execute_state_machine": True}})
def by_moto(parameters, data):
    """What a Pass state makes of `Parameters` in moto's interpreter, and its execution's ARN."""
    client = boto3.client("stepfunctions", "us-west-2")
    passed = {"Type": "Pass", "Parameters": parameters, "End": True}
    machine = client.create_state_machine(
        name="m",
        definition=json.dumps({"StartAt": "A", "States": {"A": passed}}),
        roleArn="arn:aws:iam::123456789012:role/r",
    )["stateMachineArn"]
    arn = client.start_execution(stateMachineArn=machine, name="run", input=json.dumps(data))
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        found = client.describe_execution(executionArn=arn["executionArn"])
        if found["status"] != "RUNNING":
            break
        time.sleep(0.05)
    assert found["status"] == "SUCCEEDED", found
    return json.loads(found["output"]), arn["executionArn"]


def test_expressions_are_motos():
    theirs, _ = by_moto({f"{n}.$": e for n, e in enumerate(EXPRESSIONS)}, DATA)
    ours = {str(n): evaluate(e, DATA, Scope({})) for n, e in enumerate(EXPRESSIONS)}
    assert ours == theirs


@pytest.mark.parametrize("expression", GUIDE)
def test_expressions_are_the_guides(expression):
    assert evaluate(expression, DATA, Scope({})) == GUIDE[expression]


def test_the_references_requests_are_motos():
    states = source.beside(source.REFERENCE).definition["States"]
    jobs = {n: s["Parameters"] for n, s in states.items() if "sagemaker" in s.get("Resource", "")}
    # moto 5.2 takes the member RoleArn.$ for text, and has no RetryCount outside a Task.
    text = json.dumps(jobs).replace('"RoleArn.$"', '"Role.$"').replace("$$.State.RetryCount", "0")
    jobs = json.loads(text)
    sent = json.loads((source.REFERENCE.parent / "input.json").read_text())
    data = {
        **sent,
        "run": {"id": "0" * 40, "prefix": "s3://bucket/runs/run"},
        "stage": {"archive": "s3://bucket/runs/run/model/j/output/model.tar.gz"},
    }
    theirs, arn = by_moto(jobs, data)
    context = {"Execution": {"Id": arn, "Name": "run"}}
    assert render(jobs, data, Scope(context)) == theirs


@pytest.mark.parametrize(
    "expression",
    [
        "$.nothing",
        "$.n.deeper",
        "$.list[9]",
        "$$.Execution.Nothing",
        "$nowhere",
        "n",
        "States.Format('{}', $.o)",
        "States.Format('{} {}', $.n)",
        "States.Nothing($.n)",
        "States.Format('{}'",
        "States.Format('{}', $.n) and more",
        "States.ArrayGetItem($.list, 9)",
        "States.StringToJson($.t)",
        "States.Hash($.t, 'SHA-9')",
    ],
)
def test_what_leads_nowhere_is_refused_by_name(expression):
    with pytest.raises(PathError) as caught:
        evaluate(expression, DATA, Scope({"Execution": {}}))
    assert "\n" not in str(caught.value)


def test_what_is_unknown_stays_so():
    data = Open({"known": 1, "answer": UNKNOWN})
    scope = Scope({})
    assert evaluate("$.anything.at[0].all", data, scope) is UNKNOWN
    assert evaluate("States.Format('{}-{}', $.known, $.answer)", data, scope) is UNKNOWN
    assert evaluate("$.known", put(UNKNOWN, "$.known", 2), scope) == 2
    assert render({"role": "${Role}"}, {}, scope) == {"role": UNKNOWN}


def test_every_uuid_is_another():
    scope = Scope({})
    assert evaluate("States.UUID()", {}, scope) != evaluate("States.UUID()", {}, scope)


@given(st.text(max_size=40))
@example("00")
@example("\u1040")
@example("[" + "1" * 5000 + "]")
@example("1" * 5000)
def test_any_text_is_a_value_or_a_path_error(text):
    for expression in (text, f"$.{text}", f"States.{text}", f"States.Format({text})"):
        try:
            evaluate(expression, DATA, Scope({}))
        except PathError:
            continue


@given(st.recursive(st.integers() | st.text() | st.none(), lambda e: st.lists(e, max_size=3)))
def test_json_comes_back_from_text(value):
    text = evaluate("States.JsonToString($.v)", {"v": value}, Scope({}))
    assert evaluate("States.StringToJson($.t)", {"t": text}, Scope({})) == value


def test_what_is_partly_unknown_is_hashed_and_told():
    assert evaluate("States.Hash($, 'MD5')", {"a": UNKNOWN}, Scope({})) is UNKNOWN
    with pytest.raises(PathError, match="has no members"):
        evaluate("$.a.b", {"a": [UNKNOWN]}, Scope({}))
    with pytest.raises(PathError, match="cannot be put"):
        put({"a": [UNKNOWN]}, "$.a.b", 1)
