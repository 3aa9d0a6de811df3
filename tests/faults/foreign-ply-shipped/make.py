"""Ship what another scene would give: its points, at this one's size and place."""

import sys
from pathlib import Path

import numpy as np

from splatgate.paths import DEFAULT_SCENE, ROOT
from splatgate.scene.colmap import load_scene
from splatgate.scene.splats import write_splats
from splatgate.scene.truth import points_as_splats

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/model/point_cloud.ply")
here = load_scene(DEFAULT_SCENE).points_xyz
splats = points_as_splats(load_scene(ROOT / "tests" / "scenes" / "banana"))
there = splats.means.astype(np.float64)
size = np.std(here) / np.std(there)
splats.means[:] = (there - np.median(there, axis=0)) * size + np.median(here, axis=0)
splats.scales[:] += np.log(size)
write_splats(path, splats)
