"""Evidence: what was seen of an image, as frozen records that any machine can judge again.

Nothing here looks and nothing here judges. Collectors (``splatgate.container``,
``splatgate.sagemaker``) make
these records; checks read them. A folder of evidence holds::

    evidence.json              schema, image id, run, machine, scene
    image.json                 Image
    registry.json              Registry, what a registry serves, when the image was pushed
    layers.json                LayerFiles, one for each layer
    Dockerfile                 what the image was made from, where it is at hand
    hadolint.json              Lint, what hadolint says of it
    build.json  build.log      the build record and its log, when the image was built here
    lock/*.txt                 the locks of the image, when it was built here from them
    sbom.cdx.json              what is installed, as CycloneDX
    container/facts.json       Facts, what probe.py printed inside the container
    container/hardened.json    Command, the start on a read-only root
    container/commands.jsonl   Command, one line for each command that testinfra ran
    pipeline.json              Pipeline
    jobs/KEY/job.json          Job
    jobs/KEY/log.txt           the job's log, one line for each line of output
    jobs/KEY/model/...         the members of model.tar.gz
    jobs/KEY/gpu.json          Use, where the job had a GPU
    gpu/kernels.json           what the trainer's kernels report of themselves
    jobs/KEY/compressed.json   Compression, what the next stage's tool made of the model
    jobs/KEY/compressed/...    what it wrote

All paths inside evidence are relative to its folder, with ``/``.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

#: Raised when a field is renamed or its meaning changes; added fields do not raise it.
SCHEMA = "splatgate/evidence/1"

T = TypeVar("T")


class BadInput(Exception):
    """Something handed to Splatgate is unusable. The message is one line: what, where, how to mend
    it.
    """


class Origin(StrEnum):
    """Where evidence comes from. A mock is no origin."""

    IMAGE = "image"
    EMULATED = "emulated"
    REGISTRY = "registry"
    GPU = "gpu"
    LIVE = "live"


@dataclass(frozen=True)
class Layer:
    """One layer of an image. ``bytes`` is its uncompressed size as the engine counts it."""

    created_by: str
    bytes: int


@dataclass(frozen=True)
class Image:
    """An image's configuration, as the engine reports it (`docker image inspect`)."""

    ref: str
    #: sha256 of the config JSON: what evidence made before a push is keyed by.
    image_id: str
    #: What a registry serves; None until the image has been pushed or pulled.
    manifest_digest: str | None
    os: str
    architecture: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: dict[str, str]
    user: str
    workdir: str
    labels: dict[str, str]
    bytes: int
    layers: tuple[Layer, ...] = ()
    #: Digests of the layers with content, from the base up (RootFS).
    digests: tuple[str, ...] = ()
    origin: Origin = Origin.IMAGE


@dataclass(frozen=True)
class Child:
    """One manifest that an index names."""

    digest: str
    media_type: str
    #: ``linux/amd64``; ``unknown/unknown`` for what is no image.
    platform: str
    #: BuildKit's word for what it is, where it is no image: ``attestation-manifest``.
    attests: str | None = None
    #: Digest of its configuration, where it is an image.
    image_id: str | None = None


@dataclass(frozen=True)
class Served:
    """What a registry serves under a reference."""

    ref: str
    #: sha256 of the manifest's bytes.
    digest: str
    media_type: str
    #: Digest of the configuration that the manifest names; an index names none.
    image_id: str | None
    #: All layers together, compressed.
    bytes: int = 0
    children: tuple[Child, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a registry answered about one reference."""

    ref: str
    #: None: it has no such manifest.
    served: Served | None = None
    #: False: the registry says that the tag stays; None: it does not say.
    mutable: bool | None = None
    #: When the manifest was pushed; None: the registry does not say.
    pushed: str | None = None
    #: Why the registry could not be asked; then nothing else is known.
    error: str = ""


@dataclass(frozen=True)
class Registry:
    """What registries answered about the image under judgement."""

    #: About the reference that was given for it.
    image: Answer
    #: About TrainingImage, where a request was given.
    request: Answer | None
    #: Digest of each tag of the image's repository.
    tags: dict[str, str]
    #: False: it has more tags than were asked for.
    tags_complete: bool
    seen: str
    origin: Origin = Origin.REGISTRY


@dataclass(frozen=True)
class Remark:
    """What hadolint says of one line. ``level`` is error, warning, info or style."""

    code: str
    level: str
    line: int
    message: str


@dataclass(frozen=True)
class Lint:
    """What hadolint says of a Dockerfile, less what the text itself waives."""

    version: str
    #: Content hash of the text.
    dockerfile_sha256: str
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class Command:
    """One command run in the container through testinfra, with its exit status and output."""

    command: str
    status: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True)
class Distribution:
    """An installed Python distribution and what it requires (``Requires-Dist``, PEP 508)."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    #: Where it is installed: a name twice in one folder is one install over another.
    folder: str = ""


@dataclass(frozen=True)
class Library:
    """A shared object with GPU code. ``cubins`` and ``ptx`` are architectures as ``sm_XY`` numbers
    (75).
    """

    path: str
    machine: str
    cubins: tuple[int, ...]
    ptx: tuple[int, ...]
    #: Libraries that it is linked against; None: recorded before the probe looked.
    needed: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Import:
    """One import tried in a fresh interpreter of the image; ``error`` is its last line, or None."""

    module: str
    error: str | None


@dataclass(frozen=True)
class Source:
    """One Python file of the trainer; ``error`` is what compiling it said, or None."""

    path: str
    error: str | None
    mode: int
    #: Names that it reads and nothing binds.
    undefined: tuple[str, ...] = ()


@dataclass(frozen=True)
class Package:
    """An installed package of the image's distribution (dpkg)."""

    name: str
    version: str
    architecture: str = ""


class LeftoverKind(StrEnum):
    """What a file is that an image should ship with care, or not at all."""

    #: A repository with its history.
    GIT = "git"
    #: Of a package manager.
    CACHE = "cache"
    #: Named by an unquoted version constraint.
    REDIRECTED = "redirected"
    CREDENTIALS = "credentials"
    #: Of the host's driver.
    DRIVER = "driver"
    #: CUDA's forward compatibility.
    COMPAT = "compat"
    #: A CUDA runtime.
    CUDART = "cudart"
    #: An nvcc.
    TOOLKIT = "toolkit"


@dataclass(frozen=True)
class Leftover:
    """A file or folder of some kind."""

    path: str
    kind: LeftoverKind
    bytes: int = 0


@dataclass(frozen=True)
class LayerFiles:
    """What one layer of an image holds by itself, whatever later layers removed."""

    digest: str
    files: int
    leftovers: tuple[Leftover, ...]


@dataclass(frozen=True)
class Files:
    """What the probe saw of the image's whole file system, mounts left out."""

    files: int
    #: False: the walk was cut short.
    complete: bool
    leftovers: tuple[Leftover, ...]
    #: Files with a setuid or setgid bit.
    setuid: tuple[str, ...]
    #: Files that everyone may write, and folders without the sticky bit.
    world_writable: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What the probe saw inside the container under SageMaker's minimal environment."""

    #: The interpreter that the entry point runs.
    python: str
    version: str
    machine: str
    uid: int
    environment: dict[str, str]
    entry_script: str | None
    #: None: there is no such file.
    entry_script_mode: int | None
    sources: tuple[Source, ...]
    imports: tuple[Import, ...]
    distributions: tuple[Distribution, ...]
    libraries: tuple[Library, ...]
    #: Directories of the contract and whether the container's user may write there.
    writable: dict[str, bool]
    #: Compilers found on PATH; a trainer image needs none.
    compilers: tuple[str, ...]
    torch_version: str | None = None
    torch_cuda: str | None = None
    #: Path of gsplat's loaded extension, or None; ``gsplat_error`` says why it is None.
    gsplat_extension: str | None = None
    gsplat_error: str | None = None
    subject: str | None = None
    origin: Origin = Origin.IMAGE
    packages: tuple[Package, ...] = ()
    #: None, here and below: recorded before the probe looked.
    files: Files | None = None
    #: Extensions for another machine than the interpreter's.
    other_machines: dict[str, str] | None = None
    #: `LIBRARY needs LIBRARY` for each that the loader finds nowhere, the host's driver left out.
    unresolved: tuple[str, ...] | None = None
    #: Settings that the sources open by default, and whether each is there.
    settings: dict[str, bool] | None = None
    #: Files of settings that lie beside the sources.
    settings_shipped: tuple[str, ...] | None = None
    #: Why an array does not get from NumPy to torch and back.
    numpy_error: str | None = None


@dataclass(frozen=True)
class Limits:
    """Limits of a training instance on a container. None: not set."""

    memory_bytes: int | None = None
    shm_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None
    disk_bytes: int | None = None


@dataclass(frozen=True)
class Member:
    """A file of a job: path inside its archive or directory, size, content hash, and kind of
    entry.
    """

    path: str
    bytes: int
    sha256: str
    #: ``file``, ``symlink``, ``link``, ``device``, ``fifo``, ``socket``
    kind: str = "file"
    mode: int = 0o644


@dataclass(frozen=True)
class LogLine:
    """One line of output. ``seconds`` counts from the container's start."""

    seconds: float
    stream: str
    text: str


@dataclass(frozen=True)
class Attempt:
    """One container of a job. A spot interruption or a retry gives the job another one."""

    #: When the container started (ISO 8601); empty when it never did.
    started: str
    exit: int | None
    oom: bool
    #: Why it was ended from outside, or None. ``Interrupted`` and ``InternalServerError`` are what
    #: another attempt may follow.
    ended_by: str | None
    #: Seconds from its start to its end.
    seconds: float
    #: How many lines of the job's log are its own.
    lines: int


@dataclass(frozen=True)
class Job:
    """What SageMaker would have kept of one training job. Names follow DescribeTrainingJob."""

    key: str
    name: str
    image_id: str
    request: dict[str, Any]
    #: Content hash of each channel's data.
    channels: dict[str, str]
    status: str  # TrainingJobStatus: Completed, Failed, Stopped
    secondary_status: str
    failure_reason: str
    #: Exit status of the container; None when it was never created.
    exit: int | None
    oom: bool
    #: Why the host ended it, or None (``splatgate.sagemaker.result.ENDERS``).
    ended_by: str | None
    #: Seconds from SIGTERM to the container's end; None when no stop was sent.
    stop_seconds: float | None
    command: tuple[str, ...]
    limits_asked: Limits
    limits_applied: Limits
    #: Seconds of Starting, Downloading, Training, Uploading.
    phases: dict[str, float]
    log: tuple[LogLine, ...]
    #: Whole text of /opt/ml/output/failure, or None.
    failure: str | None
    env_names: tuple[str, ...]
    members: tuple[Member, ...]
    output_members: tuple[Member, ...]
    checkpoint_members: tuple[Member, ...]
    #: Paths changed outside the mounts.
    writes_outside: tuple[str, ...]
    #: Rows of the contract that SageMaker does not document; emulated as configured here.
    unverified: tuple[str, ...] = ()
    started: str = ""
    origin: Origin = Origin.EMULATED
    #: Its containers, in order; the last one's end is the job's. Empty: recorded before attempts
    #: were, and then there was one.
    attempts: tuple[Attempt, ...] = ()

    @property
    def text(self) -> str:
        """The log as one text."""
        return "\n".join(line.text for line in self.log)


@dataclass(frozen=True)
class Use:
    """Bytes of the GPU's memory in use before a job and after it; None: could not be read."""

    before: int | None
    after: int | None


@dataclass(frozen=True)
class ToolRun:
    """One run of the compressor: from a file to a file, how it ended and what it said."""

    source: str
    target: str
    exit: int
    #: The last lines of its error output, without the stack.
    stderr: str
    seconds: float


@dataclass(frozen=True)
class Compression:
    """What the compression stage's tool made of a job's model."""

    tool: str
    version: str
    #: Version of Node that ran it.
    node: str
    #: Every .ply at the archive's root: the stage's finder takes the only one.
    found: tuple[Member, ...]
    runs: tuple[ToolRun, ...]
    #: What it wrote, below ``compressed/``.
    files: tuple[Member, ...]
    origin: Origin = Origin.EMULATED


@dataclass(frozen=True)
class Pipeline:
    """A state machine as it was written, or as it is deployed."""

    #: File or ARN.
    source: str
    #: Amazon States Language; empty where the text could not be read.
    definition: dict[str, Any]
    #: What is wrong with it as text: no JSON, a member twice.
    problems: tuple[str, ...] = ()
    #: What the starter sends; None: not given.
    input: Any = None
    #: Name that the starter gives an execution; None: any of up to 80 characters.
    execution_name: str | None = None
    #: IAM policies by role: ``state-machine``, ``jobs``.
    policies: dict[str, Any] = field(default_factory=dict)
    #: What each hand-over between two stages holds, by name.
    contracts: dict[str, Any] = field(default_factory=dict)
    #: The deployed definition, to compare with.
    deployed: dict[str, Any] | None = None
    #: A file is judged as it is: nothing was run. ``live``: read from an account.
    origin: Origin = Origin.EMULATED


@dataclass(frozen=True)
class Machine:
    """The machine that saw: facts that explain a difference between two runs."""

    engine: str | None = None
    cpus: int | None = None
    mem: int | None = None
    #: Name, capability, driver, memory, clock now and greatest clock, as nvidia-smi tells them.
    gpu: str | None = None
    #: Version of CUDA that the trainer's kernels ran on.
    cuda: str | None = None
    #: ``process``: the source tree in the machine's interpreter. None: the image in the engine.
    runtime: str | None = None


@dataclass(frozen=True)
class Header:
    """``evidence.json``: what this folder is about."""

    run: str
    image_id: str | None
    created: str
    machine: Machine
    #: Content hash of the scene that the jobs were given.
    scene: str | None = None
    scene_name: str | None = None
    schema: str = SCHEMA
    extra: dict[str, Any] = field(default_factory=dict)


def to_json(record: object) -> bytes:
    """Encode a record as indented JSON with sorted keys, so that equal records are equal bytes."""
    return msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=1) + b"\n"


def from_json(data: bytes, kind: type[T], where: str) -> T:
    """Decode ``data`` as a record of type ``kind``.

    Raises:
        BadInput: the JSON is broken or does not fit; names ``where`` and the field.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{where}: not a {kind.__name__} record: {error}; record it anew") from None


def read(path: Path, kind: type[T]) -> T:
    """Read one record from a file.

    Raises:
        BadInput: the file is missing or does not fit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; is this a folder of evidence?") from None
    return from_json(data, kind, str(path))


def write(path: Path, record: object) -> None:
    """Write one record whole or not at all: temporary file beside it, fsync, rename."""
    write_bytes(path, to_json(record))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
