"""Cut cameras.bin short."""

import sys
from pathlib import Path

path = Path(sys.argv[1]) / "sparse" / "0" / "cameras.bin"
data = path.read_bytes()
path.write_bytes(data[: len(data) // 2])
