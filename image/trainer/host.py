"""What the machine offers, found out before PyTorch is imported."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from trainer.errors import TrainerError, classify

_VERSION = re.compile(r"\b(\d{3,4}\.\d+(?:\.\d+)?)\b")
_DEVICE = re.compile(r"\s*(\d+|(GPU|MIG)-\S+)\s*")


def driver_version(root: Path = Path("/")) -> str | None:
    """The NVIDIA kernel driver's version as text (``535.183.01``); None without one."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        return None
    found = _VERSION.search(text)
    return found.group(1) if found else None


def require_gpu(environment: Mapping[str, str], root: Path = Path("/")) -> None:
    """Refuse at once when no GPU can be used: ``E_NO_GPU`` or ``E_DRIVER``.

    Looks at device files, the driver's version and the environment only: a fraction of a second,
    while importing PyTorch takes many. What passes here is asked again of CUDA itself later.
    """
    visible, hidden = environment.get("CUDA_VISIBLE_DEVICES"), ""
    if visible is not None and not _DEVICE.fullmatch(visible.split(",")[0]):
        hidden = f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU from CUDA (only "
        hidden += "NVIDIA_VISIBLE_DEVICES may be 'all'); unset it"
    driver = driver_version(root)
    if driver is None and not any((root / "dev").glob("nvidia[0-9]*")):
        injected = environment.get("NVIDIA_VISIBLE_DEVICES")
        raise TrainerError(
            "E_NO_GPU",
            "device=cuda, but this container sees no NVIDIA GPU: run it on a GPU instance (such as "
            "ml.g4dn.xlarge) with NVIDIA_VISIBLE_DEVICES=all, or ask for device=cpu",
            "; ".join(filter(None, (f"NVIDIA_VISIBLE_DEVICES={injected!r}", hidden))),
        )
    if hidden:
        raise TrainerError("E_NO_GPU", f"device=cuda, but {hidden}, or ask for device=cpu")
    floor = environment.get("TRAINER_DRIVER_FLOOR", "")
    if driver and _numbers(driver) < _numbers(floor):
        raise TrainerError(
            "E_DRIVER",
            f"the host's NVIDIA driver {driver} is below {floor}, which this image's CUDA needs",
        )


def require_output(base: Path) -> None:
    """Refuse output folders that cannot be written to: ``E_OUTPUT``, or ``E_DISK`` if full."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise TrainerError("E_OUTPUT", f"{error.strerror}; mount one, or set TMPDIR") from error
    for folder in (base / "model", base / "output" / "data"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(4096))
        except OSError as error:
            error.filename = str(folder)
            raise classify(error, base) from error


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def versions() -> dict[str, str]:
    """Versions of what decides the result, by name; read from metadata, nothing is imported."""
    found = {"python": platform.python_version()}
    for name in ("torch", "gsplat", "numpy", "pillow", "pycolmap"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if driver := driver_version():
        found["nvidia_driver"] = driver
    return found


def peak_rss() -> int:
    """Largest resident size of this process so far, in bytes."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cpus() -> int:
    """CPUs this process may use: affinity, and the cgroup's quota where one is set."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        pass
    return count


def memory_limit(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes of memory that this process may hold in all, and what sets the limit.

    The least of the cgroup's limit (version 1 or 2, its own or an ancestor's) and what the machine
    has free beside what this process holds already.
    """
    info = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
    free = int(info["MemAvailable"].split()[0]) * 1024 + resident(root)
    limits = [(free, "what the machine has free")]
    limits += [(n, "the container's limit") for n in _cgroup(root, "max", "limit_in_bytes")]
    return min(limits)


def memory_peak(root: Path = Path("/")) -> int:
    """Largest memory of this container so far by its cgroup, page cache included; 0 if unknown."""
    return next(iter(_cgroup(root, "peak", "max_usage_in_bytes")), 0)


def resident(root: Path = Path("/")) -> int:
    """Bytes that this process holds in memory now."""
    return int((root / "proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cgroup(root: Path, v2: str, v1: str) -> list[int]:
    """Values of a memory file of this process's cgroup and of its ancestors, own first.

    In a container the mount may show the container's cgroup as its root, or the host's tree.
    """
    found = []
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        number, kinds, path = line.split(":", 2)
        if number == "0":
            top, name = root / "sys/fs/cgroup", f"memory.{v2}"
        elif "memory" in kinds.split(","):
            top, name = root / "sys/fs/cgroup/memory", f"memory.{v1}"
        else:
            continue
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if not folder.is_relative_to(top):
                break
            try:
                found.append(int((folder / name).read_text()))
            except (OSError, ValueError):  # absent at the root, or "max"
                continue
    return found
