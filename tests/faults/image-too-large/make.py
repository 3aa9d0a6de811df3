"""Let the image be as large as one on a CUDA development base."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1]) / "image.json"
seen = json.loads(path.read_text())
seen["bytes"] = 19_600_000_000
path.write_text(json.dumps(seen))
