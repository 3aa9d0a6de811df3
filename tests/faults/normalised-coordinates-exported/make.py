"""Move the model far away and make it small, as a normalisation that is not undone leaves it."""

import sys
from pathlib import Path

from splatgate.scene.splats import read_splats, write_splats

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/model/point_cloud.ply")
splats = read_splats(path)
splats.means[:] = splats.means / 50 + 500
write_splats(path, splats)
