"""The engine's side of one job: volumes, containers, limits. ``Stage.close`` removes them all."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from splatgate.container.engine import EngineError
from splatgate.container.sweep import discard
from splatgate.evidence import Limits
from splatgate.sagemaker.assumptions import MIB, Assumptions
from splatgate.sagemaker.channels import files_below, tar_of
from splatgate.sagemaker.disk import Disk
from splatgate.sagemaker.environment import command_line, environment
from splatgate.sagemaker.request import Request

ML = "/opt/ml"
#: Directories of the contract that exist before the program starts, root-owned 0755 (contract 2.1).
FOLDERS = ("input/config", "input/data", "model", "output/data", "checkpoints")
#: Where the carrier, which never runs, holds the job's volumes: a path that no image uses.
CARRIER_ROOT = "/.splatgate"
#: The engine keeps this much of a log, its end. More is a flood that would fill the engine's disk.
LOG_LIMIT = 64 * MIB
#: How often copying says how far it is (seconds).
SAY_EVERY = 5.0
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


class Stage:
    """The volumes and containers of one attempt at a job.

    /opt/ml is one volume, each channel a volume of its own, mounted read-only. They are filled and
    read through the *carrier*, a container that holds them writable elsewhere and is never started:
    the engine refuses to write through a read-only mount, and a bind mount would need the engine on
    this machine.
    """

    def __init__(
        self,
        client: Any,
        image: Any,
        labels: Mapping[str, str],
        request: Request,
        assumed: Assumptions,
    ) -> None:
        from docker.types import Mount

        self.client, self.image, self.labels, self.request = client, image, dict(labels), request
        self.assumed = assumed
        self._made: list[Any] = []
        self._disks: list[Disk] = []
        self.carrier: Any = None
        self.container: Any = None
        self.mounts: list[Any] = []
        self._held: list[Any] = []
        #: The smallest file of each volume that was filled, where the job must see it.
        self._filled: list[str] = []
        #: Every path at which the job sees a volume.
        self.targets: list[str] = []
        self._mount = Mount

    def build(self, disk_bytes: int | None = None) -> None:
        """Make the volumes and the carrier; with ``disk_bytes``, /opt/ml, /tmp and each VOLUME of
        the image are disks of that size.

        Raises:
            OSError: there can be no such disk.
        """
        self._volume(ML, "ml", size=disk_bytes)
        if disk_bytes is not None:
            self._volume("/tmp", "tmp", size=disk_bytes)
        for channel in self.request.channels:
            writable = self.assumed.channels_writable and channel.mode == "File"
            self._volume(
                f"{ML}/input/data/{channel.name}", f"data/{channel.name}", read_only=not writable
            )
        checkpoints = self.request.checkpoints
        if not checkpoints.startswith(f"{ML}/"):
            self._volume(checkpoints, "checkpoints")
        # A VOLUME of the image below /opt/ml would bring the image's own files back over the
        # shadow.
        for path in sorted((self.image.attrs.get("Config") or {}).get("Volumes") or {}):
            clean = path.rstrip("/")
            if clean.startswith(f"{ML}/") and clean not in self.targets:
                self._volume(clean, f"ml{clean[len(ML) :]}", size=disk_bytes)
        self.carrier = self.client.containers.create(
            self.image.id,
            entrypoint=[f"{CARRIER_ROOT}/never-started"],
            labels=self.labels,
            mounts=self._held,
            network_mode="none",
        )
        self._made.append(self.carrier)

    def _volume(
        self, target: str, held_at: str, *, read_only: bool = False, size: int | None = None
    ) -> None:
        options = {}
        if size is not None:
            self._disks.append(Disk(size))
            options = {"type": "ext4", "device": self._disks[-1].device}
        volume = self.client.volumes.create(driver_opts=options, labels=self.labels)
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
        until: float,
    ) -> None:
        """Put directories, configuration, checkpoints and the channels' data into the volumes.

        Raises:
            HostFailed: that took longer than ``until``, a monotonic time in seconds.
        """
        trees = {}
        where = self.checkpoint_folder
        if checkpoints is not None:
            trees[where] = checkpoints
        folders = [*(f"ml/{name}" for name in FOLDERS), where]
        folders += [f"ml/{t[len(ML) + 1 :]}" for t in self.targets if t.startswith(f"{ML}/")]
        texts = {f"ml/{name}": data for name, data in config.items()}
        self._put(tar_of(folders, texts, trees))
        self._filled = [f"{ML}/{name}" for name in config][:1]
        if "/tmp" in self.targets:
            self._put(tar_of(["tmp"], {}, {}, mode=0o1777))
        for name, path in channels.items():
            say(f"channel {name}: copying {path}")
            tar = tar_of([f"data/{name}"], {}, {f"data/{name}": path})
            self._put(_paced(tar, f"channel {name}", say, until))
            files = sorted(files_below(path), key=lambda entry: entry[1].stat().st_size)
            self._filled += [f"{ML}/input/data/{name}/{file}" for file, _ in files[:1]]

    def _put(self, tar: Iterator[bytes]) -> None:
        self.carrier.put_archive(CARRIER_ROOT, tar)

    @property
    def checkpoint_folder(self) -> str:
        """Where checkpoints lie in the carrier, below ``CARRIER_ROOT``."""
        path = self.request.checkpoints
        return f"ml{path[len(ML) :]}" if path.startswith(f"{ML}/") else "checkpoints"

    def create(self, limits: Limits, *, gpus: int) -> None:
        """Create the job's container.

        Raises:
            NotStarted: the image or the request makes that impossible.
            HostFailed: it would not see what its volumes were filled with.
        """
        import docker.errors
        from docker.types import DeviceRequest, LogConfig

        request, assumed = self.request, self.assumed
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
        if assumed.user:
            options["user"] = assumed.user
        if assumed.workdir:
            options["working_dir"] = assumed.workdir
        try:
            self.container = self.client.containers.create(
                self.image.id,
                environment=environment(request, assumed),
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
        for path in self._filled:
            try:
                deque(self.container.get_archive(path)[0], maxlen=0)
            except docker.errors.NotFound:
                raise HostFailed(
                    f"{path} did not reach the job's volume: this engine keeps what is put into a "
                    "container before its start out of its volumes (Podman does)",
                    "use a Docker engine",
                ) from None

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
        for made in (self._made, self.mounts, self._held, self.targets):
            made.clear()
        while self._disks:
            self._disks.pop().close()
        return left


def _paced(
    tar: Iterator[bytes], what: str, say: Callable[[str], None], until: float
) -> Iterator[bytes]:
    """Hand on a stream, say how far it is, and give up when the time has passed."""
    sent, said = 0, time.monotonic()
    for block in tar:
        now = time.monotonic()
        if now > until:
            raise HostFailed(f"{what}: not copied before the deadline", "raise the deadline")
        if now - said >= SAY_EVERY:
            said = now
            say(f"{what}: {sent // MIB} MiB copied")
        sent += len(block)
        yield block


def _not_started(text: str, code: int | None) -> Exception:
    """Tell a subject at fault from an engine at fault by the exit status and the engine's words."""
    message = " ".join(text.split()).removesuffix(": unknown")
    if code in (126, 127):
        # Engines wrap the runtime's own sentence, which is the one that SageMaker's users know.
        return NotStarted(message[max(message.find("exec: "), 0) :], code)
    if _SUBJECT.search(message):
        return NotStarted(message, None)
    return HostFailed(f"the engine did not start the job's container: {message}")
