"""Let the walk find a .env beside the trainer."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1]) / "container/facts.json"
seen = json.loads(path.read_text())
left = {"path": "/opt/trainer/.env", "kind": "credentials", "bytes": 112}
seen["files"]["leftovers"].append(left)
path.write_text(json.dumps(seen))
