"""Let a T4 have been seen, on which training is a hundred times slower."""

import json
import sys
from pathlib import Path

evidence = Path(sys.argv[1])
path = evidence / "evidence.json"
header = json.loads(path.read_text())
header["machine"]["gpu"] = ", ".join(["Tesla T4", *header["machine"]["gpu"].split(", ")[1:]])
path.write_text(json.dumps(header))
for path in evidence.glob("jobs/gpu-*/model/metrics.json"):
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps({**metrics, "device_name": "Tesla T4", "projected_seconds": 3500.0}))
