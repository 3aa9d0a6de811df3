#!/usr/bin/env python3
"""Writes a room that was never built: many photographs from inside, few SfM points, real texture.

    python image/tests/room_scene.py FOLDER PHOTOGRAPH... [--photos 240] [--points 15000]

Walls and boxes wear the given photographs. Two samples a pixel and axis, noise as of a sensor.
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

WIDTH, HEIGHT, FOCAL = 960, 640, 700.0
#: Metres: the room, how wide a photograph is on a surface, and an SfM point's error.
ROOM, TEXTURE, ERROR = (7.0, 5.0, 3.0), 3.0, 0.004


def boxes(draw: np.random.Generator) -> Tensor:
    """Corners (N, 2, 3): the room first, then what stands on its floor along the walls."""
    found = [[(0.0, 0.0, 0.0), ROOM]]
    for _ in range(9):
        size = draw.uniform((0.5, 0.5, 0.4), (1.3, 1.3, 1.7))
        low = np.append(draw.uniform((0, 0), np.array(ROOM[:2]) - size[:2]), 0)
        side = draw.integers(4)
        low[side % 2] = 0 if side < 2 else ROOM[side % 2] - size[side % 2]
        found.append([tuple(low), tuple(low + size)])
    return torch.tensor(found)


def hit(eye: Tensor, rays: Tensor, solids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance along each ray, which box, and which of its axes is across the surface."""
    best = torch.full(rays.shape[:1], torch.inf, device=rays.device)
    which, axis = torch.zeros_like(best, dtype=torch.long), torch.zeros_like(best, dtype=torch.long)
    for k, (low, high) in enumerate(solids):
        near, far = (low - eye) / rays, (high - eye) / rays
        enter, leave = torch.minimum(near, far).max(1), torch.maximum(near, far).min(1)
        at = leave if k == 0 else enter  # the room is seen from inside
        met = (at.values > 0) & (at.values < best) & ((leave.values > enter.values) | (k == 0))
        best = torch.where(met, at.values, best)
        which, axis = torch.where(met, k, which), torch.where(met, at.indices, axis)
    return best, which, axis


def shade(at: Tensor, which: Tensor, axis: Tensor, textures: Tensor) -> Tensor:
    """Colour (N, 3) of surface points: a photograph, turned and mirrored without end."""
    u = torch.where(axis == 0, at[:, 1], at[:, 0])
    v = torch.where(axis == 2, at[:, 1], at[:, 2])
    number = (which * 3 + axis) % len(textures)
    height, width = textures.shape[1:3]
    places = []
    for x, size in ((u + 0.37 * which, width), (v, height)):
        fold = (x * width / TEXTURE).remainder(2 * size)
        places.append(torch.where(fold >= size, 2 * size - 1e-3 - fold, fold).long())
    light = torch.tensor([0.8, 0.95, 1.0], device=at.device)[axis]
    return textures[number, places[1], places[0]].float() * light[:, None]


def pose(draw: np.random.Generator, solids: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A camera's rotation (world to camera) and place: outside the boxes, looking about level."""
    while True:
        eye = draw.uniform((0.6, 0.6, 1.0), (ROOM[0] - 0.6, ROOM[1] - 0.6, 2.0))
        low, high = solids[1:].numpy().transpose(1, 0, 2)
        if not ((eye > low - 0.3) & (eye < high + 0.3)).all(1).any():
            break
    turn, tilt = draw.uniform(0, 2 * np.pi), draw.normal(0.1, 0.2)
    z = np.array([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), -np.sin(tilt)])
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z]), eye


def quaternion(r: np.ndarray) -> np.ndarray:
    """Of a rotation, w first, by the largest eigenvector."""
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
            [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z]) * (1 if w >= 0 else -1)


def write_scene(root: Path, photographs: list[Path], photos: int, points: int) -> None:
    """The photographs and a COLMAP model of them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = np.random.default_rng(0)
    noise = torch.Generator(device).manual_seed(0)
    corners = boxes(draw)
    solids = corners.to(device).float()
    pictures = [Image.open(p).convert("RGB").resize((1600, 1200)) for p in photographs]
    textures = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).to(device)
    (root / "images").mkdir(parents=True)
    (root / "sparse/0").mkdir(parents=True)
    x = (torch.arange(2 * WIDTH, device=device) + 0.5) / 2
    y = (torch.arange(2 * HEIGHT, device=device) + 0.5) / 2
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    local = torch.cat(
        [(grid - grid.new_tensor([WIDTH, HEIGHT]) / 2) / FOCAL, grid[..., :1] * 0 + 1], -1
    )
    local = local.reshape(-1, 3)
    poses, xyz, rgb = [], [], []
    for number in range(photos):
        turn, eye = pose(draw, corners)
        poses.append((turn, eye))
        rays = local @ torch.tensor(turn, device=device).float()
        start = torch.tensor(eye, device=device).float()
        far, which, axis = hit(start, rays, solids)
        at = start + far[:, None] * rays
        color = shade(at, which, axis, textures)
        image = color.view(HEIGHT, 2, WIDTH, 2, 3).mean((1, 3))
        image = image + 2 * torch.randn(image.shape, generator=noise, device=device)
        Image.fromarray(image.round().clamp(0, 255).byte().cpu().numpy()).save(
            root / f"images/{number:04}.jpg", quality=93
        )
        some = torch.from_numpy(draw.integers(0, len(at), -(-points // photos)))
        xyz.append(at.cpu()[some].double().numpy())
        rgb.append(color.cpu()[some].byte().numpy())
    where, colors = np.concatenate(xyz), np.concatenate(rgb)
    tracks: list[list[tuple[int, int]]] = [[] for _ in where]
    with (root / "sparse/0/images.bin").open("wb") as out:
        out.write(struct.pack("<Q", photos))
        for number, (turn, eye) in enumerate(poses, 1):
            camera = (where - eye) @ turn.T
            pixel = camera[:, :2] / camera[:, 2:] * FOCAL + (WIDTH / 2, HEIGHT / 2)
            start = torch.tensor(eye, device=device).float()
            rays = torch.tensor(where - eye, device=device).float()
            free = (hit(start, rays, solids)[0] > 0.995).cpu().numpy()
            inside = ((pixel > 0) & (pixel < (WIDTH, HEIGHT))).all(1) & (camera[:, 2] > 0.2) & free
            out.write(struct.pack("<i7di", number, *quaternion(turn), *(-turn @ eye), 1))
            out.write(f"{number - 1:04}.jpg".encode() + b"\0")
            seen = np.nonzero(inside)[0]
            out.write(struct.pack("<Q", len(seen)))
            for place, k in enumerate(seen):
                tracks[k].append((number, place))
                out.write(struct.pack("<ddq", *(pixel[k] + draw.normal(0, 0.4, 2)), k))
    kept = [k for k, track in enumerate(tracks) if len(track) > 2]
    with (root / "sparse/0/points3D.bin").open("wb") as out:
        out.write(struct.pack("<Q", len(kept)))
        for k in kept:
            place = where[k] + draw.normal(0, ERROR, 3)
            out.write(struct.pack("<Q3d3BdQ", k, *place, *colors[k], 0.5, len(tracks[k])))
            out.write(np.array(tracks[k], "<i4").tobytes())
    with (root / "sparse/0/cameras.bin").open("wb") as out:
        out.write(
            struct.pack("<QiiQQ4d", 1, 1, 1, WIDTH, HEIGHT, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes a room that was never built.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("photographs", type=Path, nargs="+")
    parser.add_argument("--photos", type=int, default=240)
    parser.add_argument("--points", type=int, default=15_000)
    asked = parser.parse_args()
    write_scene(asked.folder, asked.photographs, asked.photos, asked.points)
