"""Let the history of a layer show the build argument that it was run with."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1]) / "image.json"
seen = json.loads(path.read_text())
token = "hf_" + "x" * 34
seen["layers"][2]["created_by"] = f"RUN |1 HF_TOKEN={token} /bin/sh -c pip install torch"
path.write_text(json.dumps(seen))
