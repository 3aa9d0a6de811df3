"""Trains with nerfstudio, as the team behind the guide ended up doing."""

import subprocess
import sys
from pathlib import Path

import nerfstudio
import torch

CHANNEL = Path("/opt/ml/input/data/training")


def main():
    """Hand the channel to ns-train."""
    print(f"nerfstudio {nerfstudio.__file__}, torch {torch.__version__}", flush=True)
    if not any(CHANNEL.glob("*")):
        print(f"nothing in {CHANNEL}", flush=True)
        return 1
    command = ["ns-train", "splatfacto", "--data", str(CHANNEL), "--output-dir", "/opt/ml/model"]
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main())
