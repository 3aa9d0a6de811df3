#!/usr/bin/env python3
"""Compiles the kernels to step.so beside the sources (or --out), for given compute capabilities.

    python image/kernels/build.py --archs "7.5 8.6"

Without --archs: for the GPU of this machine, as nvidia-smi names it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("project.cu", "raster.cu", "loss.cu", "update.cu")


def capabilities() -> str:
    """Compute capability of the first GPU here."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    return subprocess.check_output(query, text=True).split()[0]


def command(archs: str, out: Path, nvcc: str, options: list[str]) -> list[str]:
    """nvcc's command line: machine code for each of ``archs`` ("7.5 8.6"), and no PTX."""
    numbers = [arch.replace(".", "") for arch in archs.replace(";", " ").split()]
    return [
        *(nvcc, "-O3", "-std=c++17", "-shared", "-Xcompiler", "-fPIC,-fvisibility=hidden"),
        *("--prec-div=false", "--prec-sqrt=false", "--threads", "0"),
        *(f"-gencode=arch=compute_{n},code=sm_{n}" for n in numbers),
        *options,
        *(str(HERE / source) for source in SOURCES),
        *("-o", str(out)),
    ]


def main() -> int:
    """Compile; returns nvcc's exit status."""
    parser = argparse.ArgumentParser(description="Compiles the kernels.")
    parser.add_argument("--archs", default=None, help='compute capabilities, such as "7.5 8.6"')
    parser.add_argument("--out", type=Path, default=HERE / "step.so")
    parser.add_argument("--nvcc", default="nvcc")
    asked, options = parser.parse_known_args()
    try:
        archs = asked.archs or capabilities()
        return subprocess.run(
            command(archs, asked.out, asked.nvcc, options), check=False
        ).returncode
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"kernels: {error}; name the compiler with --nvcc, the GPU with --archs\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
