"""Every way a run can end other than well: one table of codes, one exception, one failure text."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

#: The run failed: the machine, the software or the optimisation is at fault.
EXIT_FAILED = 1
#: The request or the data is at fault: the same request will fail again. (2 is argparse's own.)
EXIT_REFUSED = 3

#: SageMaker returns the first 1,024 characters of the failure file as FailureReason; whether its
#: own prefix counts is not published, hence the margin.
FAILURE_BYTES = 900


@dataclass(frozen=True)
class Kind:
    """One class of fault: exit code, what it means, what its reader should do."""

    exit: int
    meaning: str
    remedy: str


#: The stable codes. The first word of the failure file is always one of these.
KINDS: dict[str, Kind] = {
    "E_HYPERPARAMETER": Kind(
        EXIT_REFUSED,
        "a parameter is unknown, malformed, out of range or contradicts another",
        "correct the request; --help lists them",
    ),
    "E_NO_GPU": Kind(
        EXIT_REFUSED,
        "device=cuda and no GPU is visible",
        "use a GPU instance with NVIDIA_VISIBLE_DEVICES=all, or device=cpu",
    ),
    "E_CHANNEL_EMPTY": Kind(
        EXIT_REFUSED,
        "the input channel is missing or empty",
        "check the S3 prefix of channel 'training'; end it with /",
    ),
    "E_CHANNEL_ARCHIVE": Kind(
        EXIT_REFUSED,
        "the archive in the channel is damaged or unsafe",
        "send a plain zip or tar of sparse/ and images/",
    ),
    "E_SCENE_LAYOUT": Kind(
        EXIT_REFUSED,
        "sparse/ or images/ is not where it should be",
        "hand over sparse/0/{cameras,images,points3D}.{bin,txt} and images/",
    ),
    "E_SCENE_FORMAT": Kind(
        EXIT_REFUSED,
        "the COLMAP model cannot be read",
        "write the model again; check that the upload was complete",
    ),
    "E_SCENE_CAMERA": Kind(
        EXIT_REFUSED,
        "a camera or pose is unusable",
        "check intrinsics and poses; undistort the images in SfM",
    ),
    "E_SCENE_IMAGES": Kind(
        EXIT_REFUSED,
        "registered photographs are missing, unreadable or of another shape",
        "hand over the photographs that SfM saw",
    ),
    "E_SCENE_POINTS": Kind(
        EXIT_REFUSED,
        "points too few, too seldom seen, too near or too far to start from",
        "do what the first line says SfM must do",
    ),
    "E_INPUT": Kind(
        EXIT_REFUSED,
        "a file of the input channel cannot be read",
        "check the files' permissions and the channel's storage",
    ),
    "E_MEMORY": Kind(
        EXIT_REFUSED,
        "the scene and the parameters ask for more memory than there is",
        "lower max_image_size or max_gaussians as the first line says, or use a larger instance",
    ),
    "E_DRIVER": Kind(
        EXIT_FAILED,
        "the host's NVIDIA driver is older than the image needs",
        "use another instance family, or an image built for an older CUDA",
    ),
    "E_ARCH": Kind(
        EXIT_FAILED,
        "the image holds no machine code for this GPU",
        "use an instance type the image was built for, or build it with this GPU in CUDA_ARCHS",
    ),
    "E_CUDA": Kind(
        EXIT_FAILED,
        "CUDA or gsplat's compiled extension failed",
        "retry once; if it comes again, report it with the log",
    ),
    "E_OOM": Kind(
        EXIT_FAILED,
        "memory ran out while training, after Gaussians had been reduced once, or as they were",
        "lower max_gaussians or max_image_size, or use a larger instance",
    ),
    "E_NOT_FINITE": Kind(
        EXIT_FAILED,
        "the optimisation produced NaN or infinity",
        "lower the learning rates; look at the named photograph",
    ),
    "E_DISK": Kind(
        EXIT_FAILED,
        "the disk is full",
        "use an instance with a larger disk, or raise VolumeSizeInGB; lower max_gaussians",
    ),
    "E_OUTPUT": Kind(
        EXIT_FAILED,
        "an output folder cannot be written to",
        "check that /opt/ml/model and /opt/ml/output are writable by the image's user",
    ),
    "E_STOPPED": Kind(
        EXIT_FAILED,
        "stopped before the first step: there is no model to write",
        "start the job again with more time",
    ),
    "E_INTERNAL": Kind(EXIT_FAILED, "an error of the trainer itself", "report it with the log"),
}


class TrainerError(Exception):
    """A fault with a stable code; ``str()`` is its one-line cause, ``detail`` may follow it."""

    def __init__(self, code: str, cause: str, detail: str = "") -> None:
        super().__init__(" ".join(cause.split()))
        self.code = code
        self.detail = detail

    @property
    def kind(self) -> Kind:
        """The row of the table that this fault belongs to."""
        return KINDS[self.code]

    def text(self) -> str:
        """What goes into the failure file: cause first, one line, then detail and remedy."""
        lines = [f"{self.code}: {self}", self.detail, f"remedy: {self.kind.remedy}"]
        return clip("\n".join(line for line in lines if line), FAILURE_BYTES)


def clip(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` bytes of UTF-8, never cut inside a character."""
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + "..."


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EIO,
)


def classify(error: BaseException, base: Path = Path("/opt/ml")) -> TrainerError:
    """The fault that an arbitrary exception stands for; ``E_INTERNAL`` if nothing is known."""
    if isinstance(error, TrainerError):
        return error
    text = next(iter(f"{type(error).__name__}: {error}".splitlines()))
    lowered = str(error).lower()
    # By name: torch may not be importable here, and its classes moved between versions.
    names = {cls.__name__ for cls in type(error).__mro__}
    if (
        isinstance(error, MemoryError)
        or "OutOfMemoryError" in names
        or ("can't allocate memory" in lowered or "cuda out of memory" in lowered)
    ):
        return TrainerError("E_OOM", f"out of memory: {text}")
    if "no kernel image" in lowered:
        return TrainerError("E_ARCH", text)
    if "AcceleratorError" in names or "cuda error" in lowered:
        return TrainerError("E_CUDA", text)
    if isinstance(error, OSError) and error.errno:
        where = str(error.filename or "")
        cause = os.strerror(error.errno) + (f": {where}" if where else "")
        if error.errno in _FULL:
            return TrainerError("E_DISK", cause)
        if where.startswith(str(base / "input")):
            return TrainerError("E_INPUT", cause)
        if error.errno in _CLOSED:
            return TrainerError("E_OUTPUT", cause)
    return TrainerError("E_INTERNAL", text)


def write_failure(base: Path, text: str) -> str | None:
    """Write ``base/output/failure``; returns why it could not be written, or None."""
    try:
        (base / "output").mkdir(parents=True, exist_ok=True)
        (base / "output" / "failure").write_text(text, encoding="utf-8")
    except OSError as error:
        return str(error)
    return None
