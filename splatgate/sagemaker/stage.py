"""The engine's side of one job: volumes, containers, limits. ``Stage.close`` removes them all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from splatgate.container.engine import EngineError
from splatgate.container.sweep import discard
from splatgate.evidence import Limits
from splatgate.sagemaker.channels import tar_of
from splatgate.sagemaker.instances import MIB, Assumptions
from splatgate.sagemaker.request import Request

ML = "/opt/ml"
#: Directories of the contract that exist before the program starts, root-owned 0755 (contract 2.1).
FOLDERS = ("input/config", "input/data", "model", "output/data", "checkpoints")
#: Where the carrier, which never runs, holds the job's volumes: a path that no image uses.
CARRIER_ROOT = "/.splatgate"
#: The engine keeps this much of a log, its end. More is a flood that would fill the engine's disk.
LOG_LIMIT = 64 * MIB
#: The engine itself and this process need some of the memory of a small machine.
MEMORY_SHARE = 0.9

#: What an engine says of a container that cannot start because of the image or the request.
#: Anything else that it refuses is the engine's own failure, and no verdict on the image.
_SUBJECT = re.compile(
    r"unable to find (user|group)|no matching entries in (passwd|group) file|is not a directory"
    r"|exec format error|requirement error|unsatisfied condition|invalid (user|workdir)"
    r"|cannot mkdir|chdir to cwd",
    re.IGNORECASE,
)


class HostFailed(EngineError):
    """The engine failed the training host. Never a verdict on the image."""

    def __init__(self, what: str, how: str = "see the engine's log, then run it again") -> None:
        super().__init__(what, how)


class NotStarted(Exception):
    """The container could not be created or started, by the image's or the request's fault.

    ``exit_code`` is 126 or 127 where the engine gives one to a program that cannot be run, else
    None.
    """

    def __init__(self, message: str, exit_code: int | None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def command_line(request: Request, image: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Compose ``docker run`` by the four rows of contract 1.1.

    Returns the arguments for the engine, and the whole command line that the container gets.
    """
    own = tuple((image.attrs.get("Config") or {}).get("Entrypoint") or ())
    arguments = request.arguments or ()
    if request.entrypoint is not None:
        options: dict[str, Any] = {"entrypoint": list(request.entrypoint)}
        if arguments:
            options["command"] = list(arguments)
        return options, (*request.entrypoint, *arguments)
    arguments = arguments or ("train",)
    return {"command": list(arguments)}, (*own, *arguments)


def config_files(request: Request, assumed: Assumptions) -> dict[str, bytes]:
    """The files of /opt/ml/input/config, by path below /opt/ml (contract 2.1-2.3)."""
    host, group = "algo-1", "homogeneousCluster"
    channels = {}
    for channel in request.channels:
        entry = {
            "TrainingInputMode": channel.mode,
            "S3DistributionType": channel.distribution,
            "RecordWrapperType": channel.record_wrapper,
        }
        if channel.content_type is not None:
            entry["ContentType"] = channel.content_type
        channels[channel.name] = entry
    documents: dict[str, Any] = {
        "inputdataconfig": channels,
        "resourceconfig": {
            "current_host": host,
            "hosts": [host],
            "network_interface_name": "eth0",
            "current_instance_type": request.instance_type,
            "current_group_name": group,
            "instance_groups": [
                {
                    "instance_group_name": group,
                    "instance_type": request.instance_type,
                    "hosts": [host],
                }
            ],
        },
    }
    if request.hyperparameters or assumed.empty_hyperparameters_file:
        documents["hyperparameters"] = dict(request.hyperparameters)
    return {
        f"input/config/{name}.json": json.dumps(document).encode()
        for name, document in documents.items()
    }


def fit(asked: Limits, info: Mapping[str, Any]) -> tuple[Limits, list[str]]:
    """What of ``asked`` this engine can apply, and one line for each limit that differs.

    An engine refuses more CPUs than it has, and takes a memory limit larger than its memory without
    a word.
    """
    notes = []
    memory, cpus, pids = asked.memory_bytes, asked.cpus, asked.pids
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
    if asked.disk_bytes is not None:
        notes.append(f"limits: disk {asked.disk_bytes // 10**9} GB asked, not limited")
    return Limits(memory, asked.shm_bytes, pids, cpus, None), notes


def has_gpu(info: Mapping[str, Any]) -> bool:
    """Whether the engine offers NVIDIA GPUs, through its runtime or through CDI."""
    devices = (str(d.get("ID", "")) for d in info.get("DiscoveredDevices") or ())
    return "nvidia" in (info.get("Runtimes") or {}) or any("nvidia.com/gpu" in d for d in devices)


class Stage:
    """The volumes and containers of one job.

    /opt/ml is one volume, each channel a volume of its own, mounted read-only. They are filled and
    read through the *carrier*, a container that holds them writable elsewhere and is never started:
    the engine refuses to write through a read-only mount, and a bind mount would need the engine on
    this machine.
    """

    def __init__(
        self, client: Any, image: Any, labels: Mapping[str, str], request: Request
    ) -> None:
        from docker.types import Mount

        self.client, self.image, self.labels, self.request = client, image, dict(labels), request
        self._made: list[Any] = []
        self.carrier: Any = None
        self.container: Any = None
        self.mounts: list[Any] = []
        self._held: list[Any] = []
        #: Every path at which the job sees a volume.
        self.targets: list[str] = []
        self._mount = Mount

    def build(self) -> None:
        """Make the volumes and the carrier."""
        self._volume(ML, "ml")
        for channel in self.request.channels:
            self._volume(f"{ML}/input/data/{channel.name}", f"data/{channel.name}", read_only=True)
        checkpoints = self.request.checkpoints
        if not checkpoints.startswith(f"{ML}/"):
            self._volume(checkpoints, "checkpoints")
        # A VOLUME of the image below /opt/ml would bring the image's own files back over the
        # shadow.
        for path in sorted((self.image.attrs.get("Config") or {}).get("Volumes") or {}):
            clean = path.rstrip("/")
            if clean.startswith(f"{ML}/") and clean not in self.targets:
                self._volume(clean, f"ml{clean[len(ML) :]}")
        self.carrier = self.client.containers.create(
            self.image.id,
            entrypoint=[f"{CARRIER_ROOT}/never-started"],
            labels=self.labels,
            mounts=self._held,
            network_mode="none",
        )
        self._made.append(self.carrier)

    def _volume(self, target: str, held_at: str, *, read_only: bool = False) -> None:
        volume = self.client.volumes.create(labels=self.labels)
        self._made.insert(0, volume)
        self.targets.append(target)
        self.mounts.append(self._mount(target, volume.name, read_only=read_only, no_copy=True))
        self._held.append(self._mount(f"{CARRIER_ROOT}/{held_at}", volume.name, no_copy=True))

    def fill(
        self,
        channels: Mapping[str, Path],
        config: Mapping[str, bytes],
        checkpoints: Path | None,
        say: Callable[[str], None],
    ) -> None:
        """Put directories, configuration, checkpoints and the channels' data into the volumes."""
        trees = {}
        where = self.checkpoint_folder
        if checkpoints is not None:
            trees[where] = checkpoints
        folders = [*(f"ml/{name}" for name in FOLDERS), where]
        folders += [f"ml/{t[len(ML) + 1 :]}" for t in self.targets if t.startswith(f"{ML}/")]
        texts = {f"ml/{name}": data for name, data in config.items()}
        self._put(tar_of(folders, texts, trees))
        for name, path in channels.items():
            say(f"channel {name}: copying {path}")
            self._put(tar_of([f"data/{name}"], {}, {f"data/{name}": path}))

    def _put(self, tar: Iterator[bytes]) -> None:
        self.carrier.put_archive(CARRIER_ROOT, tar)

    @property
    def checkpoint_folder(self) -> str:
        """Where checkpoints lie in the carrier, below ``CARRIER_ROOT``."""
        path = self.request.checkpoints
        return f"ml{path[len(ML) :]}" if path.startswith(f"{ML}/") else "checkpoints"

    def create(self, limits: Limits, assumed: Assumptions, *, gpus: int) -> None:
        """Create the job's container.

        Raises:
            NotStarted: the image or the request makes that impossible.
        """
        import docker.errors
        from docker.types import DeviceRequest, LogConfig

        request = self.request
        options, _ = command_line(request, self.image)
        if request.isolated:
            options["network_mode"] = "none"
        if gpus:
            options["device_requests"] = [DeviceRequest(count=gpus, capabilities=[["gpu"]])]
        if limits.memory_bytes is not None:
            # Equal limits: no swap, which an instance has not.
            options |= {"mem_limit": limits.memory_bytes, "memswap_limit": limits.memory_bytes}
        if limits.cpus is not None:
            options["nano_cpus"] = int(limits.cpus * 10**9)
        try:
            self.container = self.client.containers.create(
                self.image.id,
                environment=environment(request),
                init=assumed.init,
                labels=self.labels,
                log_config=LogConfig(
                    type="json-file",
                    config={"max-size": f"{LOG_LIMIT // (2 * MIB)}m", "max-file": "2"},
                ),
                mounts=self.mounts,
                pids_limit=limits.pids,
                shm_size=limits.shm_bytes,
                **options,
            )
        except docker.errors.APIError as error:
            raise _not_started(str(error.explanation or error), None) from None
        self._made.append(self.container)

    def start(self) -> None:
        """Start the job's container.

        Raises:
            NotStarted: there is no such program, it may not be run, or the image's configuration is
            at fault.
        """
        import docker.errors

        try:
            self.container.start()
        except docker.errors.APIError as error:
            self.container.reload()
            state = self.container.attrs["State"]
            text = state.get("Error") or str(error.explanation or error)
            raise _not_started(text, state.get("ExitCode")) from None

    def close(self) -> list[str]:
        """Remove everything; returns the names of what could not be removed."""
        left = [item.name for item in reversed(self._made) if not discard(item)]
        self._made.clear()
        return left


def _not_started(text: str, code: int | None) -> Exception:
    """Tell a subject at fault from an engine at fault by the exit status and the engine's words."""
    message = " ".join(text.split()).removesuffix(": unknown")
    if code in (126, 127):
        # Engines wrap the runtime's own sentence, which is the one that SageMaker's users know.
        return NotStarted(message[max(message.find("exec: "), 0) :], code)
    if _SUBJECT.search(message):
        return NotStarted(message, None)
    return HostFailed(f"the engine did not start the job's container: {message}")


def environment(request: Request) -> dict[str, str]:
    """Exactly what SageMaker sets: two variables and the request's own (contract 3.1)."""
    return {
        "TRAINING_JOB_NAME": request.name,
        "TRAINING_JOB_ARN": request.arn,
        **request.environment,
    }


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
