"""Put every camera where the first one stands."""

import sys
from pathlib import Path

import numpy as np

from splatgate.sagemaker.variants import as_text
from splatgate.scene.colmap import load_scene

scene = Path(sys.argv[1])
views = {view.name: view for view in load_scene(scene).views}
centre = next(iter(views.values())).centre
path = as_text(scene) / "images.txt"
lines = path.read_text().splitlines()
for number in range(0, len(lines), 2):
    words = lines[number].split(maxsplit=9)
    words[5:8] = map(str, np.ravel(-views[words[9]].R @ centre))
    lines[number] = " ".join(words)
path.write_text("".join(f"{line}\n" for line in lines))
