#!/usr/bin/env python3
"""Trains on one scene and times it: one JSON object on standard output, progress on standard error.

    python image/bench.py --scene tests/scenes/banana --device cuda --runs 3 max_iterations=7000

Every run is a job of its own in a process of its own, as on SageMaker; ``fold`` in the result names
the photographs that were held out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().with_name("train_gaussian_production.py")
_EVALUATED = re.compile(r"^phase=evaluate step=(\d+) held_out_psnr=(\S+)")


def run(scene: Path, parameters: dict[str, str]) -> dict[str, Any]:
    """One job; returns its metrics with the wall-clock ``seconds`` and the quality ``curve``.

    Raises RuntimeError with the failure text when the job fails.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        base = Path(folder)
        (base / "input/config").mkdir(parents=True)
        (base / "input/data").mkdir()
        (base / "input/data/training").symlink_to(scene.resolve(), target_is_directory=True)
        (base / "input/config/hyperparameters.json").write_text(json.dumps(parameters))
        began, curve, busy = time.monotonic(), [], []
        with subprocess.Popen(
            [sys.executable, str(SCRIPT), "train"],
            env={**os.environ, "SAGEMAKER_BASE_DIR": folder},
            stdout=subprocess.PIPE,
            text=True,
        ) as job:
            assert job.stdout is not None
            for line in job.stdout:
                sys.stderr.write(line)
                if found := _EVALUATED.match(line):
                    step, psnr = int(found[1]), float(found[2])
                    curve.append({"step": step, "seconds": time.monotonic() - began, "psnr": psnr})
                if line.startswith("step=") and parameters["device"] == "cuda":
                    busy.append(gpu_busy())
        if job.returncode:
            raise RuntimeError((base / "output/failure").read_text())
        metrics = json.loads((base / "model/metrics.json").read_text())
    known = [b for b in busy if b is not None]
    busy_mean = sum(known) / len(known) if known else None
    return {**metrics, "wall": time.monotonic() - began, "curve": curve, "busy": busy_mean}


def gpu_busy() -> float | None:
    """Share of the last sampling period that the first GPU was busy; None without nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.check_output(query, text=True).split()[0]) / 100
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


def main() -> int:
    """Run the jobs asked for and print what they came to."""
    parser = argparse.ArgumentParser(description="Trains on one scene and times it.")
    parser.add_argument("--scene", type=Path, required=True, help="folder with sparse/ and images/")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--runs", type=int, default=1, help="runs, with seeds 0, 1, ...")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="hyperparameters")
    asked = parser.parse_args()
    parameters = dict(word.split("=", 1) for word in asked.parameters)
    try:
        done = [
            run(asked.scene, {"device": asked.device, **parameters, "seed": str(seed)})
            for seed in range(asked.runs)
        ]
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    train = [job["seconds"]["train"] for job in done]
    result = {
        "schema": "splatgate/bench/1",
        "device": done[0]["device_name"],
        "scene": asked.scene.name,
        "fold": done[0]["held_out"],
        "steps": done[0]["steps"],
        "seconds": [job["wall"] for job in done],
        "steps_per_s": [job["steps"] / s for job, s in zip(done, train, strict=True)],
        "gpu_busy": [job["busy"] for job in done],
        "gaussians": done[0]["gaussians"],
        "psnr": [job["psnr"] for job in done],
        "ssim": [job["ssim"] for job in done],
        "peak_bytes": max(job["peak_gpu_bytes"] or job["peak_rss_bytes"] for job in done),
        "curve": done[0]["curve"],
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
