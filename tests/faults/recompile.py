"""What faults of the trainer's sources share: one edit that must fit, and a recompilation."""

import subprocess
import sys
from pathlib import Path


def edit(path: Path, old: str, new: str) -> None:
    """Replace ``old``, which must be there once, by ``new``."""
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{path}: {text.count(old)} times {old!r}")
    path.write_text(text.replace(old, new))


def replace(source: Path, name: str, old: str, new: str) -> None:
    """Edit one of the kernels' files and compile them for this machine's GPU."""
    kernels = source / "kernels"
    edit(kernels / name, old, new)
    subprocess.run([sys.executable, str(kernels / "build.py")], check=True)
