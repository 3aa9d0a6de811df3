"""One training job from its request to its artefact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import __version__, channel, config, host, log
from trainer.errors import TrainerError, classify
from trainer.files import write_json
from trainer.points import reached
from trainer.stop import Stop

if TYPE_CHECKING:
    from trainer.evaluate import Quality
    from trainer.photos import Photo
    from trainer.rasterise import Views
    from trainer.scene import Scene
    from trainer.train import Outcome

SCHEMA = "splatgate-trainer/metrics/1"
#: What training noted that ``metrics.json`` tells; null where it did not come about.
_NOTED = ("loss_first", "loss_last", "projected_seconds", "resumed_from", "cap", "curve", "choice")


class Job:
    """The phases of one job, with the time each took."""

    def __init__(self, base: Path, environment: Mapping[str, str], stop: Stop) -> None:
        self.base, self.environment, self.stop = base, environment, stop
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.facts: dict[str, object] = {}

    def run(self) -> None:
        """Configuration, machine, scene, training, export, evaluation; raises TrainerError."""
        settings = config.load(self.base, self.environment)
        log.event(phase="config", **settings.values())
        folder = self.base / "input" / "data" / "training"
        self.preflight(settings, folder)
        with channel.open_channel(folder) as layout:
            with self.phase("load"):
                with self.stop.kept():
                    from trainer.photos import index_photos
                    from trainer.scene import read_scene
                scene = read_scene(layout)
                index = index_photos(scene)
                self.stop.refuse_if_asked("loading the scene")
            device = self.prepare(settings)
            settings = self.sized(settings, scene, device)
            with self.phase("photos"):
                photos, resident = self.load(settings, scene, index, device)
        self.train(settings, scene, photos, device, resident)

    def preflight(self, settings: config.Config, folder: Path) -> None:
        """Find out in milliseconds what would fail in minutes; the first fault leads."""
        checks: list[Callable[[], None]] = [
            lambda: channel.require_channel(folder),
            lambda: host.require_output(self.base),
        ]
        if settings.device == "cuda":
            checks.append(lambda: host.require_gpu(self.environment))
        faults: list[TrainerError] = []
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

    def prepare(self, settings: config.Config) -> Any:
        """PyTorch, and the device to train on, which has drawn one image."""
        with self.phase("import"):
            import torch

            from trainer.rasterise import require_backend

            device = require_backend(settings.device)
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
            log.event(device=name, **host.versions())
            self.facts.update(device=settings.device, device_name=name)
        return device

    def sized(self, settings: config.Config, scene: Scene, device: Any) -> config.Config:
        """The settings with the recipe decided, and told with what it came from."""
        import torch

        from trainer import budget

        stored = [(shot.camera.width, shot.camera.height) for shot in scene.shots]
        pixels = budget.photo_bytes(stored, settings.max_image_size)[0] // 3
        known = dict(photographs=len(stored), pixels=pixels, points=len(scene.points))
        gpu = device.type == "cuda"
        if gpu:
            known["most"] = budget.most_gaussians(torch.cuda.mem_get_info(device)[0])
        settings = settings.resolved(**known)
        names = ("recipe", "max_iterations", "max_gaussians", "growth")
        log.event(phase="plan", **{n: getattr(settings, n) for n in names}, **known)
        if gpu and (idle := torch.cuda.device_count() - 1):
            log.line(f"warning: one GPU is used, {idle} of this instance stay idle")
        return settings

    def load(
        self, settings: config.Config, scene: Scene, index: dict[str, Path], device: Any
    ) -> tuple[list[Photo], bool]:
        """Reckon memory, then decode; also whether the photographs fit on the device."""
        import torch

        from trainer import budget, choice, consistency
        from trainer.photos import decoders, load_photos

        most = choice.reachable(settings, len(scene.points))
        here = budget.host_budget(
            scene, settings, most, decoders(), host.resident(), host.memory_limit()
        )
        here.require(settings)
        self.facts["memory_needed_bytes"] = here.total
        resident = True
        if device.type == "cuda":
            there = budget.gpu_budget(scene, settings, most, torch.cuda.mem_get_info(device)[0])
            there.require(settings)
            resident = there.total + here.needs["photographs"] < 0.9 * there.have
            self.facts["gpu_memory_needed_bytes"] = there.total
        photos = load_photos(
            scene,
            index,
            settings.max_image_size,
            lambda: self.stop.refuse_if_asked("loading the scene"),
            settings.masks == "use",
        )
        photos = consistency.checked(scene, photos)
        log.event(phase="memory", resident=host.resident(), photos_on_device=resident)
        return photos, resident

    def train(
        self,
        settings: config.Config,
        scene: Scene,
        photos: list[Photo],
        device: Any,
        resident: bool,
    ) -> None:
        """Train, then write the model's files; ``metrics.json`` last, when all else is there."""
        from trainer import export
        from trainer.checkpoint import Checkpoints, fingerprint
        from trainer.choice import train
        from trainer.evaluate import evaluate
        from trainer.rasterise import make_view, split

        masks = [photo.mask for photo in photos if photo.mask is not None]
        self.facts["masked"] = sum(float((m == 0).mean()) for m in masks) / len(photos)
        self.facts["undistorted"] = any(photo.undistorted for photo in photos)
        views = split(settings, [make_view(photo, device, resident) for photo in photos])
        photos.clear()
        checkpoints = Checkpoints(
            self.checkpoint_folder(settings),
            settings.checkpoint_every,
            fingerprint(settings, scene.digest),
        )
        with self.phase("train"):
            outcome = train(settings, scene, views, checkpoints, self.stop, device, self.started)
        if not outcome.step:
            self.stop.refuse_if_asked("preparing")
            raise TrainerError(
                "E_STOPPED",
                f"max_minutes={settings.max_minutes:g} was over before the first step; no model "
                "was written",
            )
        model = self.base / "model"
        # Those of an attempt that was killed would speak of another model.
        (model / "metrics.json").unlink(missing_ok=True)
        with self.phase("export"):
            ply = model / "point_cloud.ply"
            export.write_ply(ply, outcome.values, scene.origin, scene.written)
            (model / "georeference.json").unlink(missing_ok=True)
            if scene.written.any():
                write_json(model / "georeference.json", export.georeference(scene))
            write_json(
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
            written = export.read_ply(model / "point_cloud.ply", scene.origin)
            count = len(written["means"])
            on_device = {n: v.to(device) for n, v in written.items()}
            renders = self.base / "output/data/renders" if views.held_out else None
            quality = evaluate(on_device, views.judged, self.stop, renders)
        write_json(
            model / "metrics.json", self.metrics(settings, scene, views, outcome, quality, count)
        )
        log.line("done")

    def metrics(
        self,
        settings: config.Config,
        scene: Scene,
        views: Views,
        outcome: Outcome,
        quality: list[Quality],
        count: int,
    ) -> dict[str, object]:
        """What ``metrics.json`` says; logs the final figures too."""
        import torch

        from trainer.evaluate import mean

        psnr, ssim = mean([q.psnr for q in quality]), mean([q.ssim for q in quality])
        gpu = torch.cuda.max_memory_allocated() if settings.device == "cuda" else 0
        result = {
            "schema": SCHEMA,
            "status": "stopped" if outcome.ended_by == "signal" else "completed",
            "ended_by": outcome.ended_by,
            "steps": outcome.step,
            "gaussians": count,
            "psnr": psnr,
            "ssim": ssim,
            "views_are": "held_out" if views.held_out else "training",
            "held_out": [v.name for v in views.held_out],
            "train_views": len(views.training),
            "views": [q.as_json() for q in quality],
            "seed": settings.seed,
            "seconds": {**self.seconds, "total": time.monotonic() - self.started},
            "peak_rss_bytes": host.peak_rss(),
            "peak_container_bytes": host.memory_peak(),
            "peak_gpu_bytes": gpu,
            **self.facts,
            "resample": "lanczos",
            "background": [0, 0, 0],
            "scene_digest": scene.digest,
            "initial_points": len(scene.points),
            "versions": host.versions(),
            **{name: outcome.notes.get(name) for name in _NOTED},
        }
        if outcome.ended_by == "plateau":
            result["best_step"] = outcome.notes["best_step"]
        log.event(
            phase="result",
            status=result["status"],
            step=outcome.step,
            held_out_psnr=psnr,
            held_out_ssim=ssim,
            gaussians=count,
            seconds=time.monotonic() - self.started,
            peak_rss=result["peak_rss_bytes"],
            peak_gpu=gpu,
        )
        return result

    def checkpoint_folder(self, settings: config.Config) -> Path | None:
        """``checkpoints`` under the base if it exists or can be made; None, with a line, if not."""
        folder = self.base / "checkpoints"
        if not settings.checkpoint_every:
            return None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.line(f"warning: no checkpoints: {classify(error, self.base)}")
            return None
        return folder

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Log the start of a phase and keep the seconds it took."""
        log.event(phase=name, at=round(time.monotonic() - self.started, 2))
        reached(f"phase.{name}")
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 3)
