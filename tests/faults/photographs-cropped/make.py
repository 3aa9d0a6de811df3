"""Crop every photograph to a square."""

import sys
from pathlib import Path

from PIL import Image

for path in (Path(sys.argv[1]) / "images").iterdir():
    with Image.open(path) as image:
        side = min(image.size)
        square = image.crop((0, 0, side, side))
    square.save(path)
