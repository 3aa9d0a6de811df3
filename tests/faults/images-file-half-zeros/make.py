"""Fill the second half of images.bin with zeros."""

import sys
from pathlib import Path

path = Path(sys.argv[1]) / "sparse" / "0" / "images.bin"
data = path.read_bytes()
path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
