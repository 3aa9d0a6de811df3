"""Training instances: what a job's host has. One frozen table holds these numbers."""

from __future__ import annotations

from dataclasses import dataclass

from splatgate.evidence import Limits
from splatgate.sagemaker.assumptions import MIB as MIB
from splatgate.sagemaker.assumptions import Assumptions as Assumptions


@dataclass(frozen=True)
class Instance:
    """One instance type.

    ``memory_mib`` and ``gpu_memory_mib`` are MiB as EC2 states them; ``nvme_gb`` is the instance
    store in decimal gigabytes, 0 where the volume is EBS of VolumeSizeInGB. ``compute_capability``
    is CUDA's, as text.
    """

    name: str
    vcpus: int
    memory_mib: int
    gpu: str | None
    gpu_count: int
    gpu_memory_mib: int
    compute_capability: str | None
    nvme_gb: int
    source: str

    @property
    def sm(self) -> int | None:
        """Compute capability as the number in ``sm_XY`` (7.5 is 75), None without a GPU."""
        return int(self.compute_capability.replace(".", "")) if self.compute_capability else None


#: EC2 DescribeInstanceTypes as packaged in moto 5.2.1 (contract 5.4, measured there).
_EC2 = "contract 5.4: EC2 DescribeInstanceTypes"
_MEMORY = "contract 5.4: from memory, unverified"

INSTANCES: dict[str, Instance] = {
    i.name: i
    for i in (
        Instance("ml.g4dn.xlarge", 4, 16384, "T4", 1, 16384, "7.5", 125, _EC2),
        Instance("ml.g4dn.2xlarge", 8, 32768, "T4", 1, 16384, "7.5", 225, _EC2),
        Instance("ml.g5.xlarge", 4, 16384, "A10G", 1, 22888, "8.6", 250, _EC2),
        Instance("ml.g5.2xlarge", 8, 32768, "A10G", 1, 22888, "8.6", 450, _EC2),
        Instance("ml.g6.xlarge", 4, 16384, "L4", 1, 22888, "8.9", 250, _EC2),
        Instance("ml.g6.2xlarge", 8, 32768, "L4", 1, 22888, "8.9", 450, _EC2),
        Instance("ml.p3.2xlarge", 8, 61 * 1024, "V100", 1, 16384, "7.0", 0, _MEMORY),
        # A host without a GPU: the wrong pairing must be expressible to be refused.
        Instance("ml.m5.xlarge", 4, 16384, None, 0, 0, None, 0, "EC2 DescribeInstanceTypes"),
    )
}


def limits_of(instance: Instance | None, assumed: Assumptions, volume_gb: int) -> Limits:
    """Limits of a container on ``instance``; of an unknown one (None) only those assumed.

    Disk is the instance store where there is one, for VolumeSizeInGB does not enlarge it (contract
    2.6).
    """
    if instance is None:
        return Limits(shm_bytes=assumed.shm_bytes, pids=assumed.pids)
    return Limits(
        memory_bytes=instance.memory_mib * MIB - assumed.host_memory_bytes,
        shm_bytes=assumed.shm_bytes,
        pids=assumed.pids,
        cpus=float(instance.vcpus),
        disk_bytes=(instance.nvme_gb or volume_gb) * 10**9,
    )
