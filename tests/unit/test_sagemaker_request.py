"""Requests: what is read, what is refused, and in which words."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splatgate.evidence import BadInput, to_json
from splatgate.sagemaker.request import MEMBERS, job_key, load, parse, smoke_request
from splatgate.sagemaker.validate import validate

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def changed(path: str, value: object) -> dict[str, Any]:
    """A good request with one member set to another value, or taken out (None)."""
    document: dict[str, Any] = json.loads(json.dumps(smoke_request().raw))
    *parents, last = path.split(".")
    place: Any = document
    for name in parents:
        place = place[int(name)] if name.isdecimal() else place.setdefault(name, {})
    if value is None:
        place.pop(last, None)
    else:
        place[last] = value
    return document


def test_smoke_request_is_accepted_by_the_service_model() -> None:
    request = smoke_request(hyperparameters={"max_iterations": "7"}, metrics={"psnr": "psnr=(.*)"})
    assert validate(request) == []
    assert request.isolated
    assert (request.instance_type, request.max_runtime) == ("ml.g4dn.xlarge", 3600)
    assert [c.name for c in request.channels] == ["training"]
    assert request.hyperparameters == {"max_iterations": "7"}


def test_description_is_read_as_the_request_it_was() -> None:
    described = {
        **smoke_request().raw,
        "TrainingJobArn": "arn:aws:sagemaker:eu-west-1:999999999999:training-job/x",
        "TrainingJobStatus": "Failed",
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/o/model.tar.gz"},
        "SecondaryStatusTransitions": [],
        "VpcConfig": None,
    }
    request = parse(described)
    assert request.raw == smoke_request().raw
    assert request.arn == "arn:aws:sagemaker:eu-west-1:999999999999:training-job/splatgate-smoke"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("TrainingJobName", None, "TrainingJobName"),
        ("TrainingJobName", "a_b", "hyphens"),
        ("TrainingJobName", "a" * 64, "1-63"),
        ("ResourceConfig.InstanceType", None, "missing"),
        ("ResourceConfig.InstanceCount", 2, "one instance"),
        ("ResourceConfig.InstanceCount", True, "whole number"),
        ("HyperParameters.lr", 0.1, "put it in quotes"),
        ("HyperParameters", ["a"], "an object"),
        ("Environment.A-B", "x", "variable's name"),
        ("StoppingCondition.MaxRuntimeInSeconds", 0, "less than 1"),
        ("OutputDataConfig.CompressionType", "ZIP", "GZIP or NONE"),
        ("InputDataConfig.0.ChannelName", "../x", "ChannelName"),
        ("InputDataConfig.0.ChannelName", "..", "ChannelName"),
        ("AlgorithmSpecification.ContainerArguments", "train", "a list"),
        ("AlgorithmSpecification.ContainerEntrypoint", [], "1-100"),
        ("AlgorithmSpecification.MetricDefinitions", [{"Name": "a", "Regex": "("}], "Regex"),
        ("CheckpointConfig.LocalPath", "opt/x", "absolute"),
        ("CheckpointConfig.LocalPath", "/opt/../x", "absolute"),
        ("HyperParameter", {}, "spelling"),
        ("HyperParameters.a", "\ud800", "surrogate"),
    ],
)
def test_bad_member_is_named_in_one_line(path: str, value: object, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(changed(path, value), "r.json")
    message = str(caught.value)
    assert message.startswith("r.json: ")
    assert "\n" not in message
    assert says in message


def test_channel_given_twice_is_refused() -> None:
    document = changed("X", None)
    document["InputDataConfig"] *= 2
    with pytest.raises(BadInput, match="twice"):
        parse(document)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "[" * 5000, "\x00"])
def test_file_that_is_no_request_is_bad_input(tmp_path: Path, text: str) -> None:
    path = tmp_path / "request.json"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_bad_input(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(BadInput, match="CreateTrainingJob"):
            load(path)


@given(JSON)
def test_any_json_is_a_request_or_bad_input(document: object) -> None:
    with pytest.raises(BadInput):
        parse(document)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(MEMBERS)),
    JSON,
)
def test_any_member_is_read_or_bad_input(name: str, value: object) -> None:
    document = changed(name, value)
    with contextlib.suppress(BadInput):
        to_json(parse(document).raw)
    assert all(validate(document))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("TrainingJobName", "a" * 64),
        ("TrainingJobName", "a_b"),
        ("HyperParameters", {"a": "x" * 3000}),
        ("HyperParameters", {str(n): "" for n in range(101)}),
        ("ResourceConfig.InstanceType", "bogus"),
        ("RetryStrategy", {"MaximumRetryAttempts": 31}),
        ("InputDataConfig", [{"ChannelName": str(n), "DataSource": {}} for n in range(21)]),
        ("AlgorithmSpecification.TrainingImage", "a" * 300),
        ("HyperParameters", {"a": "two\nlines"}),
        ("Tags", [{"Key": "a;b", "Value": ""}]),
        ("RoleArn", None),
        ("AlgorithmSpecification", None),
        ("AlgorithmSpecification.AlgorithmName", "x"),
        ("StoppingCondition", None),
        ("EnableManagedSpotTraining", True),
        ("InputDataConfig.0.CompressionType", "Gzip"),
        ("ResourceConfig.VolumeKmsKeyId", "key"),
    ],
)
def test_walk_refuses_what_the_client_lets_pass(path: str, value: object) -> None:
    """Contract 7.1: maxima, patterns, enumerations; 1.4, 2.4, 2.6: what the model cannot say."""
    found = validate(changed(path, value))
    assert found
    named = "MaxWaitTime" if path == "EnableManagedSpotTraining" else path.split(".")[0]
    assert all(named in line for line in found)


@pytest.mark.parametrize(
    ("s3", "count"),
    [
        ({"S3Uri": "s3://b/p/", "S3DataType": "S3Prefix"}, 0),
        ({"S3Uri": "s3://b/p", "S3DataType": "S3Prefix"}, 1),
        ({"S3Uri": "s3://b/m.json", "S3DataType": "ManifestFile"}, 2),
    ],
)
def test_fast_file_takes_a_folder_only(s3: dict[str, str], count: int) -> None:
    document = changed("InputDataConfig.0.InputMode", "FastFile")
    document["InputDataConfig"][0]["DataSource"] = {"S3DataSource": s3}
    assert len(validate(document)) == count


@pytest.mark.parametrize("value", ["Größe_1 @x", "日本-語", "a b"])
def test_tags_may_hold_any_letter(value: str) -> None:
    assert validate(changed("Tags", [{"Key": "k", "Value": value}])) == []


def test_job_key_ignores_name_and_image_only() -> None:
    base = smoke_request()
    key = job_key("smoke", base, {"training": "abc"})
    assert key.startswith("smoke-")
    assert len(key) == len("smoke-") + 8
    renamed = smoke_request("other:1", name="other")
    assert job_key("smoke", renamed, {"training": "abc"}) == key
    assert job_key("smoke", base, {"training": "abd"}) != key
    assert job_key("smoke", smoke_request(max_runtime=9), {"training": "abc"}) != key
    assert job_key("smoke", base, {"training": "abc"}, {"stop": 1}) != key
