"""A scene small enough for a unit test, written by pycolmap, and jobs on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycolmap
import torch
from PIL import Image
from trainer import channel, config, evaluate, export, main, model, points, rasterise
from trainer.photos import Photo, index_photos, load_photos
from trainer.scene import Scene, read_scene
from trainer.stop import Stop

VIEWS, SIZE = 6, (64, 48)
#: Distance of the painted wall from the cameras, which stand in a row and look straight at it.
WALL = 4.0
#: A lens that bends its rays visibly, by the names of pycolmap's parameters; others are 0.003.
LENS = {"k": -0.1, "k0": -0.06, "k1": -0.06, "k2": 0.02, "omega": 0.5, "alpha": 0.6, "beta": 1.1}

Array = npt.NDArray[Any]


def paint(at: Array) -> Array:
    """The wall's colours (..., 3) from 0 to 255 at x and y (..., 2): no finer than a photograph."""
    x, y = at[..., 0], at[..., 1]
    waves = [np.sin(3 * x) + np.sin(2 * y), np.sin(2 * x + 3 * y), np.sin(4 * x - y)]
    return 127 + np.stack([60 * waves[0], 110 * waves[1], 110 * waves[2]], -1)


def bent(number: int, model: str) -> pycolmap.Camera:
    """A camera of a model, with a lens that bends where the model can say so."""
    camera = pycolmap.Camera.create_from_model_name(number, model, 50.0, *SIZE)
    names, values = camera.params_info.split(", "), camera.params
    for place in camera.extra_params_idxs():
        values[place] = LENS.get(names[place], 0.003)
    camera.params = values
    return camera


def picture(camera: pycolmap.Camera, translation: Array) -> Array:
    """What a camera sees of the wall, (height, width, 3) uint8, by its own model's rays."""
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = camera.cam_from_img(np.c_[x.ravel(), y.ravel()]) * WALL - translation[:2]
    return paint(rays).reshape(camera.height, camera.width, 3).clip(0, 255).astype(np.uint8)


def truth(photo: Photo) -> Array:
    """What the pinhole camera of a loaded photograph would have seen of the wall."""
    camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", 1.0, photo.width, photo.height)
    camera.params = [photo.fx, photo.fy, photo.cx, photo.cy]
    return picture(camera, shift(int(photo.name[-5])))


def shift(view: int) -> Array:
    """The translation of a view's pose, by its number."""
    return np.array([-0.1 * view, 0, 0])


def make_scene(root: Path, *models: str, text: bool = False) -> Path:
    """A painted wall seen by six cameras of these models in turn, by pycolmap; returns ``root``."""
    draw = np.random.default_rng(0)
    rec = pycolmap.Reconstruction()
    cameras = [bent(k, model) for k, model in enumerate(models or ["PINHOLE"], 1)]
    for camera in cameras:
        rec.add_camera_with_trivial_rig(camera)
    points = np.c_[draw.uniform(-2, 2, (300, 2)), np.full(300, WALL)]
    colors = paint(points[:, :2]).clip(0, 255).astype(np.uint8)
    seen: dict[int, list[tuple[int, int]]] = {k: [] for k in range(300)}
    for i in range(1, VIEWS + 1):
        camera, at = cameras[i % len(cameras)], shift(i)
        pixels = camera.img_from_cam(points + at)
        inside = [k for k, p in enumerate(pixels) if (p >= 0).all() and (p < SIZE).all()]
        image = pycolmap.Image(
            name=f"sub dir/v{i}.png",
            camera_id=camera.camera_id,
            image_id=i,
            points2D=[pycolmap.Point2D(pixels[k]) for k in inside],
        )
        rec.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pycolmap.Rotation3d(), at))
        for place, k in enumerate(inside):
            seen[k].append((i, place))
        path = root / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(camera, at)).save(path)
    for k, track in seen.items():
        if len(track) > 1:
            elements = [pycolmap.TrackElement(i, p) for i, p in track]
            rec.add_point3D(points[k], pycolmap.Track(elements), colors[k])
    folder = root / "sparse/0"
    folder.mkdir(parents=True)
    rec.write_text(str(folder)) if text else rec.write_binary(str(folder))
    return root


def make_job(base: Path, *models: str, **parameters: object) -> Path:
    """A job's base folder with the small scene in its channel."""
    make_scene(base / "input/data/training", *models)
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


def load(root: Path) -> list[Photo]:
    """The photographs of a scene in a channel."""
    return opened(root)[1]


def opened(root: Path) -> tuple[Scene, list[Photo]]:
    """A scene in a channel, and its photographs."""
    with channel.open_channel(root) as layout:
        scene = read_scene(layout)
        return scene, load_photos(scene, index_photos(scene), 1600, lambda: None)


def gained(base: Path) -> float:
    """PSNR against the true wall at the held-out cameras: the written model's less the points'."""
    scene, photos = opened(base / "input/data/training")
    settings = config.load(base, {})
    start = model.initial_values(scene.points, scene.colors, settings)
    cpu = torch.device("cpu")
    views = rasterise.split(settings, [rasterise.make_view(p, cpu, True) for p in photos]).held_out
    true = {photo.name: torch.from_numpy(truth(photo)) for photo in photos}
    asked = [replace(view, pixels=true[view.name]) for view in views]
    written = export.read_ply(base / "model/point_cloud.ply", scene.origin)
    before, after = (evaluate.evaluate(v, asked, Stop()) for v in (start, written))
    return evaluate.mean([a.psnr - b.psnr for a, b in zip(after, before, strict=True)])
