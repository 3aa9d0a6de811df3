"""Leave the first half of the truth job's model in the model folder of the job on a full disk."""

import json
import sys
from pathlib import Path

evidence = Path(sys.argv[1])
(whole,) = evidence.glob("jobs/truth-*/model/*.ply")
(record,) = evidence.glob("jobs/full-disk-*/job.json")
half = record.parent / "model" / whole.name
half.parent.mkdir(exist_ok=True)
data = whole.read_bytes()
half.write_bytes(data[: len(data) // 2])
job = json.loads(record.read_text())
job["members"] = [{"path": whole.name, "bytes": 0, "sha256": ""}]
record.write_text(json.dumps(job))
