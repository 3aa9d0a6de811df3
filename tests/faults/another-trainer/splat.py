"""A small trainer: ITERATIONS from the environment, COLMAP's text, /opt/ml/model/splat.ply."""

import os
import signal
import sys
from pathlib import Path

DATA, OUT = Path("/opt/ml/input/data/training"), Path("/opt/ml")
C0 = 0.28209479177387814
stopping = []
signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fail(why):
    (OUT / "output").mkdir(parents=True, exist_ok=True)
    (OUT / "output" / "failure").write_text(why)
    sys.exit(f"splat: {why}")


def rows(name):
    path = DATA / "sparse" / "0" / name
    if not path.is_file():
        fail(f"{path} is missing: give the COLMAP model as text")
    return [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]


def scene(torch, np, image_module):
    cameras = {row[0]: row for row in rows("cameras.txt") if row}
    points = [row for row in rows("points3D.txt") if row]
    views = []
    for row in rows("images.txt")[::2]:
        w, x, y, z = (float(v) for v in row[1:5])
        pose = np.eye(4)
        pose[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        pose[:3, 3] = [float(v) for v in row[5:8]]
        camera = [float(v) for v in cameras[row[8]][4:]]
        fx, fy, cx, cy = camera if len(camera) == 4 else (camera[0], *camera)
        k = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
        photo = np.asarray(image_module.open(DATA / "images" / " ".join(row[9:])).convert("RGB"))
        views.append([torch.tensor(v, dtype=torch.float32) for v in (pose, k, photo / 255)])
    xyz = torch.tensor([[float(v) for v in p[1:4]] for p in points])
    rgb = torch.tensor([[float(v) / 255 for v in p[4:7]] for p in points])
    return views, xyz, rgb


def main():
    say("splat: starting")
    import numpy as np
    import torch
    from PIL import Image

    if not torch.cuda.is_available():
        fail("CUDA is not available: this trainer needs a GPU instance")
    from gsplat import rasterization

    iterations = int(os.environ.get("ITERATIONS", "3000"))
    views, xyz, rgb = scene(torch, np, Image)
    near = torch.cdist(xyz, xyz).topk(4, largest=False).values[:, 1:].mean(1).clamp_min(1e-6)
    values = {
        "means": xyz,
        "colours": (rgb - 0.5) / C0,
        "opacities": torch.full((len(xyz),), -1.0),
        "scales": near.log()[:, None].repeat(1, 3),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(len(xyz), 1),
    }
    p = {name: value.cuda().requires_grad_() for name, value in values.items()}
    rates = {"means": 2e-4, "colours": 2e-3, "opacities": 5e-2, "scales": 5e-3, "quats": 1e-3}
    adam = torch.optim.Adam([{"params": [p[n]], "lr": rate} for n, rate in rates.items()])
    for step in range(1, iterations + 1):
        pose, k, photo = (v.cuda() for v in views[step % len(views)])
        image, _, _ = rasterization(
            p["means"], p["quats"], p["scales"].exp(), p["opacities"].sigmoid(),
            0.5 + C0 * p["colours"], pose[None], k[None], photo.shape[1], photo.shape[0],
        )  # fmt: skip
        loss = (image[0] - photo).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % 20 == 0:
            say(f"iteration {step}/{iterations} loss {loss.item():.5f}")
        if stopping:
            break
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    p["opacities"] = p["opacities"][:, None]
    table = torch.cat(list(p.values()), 1).detach().cpu().numpy().astype("<f4")
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(table)}\n"
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    half = OUT / "model" / ".splat"
    half.write_bytes(header.encode() + table.tobytes())
    half.rename(OUT / "model" / "splat.ply")


main()
