"""SageMaker integration: the service takes the request, and its host fits the image."""

import pytest

from splatgate.facts import MINUTES_LEFT
from splatgate.outcomes import NotVerified
from splatgate.sagemaker.instances import INSTANCES
from splatgate.sagemaker.validate import validate


def refused(request, *members: str) -> list[str]:
    """What the service would refuse in some members of a request."""
    return [line for line in validate(request) if line.startswith(members)]


@pytest.mark.sagemaker_hyperparameters
def test_parameters_fit_the_services_limits(request_given):
    """At most 100 hyperparameters and variables, all text, none longer than the service takes.

    botocore lets a number or 3,000 characters pass; the service refuses the job (contract 2.2, 7.1,
    trap 22).
    """
    wrong = refused(request_given, "HyperParameters", "Environment")
    assert not wrong, f"{'; '.join(wrong)}; send short strings, and large things through S3"


@pytest.mark.sagemaker_paths
def test_channels_and_outputs_are_as_the_service_takes_them(request_given):
    """Channels, output and disk of the request keep the service's rules.

    FastFile without a final /, Gzip in File mode, a KMS key for a local disk (contract 2.4, 2.6,
    trap 24).
    """
    members = ("InputDataConfig", "OutputDataConfig", "CheckpointConfig", "ResourceConfig.Volume")
    wrong = refused(request_given, *members)
    assert not wrong, "; ".join(wrong)


@pytest.mark.sagemaker_gpu_access
def test_instance_of_the_request_has_a_gpu(request_given, facts):
    """An image with GPU code is paired with an instance type that has a GPU.

    On a CPU instance it refuses at best, after the instance has been paid for (contract 5.4); that
    there is code for this very GPU is the container lane's to say.
    """
    instance = INSTANCES.get(request_given.instance_type)
    if instance is None:
        raise NotVerified(f"nothing is known here of {request_given.instance_type}")
    if facts.torch_cuda is None and not facts.libraries:
        raise NotVerified("the image holds no GPU code")
    assert instance.gpu, f"{instance.name} has no GPU, and the image needs one; ask for ml.g4dn"


@pytest.mark.production_duration
def test_own_limit_ends_before_the_services(request_given, profile):
    """The trainer's own limit of time ends minutes before MaxRuntimeInSeconds.

    Two equal limits cannot both be met: what ends last is killed (K44).
    """
    name = profile.effects.minutes
    given = {**{k.lower(): v for k, v in request_given.environment.items()}}
    given |= dict(request_given.hyperparameters)
    own = float((given.get(name or "") or "0").strip('"'))
    if not own:
        raise NotVerified("the request sets no limit of the trainer's own; give it with --request")
    limit = request_given.max_runtime / 60
    assert own + MINUTES_LEFT <= limit, (
        f"{name}={own:g} and MaxRuntimeInSeconds is {limit:g} minutes; leave {MINUTES_LEFT:g}"
    )
