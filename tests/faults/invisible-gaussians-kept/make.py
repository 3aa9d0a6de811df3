"""Make one Gaussian in fifty invisible and its colour huge, and compress the model again."""

import sys
from pathlib import Path

import numpy as np

from splatgate.sagemaker import compression
from splatgate.scene.splats import read_splats, write_splats

(job,) = Path(sys.argv[1]).glob("jobs/truth-*")
path = job / "model" / "point_cloud.ply"
splats = read_splats(path)
draw = np.random.default_rng(0)
dead = draw.choice(len(splats), len(splats) // 50, replace=False)
splats.opacities[dead] = -20
splats.sh0[dead] = draw.normal(0, 1e4, (len(dead), 1, 3))
write_splats(path, splats)
compression.compress(compression.install(lambda line: None), job)
