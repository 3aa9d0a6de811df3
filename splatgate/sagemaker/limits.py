"""An instance's limits on a container: what this engine can apply, and what it has applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splatgate.evidence import Limits
from splatgate.instances import Instance
from splatgate.sagemaker.assumptions import MIB, Assumptions
from splatgate.sagemaker.disk import why_not

#: The engine itself and this process need some of the memory of a small machine.
MEMORY_SHARE = 0.9


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


def fit(asked: Limits, info: Mapping[str, Any], base_url: str = "") -> tuple[Limits, list[str]]:
    """What of ``asked`` this engine can apply, and one line for each limit that differs.

    An engine refuses more CPUs than it has, and takes a memory limit larger than its memory without
    a word. ``base_url`` is where it is: a disk of a given size needs one on this machine.
    """
    notes = []
    memory, cpus, pids, disk = asked.memory_bytes, asked.cpus, asked.pids, asked.disk_bytes
    total = int(info.get("MemTotal") or 0)
    if memory is not None and not info.get("MemoryLimit", True):
        memory = None
        notes.append("limits: this engine cannot limit memory")
    elif memory is not None and total and memory > total * MEMORY_SHARE:
        notes.append(
            f"limits: memory {memory // MIB} MiB asked, "
            f"{int(total * MEMORY_SHARE) // MIB} MiB applied; the engine has {total // MIB} MiB"
        )
        memory = int(total * MEMORY_SHARE)
    have = int(info.get("NCPU") or 0)
    if cpus is not None and not info.get("CpuCfsQuota", True):
        cpus = None
        notes.append("limits: this engine cannot limit CPUs")
    elif cpus is not None and have and cpus > have:
        notes.append(f"limits: {cpus:g} CPUs asked, {have} applied; the engine has no more")
        cpus = float(have)
    if pids is not None and not info.get("PidsLimit", True):
        pids = None
        notes.append("limits: this engine cannot limit pids")
    if disk is not None and (problem := why_not(disk, info, base_url)):
        notes.append(f"limits: disk {size(disk)} asked, not applied: {problem}")
        disk = None
    return Limits(memory, asked.shm_bytes, pids, cpus, disk), notes


def size(count: int) -> str:
    """Bytes for people, in decimal units as disks are sold."""
    return f"{count / 1e9:.0f} GB" if count >= 10**9 else f"{count / 1e6:.0f} MB"


def has_gpu(info: Mapping[str, Any]) -> bool:
    """Whether the engine offers NVIDIA GPUs, through its runtime or through CDI."""
    devices = (str(d.get("ID", "")) for d in info.get("DiscoveredDevices") or ())
    return "nvidia" in (info.get("Runtimes") or {}) or any("nvidia.com/gpu" in d for d in devices)


def applied(container: Any) -> Limits:
    """Limits that are in force, as the engine reports them; zero means none."""
    config = container.attrs["HostConfig"]
    pids = config.get("PidsLimit")
    return Limits(
        memory_bytes=config.get("Memory") or None,
        shm_bytes=config.get("ShmSize") or None,
        pids=pids if pids and pids > 0 else None,
        cpus=(config.get("NanoCpus") or 0) / 10**9 or None,
    )
