"""SageMaker integration: the service takes the request, and its host fits the image."""

import pytest

from splatgate.container.cuda import MINIMUM_DRIVER, branch
from splatgate.container.image import LABEL_FLOOR
from splatgate.evidence.missing import NotVerified
from splatgate.expectations import (
    CAPACITIES,
    HOST_DRIVER,
    HOST_DRIVER_SEEN,
    MINUTES_LEFT,
    MODEL_GAUSSIAN,
    TRANSFER,
)
from splatgate.instances import INSTANCES, Instance
from splatgate.sagemaker.capacity import needs, parameter, size_of
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
    instance = known(request_given.instance_type)
    if facts.torch_cuda is None and not facts.libraries:
        raise NotVerified("the image holds no GPU code")
    assert instance.gpu, f"{instance.name} has no GPU, and the image needs one; ask for ml.g4dn"


@pytest.mark.sagemaker_gpu_access
@pytest.mark.needs("test_instance_of_the_request_has_a_gpu")
@pytest.mark.parametrize("kind", CAPACITIES)
def test_instance_holds_the_job(request_meant, scene, profile, kind):
    """Memory, GPU memory and disk of the instance hold the scene and the model asked for.

    All photographs at full size in 16 GB ended in 137 with no reason (K30, trap 9), and
    VolumeSizeInGB enlarges no instance store (trap 23). By the profile's model of memory, else by
    the least that any trainer takes.
    """
    instance = known(request_meant.instance_type)
    need = next(n for n in needs(request_meant, instance, scene, profile) if n.kind == kind)
    assert need.total <= need.have, (
        f"{instance.name}: {need}; lower the size of photographs or model, or ask for a larger one"
    )


@pytest.mark.sagemaker_gpu_access
@pytest.mark.needs("test_instance_of_the_request_has_a_gpu")
def test_driver_of_the_host_is_new_enough(request_meant, facts, image):
    """The image needs no newer driver than SageMaker's training hosts are known to have.

    It cannot be chosen, and AWS does not publish it (contract 5.1, trap 15): an image beyond it is
    refused after the instance has been paid for.
    """
    instance = known(request_meant.instance_type)
    declared = branch(image.labels.get(LABEL_FLOOR, "")) or 0
    cuda = MINIMUM_DRIVER.get(int((facts.torch_cuda or "0").split(".")[0]), 0)
    floor = max(declared, cuda)
    if not floor:
        raise NotVerified("the image declares no driver floor and its CUDA is not known here")
    assert floor <= HOST_DRIVER_SEEN, (
        f"driver {floor} needed, and no host of {instance.name} was ever seen with more than "
        f"{HOST_DRIVER_SEEN}; build for an older CUDA"
    )
    if floor > HOST_DRIVER:
        raise NotVerified(
            f"driver {floor} needed; hosts of {instance.name} are known to have {HOST_DRIVER}, and "
            f"{HOST_DRIVER_SEEN} by hints alone: one cheap job that prints nvidia-smi tells"
        )


def known(name: str) -> Instance:
    """An instance type that something is known of."""
    if name not in INSTANCES:
        raise NotVerified(f"nothing is known here of {name}")
    return INSTANCES[name]


@pytest.mark.production_duration
@pytest.mark.needs("test_timeouts_nest")
def test_own_limit_ends_before_the_services(request_meant, scene, profile):
    """The trainer's own limit ends before MaxRuntimeInSeconds, with room for download and upload.

    Two equal limits cannot both be met: what ends last is killed (K44); whether the service counts
    the time of transfers is not documented (contract 1.4).
    """
    name = profile.effects.minutes
    own = parameter(request_meant, name)
    if not own:
        raise NotVerified("the request sets no limit of the trainer's own; give it with --request")
    gaussians = parameter(request_meant, profile.effects.gaussians) or len(scene.points_xyz)
    moved = size_of(scene.path) + gaussians * MODEL_GAUSSIAN
    room = MINUTES_LEFT + moved / TRANSFER / 60
    limit = request_meant.max_runtime / 60
    assert own + room <= limit, (
        f"{name}={own:g} and MaxRuntimeInSeconds is {limit:g} minutes; leave {room:.1f}: "
        f"{MINUTES_LEFT:g} to end, the rest for {moved / 1e9:.2f} GB down and up"
    )
