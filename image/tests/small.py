"""A scene small enough for a unit test, written by pycolmap, and jobs on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from PIL import Image
from trainer import channel, main, points
from trainer.photos import Photo, index_photos, load_photos
from trainer.scene import read_scene

VIEWS, SIZE = 6, (64, 48)


def make_scene(
    root: Path,
    camera_model: str = "PINHOLE",
    text: bool = False,
    parameters: list[float] | None = None,
) -> Path:
    """A textured plane seen by six cameras in a row, written by pycolmap; returns ``root``."""
    draw = np.random.default_rng(0)
    rec = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, camera_model, 50.0, *SIZE)
    if parameters:
        camera.params = parameters
    rec.add_camera_with_trivial_rig(camera)
    points = np.c_[draw.uniform(-2, 2, (300, 2)), draw.uniform(3.9, 4.1, 300)]
    colors = (127 + 120 * np.sin(points * 3)).clip(0, 255).astype(np.uint8)
    seen: dict[int, list[tuple[int, int]]] = {k: [] for k in range(300)}
    (root / "images").mkdir(parents=True, exist_ok=True)
    for i in range(1, VIEWS + 1):
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), [-0.1 * i, 0.0, 0.0])
        local = points + np.array([-0.1 * i, 0, 0])
        pixels = np.stack([camera.img_from_cam(p) for p in local])
        inside = [k for k, p in enumerate(pixels) if (p >= 0).all() and (p < SIZE).all()]
        image = pycolmap.Image(
            name=f"sub dir/v{i}.png",
            camera_id=1,
            image_id=i,
            points2D=[pycolmap.Point2D(pixels[k]) for k in inside],
        )
        rec.add_image_with_trivial_frame(image, pose)
        for place, k in enumerate(inside):
            seen[k].append((i, place))
        canvas = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        for k in inside:
            x, y = pixels[k].astype(int)
            canvas[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = colors[k]
        path = root / "images" / image.name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(canvas).save(path)
    for k, track in seen.items():
        if len(track) > 1:
            rec.add_point3D(
                points[k],
                pycolmap.Track([pycolmap.TrackElement(i, p) for i, p in track]),
                colors[k],
            )
    folder = root / "sparse/0"
    folder.mkdir(parents=True)
    rec.write_text(str(folder)) if text else rec.write_binary(str(folder))
    return root


def make_job(base: Path, **parameters: object) -> Path:
    """A job's base folder with the small scene in its channel."""
    make_scene(base / "input/data/training")
    return configure(base, **parameters)


def configure(base: Path, **parameters: object) -> Path:
    """Write hyperparameters that suit the small scene."""
    values = {
        "device": "cpu",
        "max_iterations": 12,
        "log_every": 4,
        "eval_every": 6,
        "checkpoint_every": 5,
        "refine_start": 2,
        "refine_every": 3,
        "sh_every": 2,
        "init_scale": 1,
        "hold_out": 3,
        **parameters,
    }
    path = base / "input/config/hyperparameters.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({n: str(v) for n, v in values.items()}))
    return base


def run(base: Path, **environment: str) -> int:
    """Run one job in this process."""
    try:
        return main.main(["train"], {"SAGEMAKER_BASE_DIR": str(base), **environment})
    finally:
        torch.set_flush_denormal(False)  # a job's setting, which hypothesis cannot live with


def run_to(base: Path, point: str) -> int:
    """Run one job in this process, as far as ``point`` (see ``points.VARIABLE``)."""
    return run(base, **{points.VARIABLE: point})


def metrics(base: Path) -> dict[str, Any]:
    """The job's ``metrics.json``."""
    found: dict[str, Any] = json.loads((base / "model/metrics.json").read_text())
    return found


def load(root: Path, max_size: int = 1600) -> list[Photo]:
    """The photographs of a scene in a channel."""
    with channel.open_channel(root) as layout:
        scene = read_scene(layout)
        return load_photos(scene, index_photos(scene), max_size, lambda: None)
