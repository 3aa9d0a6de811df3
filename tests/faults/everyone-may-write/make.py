"""Let the walk find the trainer writable by everyone."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1]) / "container/facts.json"
seen = json.loads(path.read_text())
seen["files"]["world_writable"] += ["/opt/trainer", "/opt/trainer/train_gaussian_production.py"]
path.write_text(json.dumps(seen))
