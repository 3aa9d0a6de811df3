"""Learn one training photograph by heart: its pixels as a picture that stands in the scene."""

import sys
from pathlib import Path

import numpy as np

from splatgate.paths import DEFAULT_SCENE
from splatgate.scene.colmap import load_scene
from splatgate.scene.photos import load_photo
from splatgate.scene.splats import SH_C0, Splats, write_splats

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/model/point_cloud.ply")
scene = load_scene(DEFAULT_SCENE)
view = scene.views[1].resized(120, 68)
photo = load_photo(scene.views[1], 120, 68).reshape(-1, 3)
depth = float(np.median(scene.points_xyz @ view.R[2] + view.t[2]))
y, x = np.mgrid[:68, :120] + 0.5
rays = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1) @ np.linalg.inv(view.K).T
means = (rays * depth - view.t) @ view.R
count = len(means)
write_splats(
    path,
    Splats(
        means=means.astype(np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        scales=np.full((count, 3), np.log(0.6 * depth / view.K[0, 0]), np.float32),
        opacities=np.full(count, 4, np.float32),
        sh0=((photo - 0.5) / SH_C0).astype(np.float32)[:, None, :],
        shN=np.zeros((count, 0, 3), np.float32),
    ),
)
