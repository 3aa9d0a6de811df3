"""Put a pointer to large file storage in place of points3D.bin."""

import sys
from pathlib import Path

path = Path(sys.argv[1]) / "sparse" / "0" / "points3D.bin"
data = path.read_bytes()
path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 215617\n")
