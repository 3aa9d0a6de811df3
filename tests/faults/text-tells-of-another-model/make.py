"""Leave an older model beside the new one, as text."""

import sys
from pathlib import Path

import pycolmap

folder = Path(sys.argv[1]) / "sparse" / "0"
model = pycolmap.Reconstruction(folder)
model.transform(pycolmap.Sim3d(2.0, pycolmap.Rotation3d(), [1.0, 0.0, 0.0]))
model.write_text(folder)
