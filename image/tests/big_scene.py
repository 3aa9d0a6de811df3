#!/usr/bin/env python3
"""Writes a scene as large as a real capture: 300 photographs of 12 MP, all noise, 300,000 points.

    python image/tests/big_scene.py FOLDER [--photos 300] [--points 300000]

It takes 2 GB and a minute: only a few different photographs are encoded, and written many times.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

WIDTH, HEIGHT = 4000, 3000
#: Different photographs.
KINDS = 6


def write_scene(root: Path, photos: int, points: int) -> None:
    """Cameras in a grid look down at a bumpy plane of ``points`` points; as drones fly."""
    draw = np.random.default_rng(0)
    across = int(np.ceil(np.sqrt(photos)))
    xyz = np.c_[draw.uniform(0, across, (points, 2)), draw.normal(0, 0.05, points)]
    colors = draw.integers(0, 256, (points, 3)).astype(np.uint8)
    rec = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_PINHOLE", 3000.0, WIDTH, HEIGHT)
    rec.add_camera_with_trivial_rig(camera)
    pictures = [encode(draw) for _ in range(KINDS)]
    (root / "images").mkdir(parents=True)
    tracks: list[list[tuple[int, int]]] = [[] for _ in range(points)]
    down = np.diag([1.0, -1.0, -1.0])
    for number in range(1, photos + 1):
        eye = np.array([(number - 1) % across + 0.5, (number - 1) // across + 0.5, 2.0])
        local = (xyz - eye) @ down.T
        pixel = local[:, :2] / local[:, 2:] * 3000 + [WIDTH / 2, HEIGHT / 2]
        inside = np.nonzero(((pixel >= 0) & (pixel < [WIDTH, HEIGHT])).all(1))[0]
        name = f"DJI_{number:04}.JPG"
        image = pycolmap.Image(
            name=name,
            camera_id=1,
            image_id=number,
            points2D=[pycolmap.Point2D(pixel[k]) for k in inside],
        )
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(down), -down @ eye)
        rec.add_image_with_trivial_frame(image, pose)
        for place, k in enumerate(inside):
            tracks[k].append((number, place))
        (root / "images" / name).write_bytes(pictures[number % KINDS])
        if number % 50 == 0:
            sys.stderr.write(f"{number} of {photos} photographs\n")
    for k, track in enumerate(tracks):
        elements = [pycolmap.TrackElement(i, p) for i, p in track]
        rec.add_point3D(xyz[k], pycolmap.Track(elements), colors[k])
    folder = root / "sparse/0"
    folder.mkdir(parents=True)
    rec.write_binary(str(folder))


def encode(draw: np.random.Generator) -> bytes:
    """One photograph of noise, smooth enough to weigh about what a drone's does."""
    coarse = Image.fromarray(draw.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3)).astype(np.uint8))
    stream = io.BytesIO()
    coarse.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR).save(stream, "jpeg", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes a scene as large as a real capture.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--points", type=int, default=300_000)
    asked = parser.parse_args()
    write_scene(asked.folder, asked.photos, asked.points)
