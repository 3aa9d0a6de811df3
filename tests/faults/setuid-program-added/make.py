"""Let the walk find a setuid interpreter."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1]) / "container/facts.json"
seen = json.loads(path.read_text())
seen["files"]["setuid"].append("/opt/venv/bin/python-root")
path.write_text(json.dumps(seen))
