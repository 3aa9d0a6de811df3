"""Write the scene's model as text, without a single comment."""

import sys
from pathlib import Path

import pycolmap

model = Path(sys.argv[1]) / "sparse" / "0"
pycolmap.Reconstruction(str(model)).write_text(str(model))
for path in model.glob("*.bin"):
    path.unlink()
for path in model.glob("*.txt"):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("#")))
