"""Large machines are walked in a bounded number of steps; what is not walked is told."""

import pytest

from splatgate.evidence import Pipeline
from splatgate.pipeline.definition import machine_of
from splatgate.pipeline.judge import judge
from splatgate.pipeline.simulator import Simulator

from .test_pipeline import REFERENCE

SENT = {**REFERENCE.input, "run": {"id": "r", "prefix": "s3://b/r"}, "items": [1, 2]}
FAIL = {"Type": "Fail", "Error": "E", "Cause": "c"}


def catch(to):
    return [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": to}]


def call(name):
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": name, "Payload.$": "$"},
        "ResultPath": f"$.{name}",
    }


def job(name):
    train = REFERENCE.definition["States"]["Train"]
    named = {"TrainingJobName.$": f"States.Format('{name}-{{}}', $.run.id)"}
    sent = {**train["Parameters"], **named}
    return {**train, "Parameters": sent, "ResultPath": f"$.{name}"}


def row(count, stage, caught="Failed"):
    """Stages in a row, each of whose answers stays in the data; ``caught`` None: the next one."""
    states = {}
    for number in range(count):
        after = f"s{number + 1}" if number + 1 < count else "Done"
        states[f"s{number}"] = stage(f"s{number}") | {
            "Catch": catch(caught or after),
            "Retry": [{"ErrorEquals": ["SageMaker.AmazonSageMakerException"]}],
            "Next": after,
        }
    return {"StartAt": "s0", "States": {**states, "Done": {"Type": "Succeed"}, "Failed": FAIL}}


def wide(count):
    branches = [
        {"StartAt": f"b{n}", "States": {f"b{n}": job(f"b{n}") | {"Catch": catch(f"f{n}")}}}
        for n in range(count)
    ]
    for number, branch in enumerate(branches):
        branch["States"][f"b{number}"] |= {"Next": f"e{number}"}
        branch["States"] |= {f"e{number}": {"Type": "Succeed"}, f"f{number}": FAIL}
    states = {"P": {"Type": "Parallel", "Branches": branches, "Catch": catch("Failed")}}
    states["P"] |= {"ResultPath": "$.p", "Next": "Done"}
    return {"StartAt": "P", "States": {**states, "Done": {"Type": "Succeed"}, "Failed": FAIL}}


def maps(depth, each=20):
    """Maps in one another, over two items at every level."""
    inner = None
    for level in range(depth):
        machine = row(each, lambda name, level=level: call(f"d{level}{name}"))
        if inner:
            machine["States"][f"s{each - 1}"]["Next"] = "Each"
            machine["States"]["Each"] = {
                "Type": "Map",
                "ItemsPath": "$.items",
                "ItemSelector": {"items.$": "$.items", "index.$": "$$.Map.Item.Index"},
                "ItemProcessor": inner,
                "Next": "Done",
            }
        inner = machine
    return inner


def diamonds(count, arm):
    """Ways that part and meet again, by what only an execution can tell."""
    states = {"Ask": call("Ask") | {"Next": "c0"}}
    for number in range(count):
        after = f"c{number + 1}" if number + 1 < count else "Done"
        test = {"Variable": f"$.Ask.Payload.f{number}", "BooleanEquals": True}
        states[f"c{number}"] = {
            "Type": "Choice",
            "Choices": [test | {"Next": f"y{number}"}],
            "Default": after,
        }
        states[f"y{number}"] = arm(f"y{number}") | {"Next": after}
    return {"StartAt": "Ask", "States": {**states, "Done": {"Type": "Succeed"}}}


def noted(name):
    return {"Type": "Pass", "Result": 1, "ResultPath": f"$.{name}"}


SHAPES = {
    "jobs": lambda n: row(n, job),
    "calls": lambda n: row(n, call),
    "calls that nobody minds": lambda n: row(n, call, None),
    "wide": wide,
    "maps": lambda n: maps(4, n // 4),
    "diamonds": lambda n: diamonds(n, noted),
    "diamonds of calls": lambda n: diamonds(n, call),
}


def walked(document):
    return Simulator(machine_of(document), SENT, "n")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_work_is_bounded(shape):
    """A hundred stages are a few thousand steps, whatever the ways between them."""
    assert walked(SHAPES[shape](100)).visited < 7000


def test_two_items_in_each_of_ten_maps_are_few_ways():
    assert walked(maps(10)).visited < 20_000


def test_too_many_ways_are_not_verified():
    """Which jobs ran is part of where a walk stands: thirty that may each be left out."""
    verdict = judge(Pipeline("optional", diamonds(30, job), input=SENT))
    assert [g.reason for g in verdict.unknown("failure-ends-in-fail") if "more ways" in g.reason]
    assert len(verdict.requests) == 30


def test_a_result_goes_into_the_raw_input():
    """InputPath narrows what a state works on, not what its result is put into."""
    machine = row(1, call)
    keep = {"Type": "Pass", "InputPath": "$.s0.Payload", "ResultPath": "$.tries", "Next": "Last"}
    last = {"Type": "Pass", "InputPath": "$.run.id", "End": True}
    machine["States"]["s0"]["Next"] = "Keep"
    machine["States"] |= {"Keep": keep, "Last": last}
    assert not walked(machine).findings


def test_every_item_of_a_map_has_a_result():
    machine = maps(2, 1)
    machine["States"]["Each"] |= {"ResultPath": "$.all", "Next": "Fifth"}
    machine["States"]["Fifth"] = {"Type": "Pass", "InputPath": "$.all[4]", "End": True}
    items = {**SENT, "items": [1, 2, 3, 4, 5]}
    assert not Simulator(machine_of(machine), items, "n").findings
    few = Simulator(machine_of(machine), SENT, "n").findings
    assert {(f.state, f.rule) for f in few} == {("Fifth", "reference")}
