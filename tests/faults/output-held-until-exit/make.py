"""Let every line of the smoke job come at its end."""

import sys
from pathlib import Path

import msgspec

(path,) = Path(sys.argv[1]).glob("jobs/smoke-*/job.json")
job = msgspec.json.decode(path.read_bytes())
for line in job["log"]:
    line["seconds"] = job["log"][-1]["seconds"]
path.write_bytes(msgspec.json.encode(job))
