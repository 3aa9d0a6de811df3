"""Move the SfM points as a loss without photographs would: a little, and anywhere."""

import sys
from pathlib import Path

import numpy as np

from splatgate.paths import DEFAULT_SCENE
from splatgate.scene.colmap import load_scene
from splatgate.scene.splats import write_splats
from splatgate.scene.truth import points_as_splats

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/model/point_cloud.ply")
scene = load_scene(DEFAULT_SCENE)
splats = points_as_splats(scene)
draw = np.random.default_rng(0)
splats.means[:] += draw.normal(0, 0.02, splats.means.shape)
splats.sh0[:] += draw.normal(0, 0.3, splats.sh0.shape)
splats.opacities[:] = draw.normal(-1, 1, len(splats))
write_splats(path, splats)
