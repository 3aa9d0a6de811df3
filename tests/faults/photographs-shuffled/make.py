"""Give every photograph the name of the next."""

import sys
from pathlib import Path

photographs = sorted((Path(sys.argv[1]) / "images").iterdir())
content = [path.read_bytes() for path in photographs]
for path, other in zip(photographs, content[1:] + content[:1], strict=True):
    path.write_bytes(other)
