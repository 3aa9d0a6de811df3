"""Runs a closed list of faults on the training host and keeps each job's record for the tests.

    python tests/evidence/failed/record.py [--image REF] [NAME …]

Needs an engine and the good image. What a job said is what `diagnose` must explain; no word of the
records is written by hand.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splatgate.container import engine, sweep
from splatgate.evidence import Limits
from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.sagemaker.host import TrainingHost
from splatgate.sagemaker.request import parse, smoke_request

HERE = Path(__file__).parent
FAULTS = ROOT / "tests" / "faults"
MIB = 1024 * 1024
#: A short training on the CPU.
BRIEF = {"device": "cpu", "max_iterations": "20", "max_image_size": "64", "log_every": "5"}


def _trainer(code: str) -> str:
    """Dockerfile lines that put another trainer in place of the good one."""
    lines = "\\n".join(code.strip().splitlines()).replace("'", "'\\''")
    return (
        "USER root\n"
        f"RUN mkdir -p /srv && printf '%b\\n' '{lines}' > /srv/train.py\n"
        'ENTRYPOINT ["/opt/venv/bin/python", "/srv/train.py"]\n'
    )


@dataclass(frozen=True)
class Run:
    """One failure: of an image, a request, a scene or a limit."""

    #: A folder of tests/faults, or Dockerfile lines after FROM, or neither for the good image.
    fault: str = ""
    dockerfile: str = ""
    hyperparameters: Mapping[str, str] = field(default_factory=lambda: BRIEF)
    #: Members put over those of the request.
    request: Mapping[str, Any] = field(default_factory=dict)
    scene: Callable[[Path], None] | None = None
    memory: int | None = None


def _without(pattern: str) -> Callable[[Path], None]:
    def spoil(scene: Path) -> None:
        for path in list(scene.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


_DOWNLOAD = """
import torch
print("perceptual loss: loading weights", flush=True)
torch.hub.load_state_dict_from_url("https://download.pytorch.org/models/vgg16-397923af.pth")
"""
_WRITES_INPUT = """
import pathlib
images = pathlib.Path("/opt/ml/input/data/training/images")
print("making half-size photographs", flush=True)
(images.parent / "images_2").mkdir()
"""
_RASTERISES = """
import torch
from gsplat import rasterization
print("step 0", flush=True)
n = 64
view = torch.eye(4)[None]
rasterization(torch.rand(n, 3), torch.rand(n, 4), torch.rand(n, 3), torch.rand(n),
              torch.rand(n, 3), view, torch.eye(3)[None], 32, 32)
"""
_INSTALLS = """
import subprocess
subprocess.run(["/opt/venv/bin/python", "-m", "pip", "install", "lpips==0.1.4"], check=True)
"""
_SILENT = """
import sys
sys.exit(1)
"""
_KEYS = """
import json
config = json.load(open("/opt/ml/input/config/hyperparameters.json"))
print("config read", flush=True)
for step in range(3):
    print("step", step, flush=True)
every = config["checkpoint_interval"]
"""

RUNS = {
    "indentation-error": Run("indentation-error"),
    "cmd-for-entrypoint": Run("cmd-for-entrypoint"),
    "word-train-refused": Run("word-train-refused"),
    "script-ends-in-crlf": Run("script-ends-in-crlf"),
    "package-pruned": Run("package-pruned"),
    "unprivileged-user": Run("unprivileged-user"),
    "kernels-missing": Run(
        dockerfile=(FAULTS / "extension-deleted" / "Dockerfile").read_text().partition("${GOOD}")[2]
        + _trainer(_RASTERISES)
    ),
    "no-interpreter-line": Run(
        dockerfile="RUN mkdir -p /srv && echo 'exec python /opt/trainer/x.py' > /srv/train"
        ' && chmod 755 /srv/train\nENTRYPOINT ["/srv/train"]\n'
    ),
    "download-at-start": Run(dockerfile=_trainer(_DOWNLOAD)),
    "installs-at-start": Run(dockerfile=_trainer(_INSTALLS)),
    "writes-to-the-input": Run(dockerfile=_trainer(_WRITES_INPUT)),
    "says-nothing": Run(dockerfile=_trainer(_SILENT)),
    "key-read-late": Run(dockerfile=_trainer(_KEYS)),
    "no-gpu": Run(hyperparameters={**BRIEF, "device": "cuda"}),
    "hyperparameter-no-number": Run(hyperparameters={**BRIEF, "max_iterations": "many"}),
    "hyperparameter-unknown": Run(hyperparameters={**BRIEF, "max_iteration": "20"}),
    "channel-of-another-name": Run(
        request={"InputDataConfig": [{"ChannelName": "train"}]},
    ),
    "photographs-missing": Run(scene=_without("images")),
    "model-missing": Run(scene=_without("sparse/0/*")),
    "out-of-memory": Run(memory=220 * MIB),
    "over-the-time-limit": Run(
        hyperparameters={**BRIEF, "max_iterations": "30000"},
        request={"StoppingCondition": {"MaxRuntimeInSeconds": 20}},
    ),
}


def _asked(run: Run) -> dict[str, Any]:
    raw = dict(smoke_request(hyperparameters=dict(run.hyperparameters)).raw)
    for name, value in run.request.items():
        raw[name] = [{**raw[name][0], **value[0]}] if isinstance(value, list) else value
    return raw


@contextmanager
def _image(client: Any, good: str, run: Run) -> Iterator[str]:
    if not (run.fault or run.dockerfile):
        yield good
        return
    asked: dict[str, Any] = {"path": str(FAULTS / run.fault)}
    if run.dockerfile:
        text = f"ARG GOOD\nFROM ${{GOOD}}\n{run.dockerfile}".encode()
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
        context.seek(0)
        asked = {"fileobj": context, "custom_context": True}
    # A label of our own: an image of equal content would have another run's id.
    asked |= {"labels": sweep.labels("failed"), "buildargs": {"GOOD": good}}
    image, _ = client.images.build(rm=True, forcerm=True, **asked)
    try:
        yield str(image.id)
    finally:
        client.images.remove(image.id, force=True)


def main() -> None:
    """Run each fault and print how its job ended, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="splatgate/3dgs-trainer:dev")
    parser.add_argument("names", nargs="*", default=list(RUNS))
    options = parser.parse_args()
    client = engine.client()
    good = client.images.get(options.image).id
    for name in options.names:
        run = RUNS[name]
        label = sweep.labels(f"failed-{name}")
        with (
            tempfile.TemporaryDirectory(prefix="splatgate-failed-") as temporary,
            _image(client, good, run) as image,
        ):
            scene = shutil.copytree(DEFAULT_SCENE, Path(temporary) / "scene")
            if run.scene:
                run.scene(scene)
            request = parse(_asked(run))
            folder = Path(temporary) / "job"
            limits = Limits(memory_bytes=run.memory) if run.memory else None
            channels = {channel.name: scene for channel in request.channels}
            job = TrainingHost(client, labels=label, say=lambda line: None).run(
                image, request, channels, folder, key=name, deadline=300, limits=limits
            )
            (HERE / name).mkdir(exist_ok=True)
            shutil.copy(folder / "job.json", HERE / name / "job.json")
        told = {"job": name, "status": job.status, "failure": job.failure_reason}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
