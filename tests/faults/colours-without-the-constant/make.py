"""Export rgb - 0.5 as f_dc."""

import sys
from pathlib import Path

from splatgate.scene.splats import SH_C0, read_splats, write_splats

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/model/point_cloud.ply")
splats = read_splats(path)
splats.sh0[:] *= SH_C0
write_splats(path, splats)
