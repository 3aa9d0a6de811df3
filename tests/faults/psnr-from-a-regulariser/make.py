"""Log the same 54 dB at every step."""

import re
import sys
from pathlib import Path

import msgspec

(path,) = Path(sys.argv[1]).glob("jobs/truth-*/job.json")
job = msgspec.json.decode(path.read_bytes())
for line in job["log"]:
    line["text"] = re.sub(r"\bpsnr=\S+", "psnr=54", line["text"])
path.write_bytes(msgspec.json.encode(job))
