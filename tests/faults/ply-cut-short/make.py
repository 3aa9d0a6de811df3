"""Cut the .ply in half."""

import sys
from pathlib import Path

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/model/point_cloud.ply")
data = path.read_bytes()
path.write_bytes(data[: len(data) // 2])
