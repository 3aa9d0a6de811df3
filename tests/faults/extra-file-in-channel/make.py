"""Put the SfM stage's own metadata beside the model and the photographs."""

import json
import sys
from pathlib import Path

scene = Path(sys.argv[1])
(scene / "sfm_metadata.json").write_text(json.dumps({"status": "completed", "points": 2579}))
(scene / "images" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
