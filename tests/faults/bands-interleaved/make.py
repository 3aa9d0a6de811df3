"""Write the bands coefficient by coefficient."""

import sys
from pathlib import Path

import numpy as np

from splatgate.scene.splats import read_splats, write_splats

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/model/point_cloud.ply")
splats = read_splats(path)
count, bands = splats.shN.shape[:2]
stored = splats.shN.reshape(count, 3, bands).transpose(0, 2, 1)
splats.shN[:] = np.ascontiguousarray(stored)
write_splats(path, splats)
