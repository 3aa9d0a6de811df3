"""Export the SfM points as they came."""

import sys
from pathlib import Path

from splatgate.paths import DEFAULT_SCENE
from splatgate.scene.colmap import load_scene
from splatgate.scene.splats import write_splats
from splatgate.scene.truth import points_as_splats

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/model/point_cloud.ply")
write_splats(path, points_as_splats(load_scene(DEFAULT_SCENE)))
