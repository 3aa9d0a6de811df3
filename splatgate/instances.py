"""Training instances: the GPU, memory and disk of each type. The one table of these numbers.

Source: EC2 DescribeInstanceTypes, which moto packages and a unit test compares; of p3, which it no
longer lists, aws.amazon.com/ec2/instance-types/p3. Compute capabilities:
developer.nvidia.com/cuda-gpus.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instance:
    """One instance type.

    ``sm`` is its GPUs' compute capability as the number in ``sm_XY`` (7.5 is 75), None without one.
    ``memory_mib``, and ``gpu_memory_mib`` of one GPU, are MiB as EC2 states them. ``nvme_gb`` is
    the instance store in decimal gigabytes: VolumeSizeInGB does not enlarge it, and VolumeKmsKeyId
    is refused. 0: the volume is EBS, of VolumeSizeInGB.
    """

    name: str
    vcpus: int
    memory_mib: int
    gpu: str | None
    gpu_count: int
    gpu_memory_mib: int
    sm: int | None
    nvme_gb: int

    @property
    def family(self) -> str:
        """The middle of its name: g4dn."""
        return self.name.split(".")[1]


#: Family: GPU, compute capability, MiB of one GPU; then size: vCPUs, GiB, GPUs, GB of NVMe.
_TABLE = """
p3      V100     70  16384 | 2xlarge 8 61 1 0 | 8xlarge 32 244 4 0 | 16xlarge 64 488 8 0
p3dn    V100     70  32768 | 24xlarge 96 768 8 1800
p4d     A100     80  40960 | 24xlarge 96 1152 8 8000
p4de    A100     80  81920 | 24xlarge 96 1152 8 8000
p5      H100     90  81920 | 4xlarge 16 256 1 3800 | 48xlarge 192 2048 8 30400
p5e     H200     90 144384 | 48xlarge 192 2048 8 30400
p5en    H200     90 144384 | 48xlarge 192 2048 8 30400
p6-b200 B200    100 183359 | 48xlarge 192 2048 8 30400
p6-b300 B300    103 275040 | 48xlarge 192 4096 8 30400
g4dn    T4       75  16384 | xlarge 4 16 1 125 | 2xlarge 8 32 1 225 | 4xlarge 16 64 1 225 |
                             8xlarge 32 128 1 900 | 12xlarge 48 192 4 900 | 16xlarge 64 256 1 900
g5      A10G     86  22888 | xlarge 4 16 1 250 | 2xlarge 8 32 1 450 | 4xlarge 16 64 1 600 |
                             8xlarge 32 128 1 900 | 12xlarge 48 192 4 3800 |
                             16xlarge 64 256 1 1900 | 24xlarge 96 384 4 3800 |
                             48xlarge 192 768 8 7600
g6      L4       89  22888 | xlarge 4 16 1 250 | 2xlarge 8 32 1 450 | 4xlarge 16 64 1 600 |
                             8xlarge 32 128 1 900 | 12xlarge 48 192 4 3760 |
                             16xlarge 64 256 1 1880 | 24xlarge 96 384 4 3760 |
                             48xlarge 192 768 8 7520
g6e     L40S     89  45776 | xlarge 4 32 1 250 | 2xlarge 8 64 1 450 | 4xlarge 16 128 1 600 |
                             8xlarge 32 256 1 900 | 12xlarge 48 384 4 3800 |
                             16xlarge 64 512 1 1900 | 24xlarge 96 768 4 3800 |
                             48xlarge 192 1536 8 7600
g7      RTX-PRO-4500 120 32768 | 2xlarge 8 32 1 440 | 4xlarge 16 64 1 875 | 8xlarge 32 128 1 930 |
                             12xlarge 48 192 2 1900 | 24xlarge 96 384 4 3800 |
                             48xlarge 192 768 8 7600
g7e     RTX-PRO-6000 120 98304 | 2xlarge 8 64 1 1900 | 4xlarge 16 128 1 1900 |
                             8xlarge 32 256 1 1900 | 12xlarge 48 512 2 3800 |
                             24xlarge 96 1024 4 7600 | 48xlarge 192 2048 8 15200
m5      -         0      0 | xlarge 4 16 0 0 | 2xlarge 8 32 0 0
"""


def _read() -> dict[str, Instance]:
    found = {}
    for row in _TABLE.replace("|\n", "|").strip().splitlines():
        head, *sizes = (part.split() for part in row.split("|"))
        family, gpu, sm, memory = head
        for size, *numbers in sizes:
            vcpus, gib, count, nvme = map(int, numbers)
            name, has = f"ml.{family}.{size}", count > 0
            found[name] = Instance(
                name=name,
                vcpus=vcpus,
                memory_mib=gib * 1024,
                gpu=gpu.replace("-", " ") if has else None,
                gpu_count=count,
                gpu_memory_mib=int(memory),
                sm=int(sm) if has else None,
                nvme_gb=nvme,
            )
    return found


INSTANCES = _read()
#: Instance types of the reference job definition, for which the image must hold machine code.
DECLARED = ("ml.g4dn.xlarge",)
