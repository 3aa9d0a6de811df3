"""Cut frames.bin short."""

import sys
from pathlib import Path

path = Path(sys.argv[1]) / "sparse" / "0" / "frames.bin"
data = path.read_bytes()
path.write_bytes(data[: len(data) // 2])
