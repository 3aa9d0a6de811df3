"""A walk may use the steps of another: it finds the same, and takes no longer than it must."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splatgate.pipeline import rules
from splatgate.pipeline.definition import machine_of
from splatgate.pipeline.walk import Walk
from splatgate.pipeline.ways import Ways

from .test_pipeline import POLLED, REFERENCE, machine

SENT = {**REFERENCE.input, "items": [1], "run": {"id": "1", "prefix": "s3://b/r"}}
TELL = {**REFERENCE.definition["States"]["TellFailed"], "Parameters": {"Message": "x"}}


def walked(definition, sent=SENT):
    return Walk(machine_of(definition), sent, "n")


def found(walk):
    told = {*walk.findings, *rules.outcomes(walk, sound=not walk.findings)}
    return {(f.state, f.rule, f.level, f.reason) for f in told}, list(walk.gaps)


def plainly(definition, sent=SENT):
    """What is found by a walk that takes every step itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ways, "along", lambda self, machine, path, scope: path)
        return found(walked(definition, sent))


def train(after, catch):
    """A training job; `$.stage` tells how it ended, or nothing does."""
    body = copy.deepcopy(REFERENCE.definition["States"]["Train"])
    body["Parameters"]["TrainingJobName.$"] = f"States.Format('{after}-{{}}', $.run.id)"
    body["Catch"][0]["Next"] = catch
    return body | {"Next": after}


@st.composite
def machines(draw, depth=1, prefix="A"):
    """A row of stages; each may go anywhere that follows, and some hold a machine of their own."""
    count = draw(st.integers(2, 4))
    names = [f"{prefix}{n}" for n in range(count)]
    states = {}
    for number, name in enumerate(names):
        later = [*names[number + 1 :], f"{prefix}Good", f"{prefix}Bad"]
        onwards = st.sampled_from(later)
        kind = draw(st.sampled_from(["job", "job", "call", "tell", "choice", "pass", "inner"]))
        catch = {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error"}
        if kind == "job":
            states[name] = train(later[0], draw(onwards))
            if draw(st.booleans()):
                states[name]["ResultPath"] = None
        elif kind in ("call", "tell"):
            states[name] = copy.deepcopy(TELL) | {"Next": later[0], "ResultPath": None}
            if kind == "call":
                states[name]["Resource"] = "arn:aws:lambda:eu-west-1:1:function:convert"
            states[name]["Catch"] = [catch | {"Next": draw(onwards)}]
            if draw(st.booleans()):
                del states[name]["Catch"]
        elif kind == "choice":
            test = draw(
                st.sampled_from(
                    [
                        {"Variable": "$.stage.status", "StringEquals": "Completed"},
                        {"Variable": "$.error", "IsPresent": True},
                        {"Variable": "$.run.id", "StringEquals": "1"},
                    ]
                )
            )
            choices = [test | {"Next": draw(onwards)}]
            states[name] = {"Type": "Choice", "Choices": choices, "Default": draw(onwards)}
        elif kind == "inner" and depth:
            inner = draw(machines(depth - 1, f"{name}-"))
            states[name] = {"Type": "Parallel", "Branches": [inner], "Next": later[0]}
            if draw(st.booleans()):
                states[name] = {"Type": "Map", "ItemsPath": "$.items", "Next": later[0]}
                states[name] |= {"ItemProcessor": inner, "ItemSelector": {"run.$": "$.run"}}
                states[name]["ItemSelector"] |= {f"{k}.$": f"$.{k}" for k in SENT}
            states[name] |= {"ResultPath": draw(st.sampled_from([None, "$.inner", "$"]))}
            if draw(st.booleans()):
                states[name]["Catch"] = [catch | {"Next": draw(onwards)}]
        else:
            states[name] = {"Type": "Pass", "Result": number, "ResultPath": "$.passed"}
            states[name] |= {"Next": later[0]}
    states |= {f"{prefix}Good": {"Type": "Succeed"}, f"{prefix}Bad": {"Type": "Fail"}}
    return {"StartAt": names[0], "States": states}


@settings(deadline=None, max_examples=40)
@given(machines())
def test_a_walk_that_goes_on_as_another_finds_the_same(definition):
    assert found(walked(definition)) == plainly(definition)


@pytest.mark.parametrize("pipeline", [REFERENCE, POLLED], ids=["reference", "polled"])
def test_sound_machines_are_walked_alike(pipeline):
    definition, sent = pipeline.definition, pipeline.input
    assert found(walked(definition, sent)) == plainly(definition, sent)


def chain(number):
    """Stages in a row, whose failures end in one state; the data of each are the next one's."""
    document = machine(1, number)
    for state in document["States"].values():
        if state["Type"] == "Task":
            state["ResultPath"] = "$.stage"
    return document


def lambdas(number):
    """Functions in a row whose failure nobody minds."""
    task = {"Type": "Task", "Resource": "arn:aws:lambda:eu-west-1:1:function:convert"}
    names = [f"S{n}" for n in range(number)]
    states = {
        name: task
        | {"Next": after, "ResultPath": None}
        | {"Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": after}]}
        for name, after in zip(names, [*names[1:], "End"], strict=True)
    }
    return {"StartAt": "S0", "States": {**states, "End": {"Type": "Succeed"}}}


@pytest.mark.parametrize(
    "shape", [chain, lambdas, lambda n: machine(4, n // 4)], ids=["chain", "lambdas", "nested"]
)
def test_twice_the_stages_are_twice_the_steps(shape):
    """Not four times: what comes after one stage's failure is not walked again for the next."""
    once, twice = (walked(shape(n)).visited for n in (24, 48))
    assert twice < 2.3 * once
