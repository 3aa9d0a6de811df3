"""Let nvidia-smi have told of an old driver."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1]) / "evidence.json"
header = json.loads(path.read_text())
name, capability, _, *rest = header["machine"]["gpu"].split(", ")
header["machine"]["gpu"] = ", ".join([name, capability, "470.57.02", *rest])
path.write_text(json.dumps(header))
