"""Leave rigs.bin empty."""

import sys
from pathlib import Path

path = Path(sys.argv[1]) / "sparse" / "0" / "rigs.bin"
data = path.read_bytes()
path.write_bytes(data[:0])
