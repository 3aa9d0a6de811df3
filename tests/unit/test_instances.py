"""The instance table, against the types of the locked botocore and EC2's description of them."""

import pytest
from moto.ec2.models.instance_types import INSTANCE_TYPES as EC2

from splatgate.container.cuda import target
from splatgate.evidence import BadInput
from splatgate.evidence.missing import NotVerified
from splatgate.instances import INSTANCES
from splatgate.sagemaker import validate

TYPES = validate.model()["shapes"]["TrainingInstanceType"]["enum"]
DESCRIBED = {name: EC2[name.removeprefix("ml.")] for name in TYPES if name[3:] in EC2}


def test_every_row_is_a_type_for_training():
    assert set(INSTANCES) <= set(TYPES)


@pytest.mark.parametrize("name", [name for name in INSTANCES if name in DESCRIBED])
def test_a_row_says_what_ec2_says(name):
    said, row = DESCRIBED[name], INSTANCES[name]
    gpus = said.get("GpuInfo", {}).get("Gpus", [])
    assert row.vcpus == said["VCpuInfo"]["DefaultVCpus"]
    assert row.memory_mib == said["MemoryInfo"]["SizeInMiB"]
    assert row.gpu_count == sum(gpu["Count"] for gpu in gpus)
    assert row.nvme_gb == said.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0)
    if gpus:
        # nvidia-smi's word order: NVIDIA RTX PRO 6000 Blackwell Server Edition.
        assert row.gpu == gpus[0]["Name"].replace(" Server", "")
        assert row.gpu_memory_mib == gpus[0]["MemoryInfo"]["SizeInMiB"]


def test_every_type_with_a_gpu_is_described():
    """A new type that EC2 describes is a row to add."""
    with_gpu = {
        name
        for name, said in DESCRIBED.items()
        if any(gpu["Manufacturer"] == "NVIDIA" for gpu in said.get("GpuInfo", {}).get("Gpus", []))
    }
    assert with_gpu <= set(INSTANCES)


@pytest.mark.parametrize("name", TYPES)
def test_a_type_of_the_service_is_never_bad_input_for_want_of_a_row(name):
    validate.instance_type(name)
    if name not in INSTANCES:
        with pytest.raises(NotVerified, match="not described"):
            target(name)


@pytest.mark.parametrize("name", ["ml.g4dn.xlrge", "g5.xlarge", "T4", ""])
def test_what_is_no_type_is_refused_with_the_nearest(name):
    with pytest.raises(BadInput, match="did you mean ml"):
        validate.instance_type(name)


@pytest.mark.parametrize("name", ["ml.m5.xlarge", "g5.xlarge", "T4", ""])
def test_an_image_with_gpu_code_is_meant_for_a_type_with_a_gpu(name):
    with pytest.raises(BadInput, match="such as ml"):
        target(name)
