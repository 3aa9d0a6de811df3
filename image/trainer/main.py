"""One training job from its request to its artefact."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import __version__, channel, config, errors, files, host, log
from trainer.errors import TrainerError
from trainer.stop import Stop

if TYPE_CHECKING:
    from trainer.photos import Photo
    from trainer.scene import Scene
    from trainer.train import Outcome

SCHEMA = "splatgate-trainer/metrics/1"


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one job; returns the exit code (see ``errors``). Never raises.

    ``argv`` without the program's name: SageMaker appends the word ``train``.
    """
    stop = Stop()
    stop.install()
    # OpenMP's threads otherwise spin while they wait, which on a shared host costs five times the
    # work; read when PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "--help" in argv or "-h" in argv:
        log_help()
        return 0
    base = Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    try:
        (base / "output" / "failure").unlink(missing_ok=True)
    except OSError as error:
        log.line(f"warning: cannot tidy {base / 'output'}: {error}")
    try:
        log.line(f"3DGS trainer {__version__} job={environment.get('TRAINING_JOB_NAME', '-')}")
        unknown = [word for word in argv if word != "train"]
        if unknown:
            raise TrainerError(
                "E_HYPERPARAMETER",
                f"unknown argument {unknown[0][:60]!r}: only "
                "the word train is accepted; parameters come as hyperparameters",
            )
        Job(base, environment, stop).run()
        return 0
    except BaseException as error:
        return fail(base, error)


def fail(base: Path, error: BaseException) -> int:
    """Tell the log and the failure file why the run ends; returns the exit code."""
    fault = errors.classify(error)
    if fault.code == "E_INTERNAL":
        sys.stdout.write("".join(traceback.format_exception(error)))
    log.line(f"failed {fault.code}: {fault}" + (f" ({fault.detail})" if fault.detail else ""))
    unwritten = errors.write_failure(base, fault.text())
    if unwritten:
        log.line(f"warning: no failure file: {unwritten}")
    return fault.kind.exit


def log_help() -> None:
    """Write usage, parameters and failure codes to standard output."""
    codes = "\n".join(
        f"  {code:<18} {kind.exit}  {kind.meaning}" for code, kind in errors.KINDS.items()
    )
    sys.stdout.write(
        "usage: train_gaussian_production.py [train]\n\nTrains a 3D Gaussian model from the COLMAP "
        "scene in /opt/ml/input/data/training\n(SAGEMAKER_BASE_DIR stands for /opt/ml).\n\n"
        f"{config.help_text()}\n\nFailure codes and exit codes:\n{codes}\n"
    )


class Job:
    """The phases of one job, with the time each took."""

    def __init__(self, base: Path, environment: Mapping[str, str], stop: Stop) -> None:
        self.base, self.environment, self.stop = base, environment, stop
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        """Configuration, machine, scene, training, export, evaluation; raises TrainerError."""
        settings = config.load(self.base, self.environment)
        log.event(phase="config", **settings.values())
        folder = self.base / "input" / "data" / "training"
        self.preflight(settings, folder)
        with self.phase("load"), channel.open_channel(folder) as layout:
            with self.stop.kept():
                from trainer.photos import load_photos
                from trainer.scene import read_scene
            scene = read_scene(layout)
            photos = load_photos(
                scene,
                settings.max_image_size,
                lambda: self.stop.refuse_if_asked("loading the scene"),
            )
        with self.phase("import"):
            import torch

            from trainer.rasterise import require_backend

            torch.set_num_threads(host.cpus())
            torch.set_flush_denormal(True)
            device = require_backend(settings.device)
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
            log.event(device=name, **host.versions())
        self.train(settings, scene, photos, device, name)

    def preflight(self, settings: config.Config, folder: Path) -> None:
        """Find out in milliseconds what would fail in minutes; the first fault leads."""
        faults: list[TrainerError] = []
        checks: list[Callable[[], None]] = [lambda: channel.require_channel(folder)]
        if settings.device == "cuda":
            checks.append(lambda: host.require_gpu(self.environment))
        for check in checks:
            try:
                check()
            except TrainerError as fault:
                faults.append(fault)
        if faults:
            first, *others = faults
            also = [f"also {fault.code}: {fault}" for fault in others]
            detail = "\n".join(filter(None, [first.detail, *also]))
            raise TrainerError(first.code, str(first), detail)

    def train(
        self,
        settings: config.Config,
        scene: Scene,
        photos: list[Photo],
        device: Any,
        device_name: str,
    ) -> None:
        """Train, then write the three files; ``metrics.json`` last, when all else is there."""
        import torch

        from trainer import export
        from trainer.checkpoint import Checkpoints, fingerprint
        from trainer.evaluate import evaluate
        from trainer.rasterise import make_view, split
        from trainer.train import train

        size = sum(photo.pixels.nbytes for photo in photos)
        # Photographs take a quarter of the free GPU memory at most, else travel step by step.
        resident = device.type == "cpu" or size < torch.cuda.mem_get_info(device)[0] // 4
        views = split(settings, [make_view(photo, device, resident) for photo in photos])
        checkpoints = Checkpoints(
            self.checkpoint_folder(settings),
            settings.checkpoint_every,
            fingerprint(settings, scene.digest),
        )
        with self.phase("train"):
            outcome = train(settings, scene, views, checkpoints, self.stop, device, self.started)
        if not outcome.step:
            self.stop.refuse_if_asked("preparing")
        model = self.base / "model"
        with self.phase("export"):
            export.write_ply(model / "point_cloud.ply", outcome.splats.values())
            self.write_json(
                model / "training_config.json",
                {
                    "schema": "splatgate-trainer/config/1",
                    "parameters": settings.values(),
                    "sources": settings.sources,
                    "versions": host.versions(),
                    "trainer": __version__,
                    "job": self.environment.get("TRAINING_JOB_NAME"),
                },
            )
        with self.phase("evaluate"):
            written = export.read_ply(model / "point_cloud.ply")
            quality = evaluate(
                {n: v.to(device) for n, v in written.items()}, views.judged, self.stop
            )
        self.write_json(
            model / "metrics.json",
            {
                **self.summary(outcome, scene, quality, len(written["means"])),
                "device": settings.device,
                "device_name": device_name,
                "seed": settings.seed,
                "views_are": "held_out" if views.held_out else "training",
                "held_out": [v.name for v in views.held_out],
                "train_views": len(views.training),
                "peak_gpu_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
                "undistorted": any(photo.undistorted for photo in photos),
            },
        )
        log.line("done")

    def summary(
        self, outcome: Outcome, scene: Scene, quality: Sequence[Any], count: int
    ) -> dict[str, object]:
        """The part of ``metrics.json`` that says how it went; logs the final figures too."""
        from trainer.evaluate import mean

        psnr, ssim = mean([q.psnr for q in quality]), mean([q.ssim for q in quality])
        status = "stopped" if outcome.ended_by == "signal" else "completed"
        log.event(
            phase="result",
            status=status,
            step=outcome.step,
            held_out_psnr=psnr,
            held_out_ssim=ssim,
            gaussians=count,
            seconds=time.monotonic() - self.started,
        )
        return {
            "schema": SCHEMA,
            "status": status,
            "ended_by": outcome.ended_by,
            "steps": outcome.step,
            "gaussians": count,
            "psnr": psnr,
            "ssim": ssim,
            "views": [q.as_json() for q in quality],
            "loss_first": outcome.notes.get("loss_first"),
            "loss_last": outcome.notes.get("loss_last"),
            "projected_seconds": outcome.notes.get("projected_seconds"),
            "seconds": {**self.seconds, "total": time.monotonic() - self.started},
            "peak_rss_bytes": host.peak_rss(),
            "resample": "lanczos",
            "background": [0, 0, 0],
            "scene_digest": scene.digest,
            "initial_points": len(scene.points),
            "versions": host.versions(),
        }

    def checkpoint_folder(self, settings: config.Config) -> Path | None:
        """``checkpoints`` under the base if it exists or can be made; None, with a line, if not."""
        folder = self.base / "checkpoints"
        if not settings.checkpoint_every:
            return None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.line(f"warning: no checkpoints: {error}")
            return None
        return folder

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Log the start of a phase and keep the seconds it took."""
        log.event(phase=name, at=round(time.monotonic() - self.started, 2))
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 3)

    @staticmethod
    def write_json(path: Path, content: Mapping[str, object]) -> None:
        """Write ``content`` atomically; NaN is an error, JSON has none."""
        text = json.dumps(content, indent=1, allow_nan=False, default=dict)
        files.write_atomically(path, lambda stream: stream.write(text.encode()))


def cli() -> int:
    """``main`` with the process's own arguments and environment."""
    return main(sys.argv[1:], os.environ)
