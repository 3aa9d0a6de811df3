"""Let the restarted job log what the stopped one did, from its first step."""

import sys
from pathlib import Path

import msgspec

from splatgate.proof.edit import agreed

(stopped,), (path,) = (
    Path(sys.argv[1]).glob(f"jobs/{n}-????????/job.json") for n in ("stop", "resumed")
)
job = msgspec.json.decode(path.read_bytes())
job["log"] = msgspec.json.decode(stopped.read_bytes())["log"]
path.write_bytes(msgspec.json.encode(agreed(job)))
