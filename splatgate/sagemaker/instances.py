"""Training instances: what a job's host has. One frozen table holds these numbers."""

from __future__ import annotations

from dataclasses import dataclass

from splatgate.evidence import Limits

MIB = 1024**2
GIB = 1024**3


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


@dataclass(frozen=True)
class Assumptions:
    """What SageMaker does not document, as this host does it. Each is a row of ``Job.unverified``.

    ``host_memory_bytes`` is what the instance's own processes are assumed to take of its memory
    (contract trap 9 tests a 16 GiB host with 15 GiB). ``pids`` bounds processes and threads, the
    kernel's own limit being unknown. ``shm_bytes`` is Docker's default /dev/shm (contract 2.6).
    """

    shm_bytes: int = 64 * MIB
    pids: int = 16384
    host_memory_bytes: int = GIB
    #: Whether a signal-forwarding init is PID 1 (contract 1.1).
    init: bool = False
    #: Whether hyperparameters.json is written for a request without hyperparameters (contract 2.2).
    empty_hyperparameters_file: bool = True

    def rows(self) -> tuple[str, ...]:
        """Name each assumption with its row of the contract and the value in force."""
        return (
            f"1.1 --init: {'given' if self.init else 'not given, the program is PID 1'}",
            "1.1 user: the image's USER, not overridden",
            "1.1 working directory: the image's WORKDIR, not overridden",
            "1.3 FailureReason: prefix and suffix count against the 1024 characters",
            "1.4 a job that was stopped is Stopped whatever its exit status",
            "2.4 write protection of channels: read-only",
            f"2.6 /dev/shm: {self.shm_bytes // MIB} MiB",
            f"2.6 memory for the host itself: {self.host_memory_bytes // MIB} MiB",
            f"pids limit: {self.pids}",
            "2.5 links and devices in /opt/ml/model: listed by kind, not followed",
            "3.1 variables beyond the documented two and Environment: none set",
        )


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
