"""Evidence from inside a container: commands that were run there, and what the probe saw."""

from __future__ import annotations

from dataclasses import dataclass

from splatgate.evidence.header import Origin
from splatgate.evidence.image import Leftover


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
    """An installed package of the image's distribution. ``kind``: ``deb``, ``apk`` or ``rpm``."""

    name: str
    version: str
    architecture: str = ""
    kind: str = "deb"


@dataclass(frozen=True)
class Files:
    """What was seen of the image's whole file system, mounts left out."""

    files: int
    #: False: the walk was cut short.
    complete: bool
    leftovers: tuple[Leftover, ...]
    #: Files with a setuid or setgid bit.
    setuid: tuple[str, ...]
    #: Files that everyone may write, and folders without the sticky bit.
    world_writable: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What an image holds: files, packages, Python. From its layers, read outside of it; of older
    evidence, as its own Python tells it.
    """

    #: The interpreter that the entry point runs; "" where there is none.
    python: str
    #: From layers exact only where something there names it; else its minor version and 0.
    version: str
    machine: str
    entry_script: str | None
    #: None: there is no such file.
    entry_script_mode: int | None
    sources: tuple[Source, ...]
    distributions: tuple[Distribution, ...]
    libraries: tuple[Library, ...]
    #: Compilers found on PATH; a trainer image needs none.
    compilers: tuple[str, ...]
    torch_version: str | None = None
    torch_cuda: str | None = None
    #: Path of gsplat's extension, or None.
    gsplat_extension: str | None = None
    subject: str | None = None
    packages: tuple[Package, ...] = ()
    #: None, here and below: recorded before this was looked at.
    files: Files | None = None
    #: Extensions for another machine than the interpreter's.
    other_machines: dict[str, str] | None = None
    #: `LIBRARY needs LIBRARY` for each that the loader finds nowhere, the host's driver left out.
    unresolved: tuple[str, ...] | None = None
    #: Files of settings that lie beside the sources.
    settings_shipped: tuple[str, ...] | None = None
    #: What runs at every start of this Python before the program: lines of .pth, site files.
    startup: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Facts(Contents):
    """What the probe saw inside the container under SageMaker's minimal environment: what the image
    says of its contents, and what only a running container can say.
    """

    uid: int
    environment: dict[str, str]
    imports: tuple[Import, ...]
    #: Directories of the contract and whether the container's user may write there.
    writable: dict[str, bool]
    #: Why gsplat's extension does not load.
    gsplat_error: str | None = None
    origin: Origin = Origin.IMAGE
    #: Settings that the sources open by default, and whether each is there.
    settings: dict[str, bool] | None = None
    #: Why an array does not get from NumPy to torch and back.
    numpy_error: str | None = None
