"""A state machine is judged by what becomes of it: sound ones are clean, faults have a rule."""

import copy
import json
import shutil
from dataclasses import replace

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from splatgate.evidence import Answer, BadInput, Pipeline, Served
from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.pipeline import handover, roles, source
from splatgate.pipeline.cli import main
from splatgate.pipeline.definition import call_of
from splatgate.pipeline.document import parse
from splatgate.pipeline.judge import judge
from splatgate.pipeline.templates import machines
from splatgate.scene.judge import judge_scene

MACHINES = ROOT / "tests" / "machines"
REFERENCE = source.beside(source.REFERENCE)
#: Sound machines as other people write them: `cdk` is a template, with approval by task token and a
#: nested execution; the others poll, catch in each branch, or map over a file in S3.
STYLES = {
    name: source.load(MACHINES / f"{name}.json", MACHINES / f"{name}.input.json")
    for name in ("cdk", "poll-status", "parallel-branches", "distributed-map")
}
POLLED = source.load(MACHINES / "poll-loops.json", MACHINES / "poll-loops.input.json")


def edited(pipeline: Pipeline, edit) -> Pipeline:
    """A pipeline whose definition, input or policies `edit` has changed in place."""
    parts = {
        name: copy.deepcopy(getattr(pipeline, name))
        for name in ("definition", "input", "policies", "execution_name")
    }
    states = parts["definition"]["States"]
    parts = edit(states, parts) or parts
    return Pipeline("edited", problems=(), **parts)


def musts(pipeline: Pipeline) -> set[tuple[str, str]]:
    """Rule and state of each *must*, the other ways of one cause included."""
    found = [f for f in judge(pipeline).findings if f.level == "must"]
    ways = {(f.rule, way.partition(": ")[0]) for f in found for way in f.ways}
    return {(f.rule, f.state) for f in found} | ways


#: What stands in definitions where it should not.
WORDS = (
    *(
        "",
        "$",
        "$.a",
        "$$.x",
        "$[",
        "$[?(@.a)]",
        "a\nb",
        "Completed",
        "States.ALL",
        "JSONata",
        "${X}",
    ),
    *("States.Format('{}')", "States.ArrayRange(1,999999999,1)", "States.ArrayPartition($,0)"),
    *(
        "Train",
        "Next",
        "Type",
        "Catch",
        "Retry",
        "Parameters",
        "ResultPath",
        "ItemProcessor",
        "A.$",
    ),
    *("arn:aws:states:::sagemaker:createTrainingJob.sync", "Assign", "Branches", "JSONata"),
)


@pytest.mark.parametrize(
    "pipeline",
    [
        REFERENCE,
        POLLED,
        source.load(MACHINES / "poll-loops.json"),
        source.load(source.REFERENCE),
        source.load(MACHINES / "map-and-approval.json", MACHINES / "map-and-approval.input.json"),
        source.load(MACHINES / "map-and-approval.json"),
        source.load(MACHINES / "jsonata.json"),
        *STYLES.values(),
        *(replace(style, input=None) for style in STYLES.values()),
    ],
    ids=[
        *("reference", "polled", "polled-no-input", "no-input", "map", "map-no-input", "jsonata"),
        *STYLES,
        *(f"{name}-no-input" for name in STYLES),
    ],
)
def test_a_sound_machine_is_clean(pipeline):
    assert judge(pipeline).findings == ()


def test_a_jsonata_state_may_compute_its_numbers():
    def computed(states, parts):
        parts["definition"]["QueryLanguage"] = language
        parts["input"]["poll"] = 5
        states["Wait"] = {"Type": "Wait", "Seconds": "{% $states.input.poll %}", "End": True}
        parts["definition"]["StartAt"] = "Wait"
        parts["definition"]["States"] = {"Wait": states["Wait"]}

    language = "JSONata"
    assert musts(edited(REFERENCE, computed)) == set()
    language = "JSONPath"
    assert musts(edited(REFERENCE, computed)) == {("asl", "Wait")}


def test_awss_sample_that_trains_and_transforms():
    found = musts(source.load(MACHINES / "lambda-train-transform.json"))
    assert found == {
        ("name-unique", "Train model"),
        ("request", "Save model"),
        ("request", "Train model"),
        ("request", "Transform"),
        ("timeout", "Train model"),
        ("timeout", "Transform"),
    }


def test_awss_sample_that_notifies_and_ends():
    found = musts(source.load(MACHINES / "notify-and-end.json"))
    assert found == {
        ("failure-ends-in-fail", "Submit Job"),
    }


def test_awss_own_pipeline_of_splats_retold():
    """Each is defended in docs/pipeline-unseen.md."""
    assert musts(source.load(MACHINES / "splat-toolbox.json")) == {
        ("error-name", "OnSageMaker"),
        ("failure-ends-in-fail", "OnBatch"),
        ("failure-ends-in-fail", "OnSageMaker"),
        ("name-unique", "OnSageMaker"),
        ("timeout", "OnSageMaker"),
    }


def request(states, state="Train"):
    return states[state]["Parameters"]


def test_the_starters_own_name_counts():
    def named(states, parts):
        request(states).update({"TrainingJobName.$": "States.Format('g-{}', $$.Execution.Name)"})
        return {**parts, "execution_name": "brighton-2026", "policies": {}}

    assert musts(edited(REFERENCE, named)) == set()


def machine(depth, width):
    """A machine of Parallels and Maps in one another, with training jobs in the innermost."""
    states = {}
    for number in range(width):
        body = copy.deepcopy(REFERENCE.definition["States"]["Train"])
        name = f"States.Format('d{depth}-{number}-{{}}', States.Hash($$.Execution.Id, 'MD5'))"
        body["Parameters"]["TrainingJobName.$"] = name
        body |= {"ResultPath": None, "Next": f"S{depth}-{number + 1}"}
        body["Catch"][0]["Next"] = f"F{depth}"
        states[f"S{depth}-{number}"] = body
    inner = machine(depth - 1, width) if depth > 1 else None
    last = {"Type": "Pass", "Next": f"E{depth}"}
    if inner and depth % 2:
        last = {"Type": "Parallel", "Branches": [inner], "ResultPath": None, "Next": f"E{depth}"}
    elif inner:
        last = {
            "Type": "Map",
            "ItemsPath": "$.items",
            "ItemSelector": {
                "run.$": "$.run",
                "items.$": "$.items",
                **{k + ".$": f"$.{k}" for k in REFERENCE.input},
            },
            "ItemProcessor": inner,
            "ResultPath": None,
            "Next": f"E{depth}",
        }
    states[f"S{depth}-{width}"] = last
    states[f"E{depth}"] = {"Type": "Succeed"}
    states[f"F{depth}"] = {"Type": "Fail", "Error": "E"}
    return {"StartAt": f"S{depth}-0", "States": states}


def test_two_hundred_states_ten_levels_deep_are_walked():
    document = machine(10, 17)
    sent = {**REFERENCE.input, "items": [1], "run": {"id": "1", "prefix": "s3://b/r"}}
    verdict = judge(Pipeline("deep", document, input=sent))
    assert len(verdict.states) == 200
    assert len(verdict.requests) == 170
    stopped = [f for f in verdict.findings if f.rule == "failure-ends-in-fail"]
    assert sum(1 + len(f.ways) for f in stopped) >= 170


def test_what_describe_state_machine_prints_is_taken():
    printed = {"name": "x", "definition": json.dumps(REFERENCE.definition)}
    (found,) = machines(*parse(json.dumps(printed), "x.json"), "x.json", ROOT)
    assert found.definition == REFERENCE.definition


def test_a_deployments_image_is_not_verified_by_name():
    gaps = {(g.state, g.reason) for g in judge(STYLES["cdk"]).unknown("image")}
    assert gaps == {("Train", "which image it runs, only its deployment knows")}


@pytest.mark.parametrize(("there", "rules"), [(True, set()), (False, {"image"})])
def test_registries_are_asked_for_the_images(there, rules):
    def ask(image):
        return Answer(image, Served(image, "sha256:1", "m", None) if there else None)

    found = judge(REFERENCE, ask=ask)
    assert {f.rule for f in found.findings} == rules
    assert not found.unknown("image-there")
    assert judge(REFERENCE).unknown("image-there")


def test_entry_points_of_images_not_looked_into_are_not_verified_by_name():
    (gap,) = judge(REFERENCE).unknown("entry-point")
    assert "StructureFromMotion, Train, Compress" in gap.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    """Paths of everything in a document."""
    yield path
    members = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else members:
        yield from places(inner, (*path, key))


@given(st.data())
def test_any_document_is_judged_in_lines(data):
    """Whatever stands in a definition or an input: findings, each of one line, and no exception."""
    sound = data.draw(st.sampled_from([REFERENCE, POLLED, *STYLES.values()]))
    parts = {"definition": copy.deepcopy(sound.definition), "input": copy.deepcopy(sound.input)}
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([p for p in places(parts) if len(p) > 1]))
        inner = parts
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = data.draw(JSON)
    verdict = judge(Pipeline("any", problems=(), **parts))
    assert all("\n" not in f.reason for f in verdict.findings)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="No such file") as caught:
        main([str(tmp_path / "none.json")])
    assert "\n" not in str(caught.value)


def test_the_verbs_json(capsys):
    policy = source.REFERENCE.parent / "roles" / "state-machine.json"
    arguments = [str(source.REFERENCE), "--input", str(source.REFERENCE.parent / "input.json")]
    assert main([*arguments, "--policy", str(policy), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "splatgate/pipeline/1"
    assert told["findings"] == []
    assert {r["state"] for r in told["requests"]} == {"StructureFromMotion", "Train", "Compress"}
    assert "Train" in told["states"]


@pytest.mark.parametrize(
    ("resource", "service", "operation", "pattern"),
    [
        (
            "arn:aws:states:::sagemaker:createTrainingJob.sync",
            "sagemaker",
            "CreateTrainingJob",
            "sync",
        ),
        (
            "arn:aws:states:::aws-sdk:sagemaker:describeTrainingJob",
            "sagemaker",
            "DescribeTrainingJob",
            "",
        ),
        ("arn:aws-cn:states:::states:startExecution.sync:2", "states", "StartExecution", "sync"),
        ("arn:aws:states:::lambda:invoke.waitForTaskToken", "lambda", "Invoke", "waitForTaskToken"),
        ("arn:aws:lambda:eu-west-1:1:function:f", "lambda", "Invoke", ""),
    ],
)
def test_what_a_resource_calls(resource, service, operation, pattern):
    call = call_of(resource)
    assert (call.service, call.operation, call.pattern) == (service, operation, pattern)


@mock_aws
def test_what_is_deployed_is_compared_with_its_source():
    """moto keeps what it is given: the claim is about our request and our comparison."""
    client = boto3.client("stepfunctions", "us-west-2")
    changed = copy.deepcopy(REFERENCE.definition)
    changed["States"]["Train"]["TimeoutSeconds"] = 99
    del changed["States"]["HasModel"]
    arn = client.create_state_machine(
        name="splats",
        definition=json.dumps(changed),
        roleArn="arn:aws:iam::123456789012:role/r",
    )["stateMachineArn"]
    assert source.live(arn, client).definition == changed
    found = {
        f.state: f.reason for f in judge(source.with_deployed(REFERENCE, arn, client)).of("drift")
    }
    assert found == {
        "Train": "deployed with another TimeoutSeconds",
        "HasModel": "deployed without this state",
    }
    with pytest.raises(BadInput, match="nowhere"):
        source.live(arn.replace("splats", "nowhere"), client)


@pytest.mark.parametrize(
    ("policy", "allows"),
    [
        ({"Effect": "Allow", "Action": "sns:*", "Resource": "*"}, True),
        ({"Effect": "Allow", "Action": ["SNS:publish"], "Resource": "arn:aws:sns:*:*:t"}, True),
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, True),
        ({"Effect": "Allow", "Action": "sns:Publish", "Resource": {"Ref": "Topic"}}, True),
        ({"Effect": "Allow", "Action": "sns:Publish", "Resource": "${TopicArn}"}, True),
        ({"Effect": "Allow", "Action": "sns:Publish", "Resource": "arn:aws:sns:*:*:u"}, False),
        ({"Effect": "Deny", "Action": "sns:Publish", "Resource": "*"}, False),
        ({"Effect": "Allow", "Action": "sns:Subscribe", "Resource": "*"}, False),
        ({"Effect": "Allow", "Action": "sns:Publish"}, False),
    ],
)
def test_what_a_policy_allows(policy, allows):
    need = roles.Need("sns:Publish", "arn:aws:sns:us-west-2:1:t")
    assert roles.allowed({"Statement": policy}, need) is allows
    others = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    assert roles.allowed([{"Statement": [others]}, {"Statement": [policy]}], need) is allows


def test_a_colmap_4_model_keeps_the_hand_over(tmp_path):
    """What COLMAP 4 itself writes is what the contract says, and a scene that is judged sound."""
    import pycolmap

    model = pycolmap.Reconstruction(DEFAULT_SCENE / "sparse" / "0")
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    model.write_binary(tmp_path / "sparse" / "0")
    shutil.copytree(DEFAULT_SCENE / "images", tmp_path / "images")
    files = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    contract = REFERENCE.contracts["scene"]
    assert handover.lacks(contract, files) == []
    assert judge_scene(tmp_path, lambda line: None).ok
    missing = [f for f in files if not f.startswith("images/")]
    assert handover.lacks(contract, missing) == ["images/*"]
