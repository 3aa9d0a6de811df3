"""Drop torch from the list."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1]) / "sbom.cdx.json"
seen = json.loads(path.read_text())
seen["components"] = [c for c in seen["components"] if c["name"] != "torch"]
path.write_text(json.dumps(seen))
