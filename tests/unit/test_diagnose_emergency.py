"""Going back to an image that worked: shown as a diff first, judged, undone by one command."""

import json

import boto3
import pytest
from moto import mock_aws

from splatgate.diagnose import emergency
from splatgate.evidence import BadInput

DIGEST = f"sha256:{'a' * 64}"
REPOSITORY = "123456789012.dkr.ecr.us-west-2.amazonaws.com/3dgs"
DEFINITION = {
    "StartAt": "Train",
    "States": {
        "Train": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sagemaker:createTrainingJob.sync",
            "Parameters": {"AlgorithmSpecification": {"TrainingImage": f"{REPOSITORY}:latest"}},
            "End": True,
        }
    },
}


@pytest.fixture
def machine(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        sfn = client("stepfunctions")
        made = sfn.create_state_machine(
            name="m",
            definition=json.dumps(DEFINITION),
            roleArn="arn:aws:iam::123456789012:role/r",
        )
        yield made["stateMachineArn"]


def client(service):
    return boto3.client(service, region_name="us-west-2")


def deployed(arn):
    return json.loads(
        client("stepfunctions").describe_state_machine(stateMachineArn=arn)["definition"]
    )


def roll(machine, tmp_path, **options):
    options = {"judged": lambda definition: [], **options}
    return emergency.rollback(client, machine, DIGEST, tmp_path, **options)


def test_nothing_changes_without_apply(machine, tmp_path):
    diff, worse, undo = roll(machine, tmp_path)
    assert f'+          "TrainingImage": "{REPOSITORY}@{DIGEST}"' in diff
    assert worse == []
    assert "update-state-machine" in undo
    assert deployed(machine) == DEFINITION


def test_apply_changes_the_image_alone_and_the_old_version_is_kept(machine, tmp_path):
    roll(machine, tmp_path, apply=True)
    (state,) = deployed(machine)["States"].values()
    image = state["Parameters"]["AlgorithmSpecification"]["TrainingImage"]
    assert image == f"{REPOSITORY}@{DIGEST}"
    assert json.loads((tmp_path / emergency.BEFORE).read_text()) == DEFINITION


def test_a_change_for_the_worse_is_not_applied(machine, tmp_path):
    def judged(definition):
        return ["Train: new"] if DIGEST in json.dumps(definition) else ["Train: old"]

    with pytest.raises(BadInput, match="worse: Train: new"):
        roll(machine, tmp_path, judged=judged, apply=True)
    assert deployed(machine) == DEFINITION


def test_an_image_from_the_input_needs_a_repository(machine, tmp_path):
    changed = json.loads(json.dumps(DEFINITION).replace("TrainingImage", "TrainingImage.$"))
    with pytest.raises(BadInput, match="--repository"):
        emergency.rolled_back(changed, DIGEST, None)
    found = emergency.rolled_back(changed, DIGEST, REPOSITORY)
    assert f"{REPOSITORY}@{DIGEST}" in json.dumps(found)


def test_a_digest_is_asked_for(machine, tmp_path):
    with pytest.raises(BadInput, match="--last-good"):
        emergency.rollback(client, machine, "latest", tmp_path, lambda d: [])


def test_the_images_of_good_jobs_are_listed_by_digest(machine):
    request = {
        "AlgorithmSpecification": {
            "TrainingImage": f"{REPOSITORY}@{DIGEST}",
            "TrainingInputMode": "File",
        },
        "RoleArn": "arn:aws:iam::123456789012:role/r",
        "OutputDataConfig": {"S3OutputPath": "s3://b/o"},
        "ResourceConfig": {
            "InstanceType": "ml.g4dn.xlarge",
            "InstanceCount": 1,
            "VolumeSizeInGB": 50,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    for name in ("one", "two"):
        client("sagemaker").create_training_job(TrainingJobName=name, **request)
    (good,) = emergency.of_jobs(client)
    assert (good.digest, good.image, good.by) == (DIGEST, REPOSITORY, "job")
