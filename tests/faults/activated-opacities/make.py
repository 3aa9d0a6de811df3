"""Put every opacity through the sigmoid before it is written."""

import sys
from pathlib import Path

import numpy as np

from splatgate.scene.splats import read_splats, write_splats

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/model/point_cloud.ply")
splats = read_splats(path)
splats.opacities[:] = 1 / (1 + np.exp(-splats.opacities))
write_splats(path, splats)
