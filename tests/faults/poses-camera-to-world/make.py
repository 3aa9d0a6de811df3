"""Write every pose as camera-to-world."""

import sys
from pathlib import Path

import numpy as np

from splatgate.sagemaker.variants import as_text
from splatgate.scene.colmap import load_scene

scene = Path(sys.argv[1])
poses = {v.name: (v.R.T, v.centre) for v in load_scene(scene).views}
path = as_text(scene) / "images.txt"
lines = path.read_text().splitlines()
for number in range(0, len(lines), 2):
    words = lines[number].split(maxsplit=9)
    rotation, centre = poses[words[9]]
    # The inverse of a rotation is its quaternion's conjugate.
    turned = [words[1], *(str(-float(w)) for w in words[2:5])]
    lines[number] = " ".join([words[0], *turned, *map(str, np.ravel(centre)), *words[8:]])
path.write_text("".join(f"{line}\n" for line in lines))
