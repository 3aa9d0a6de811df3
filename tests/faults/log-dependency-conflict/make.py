"""Let pip say in the build's log that two packages do not fit."""

import hashlib
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
log = folder / "build.log"
said = (
    "#99 8.871 ERROR: pip's dependency resolver does not currently take into account all the"
    " packages that are installed. This behaviour is the source of the following"
    " dependency conflicts.\n"
    "#99 8.871 torchvision 0.15.1 requires torch==2.0.0, but you have torch 2.10.0 which is"
    " incompatible.\n"
    "#99 9.204 Successfully installed torch-2.10.0\n"
)
log.write_text(log.read_text() + said)
record = json.loads((folder / "build.json").read_text())
record["log_sha256"] = hashlib.sha256(log.read_bytes()).hexdigest()
(folder / "build.json").write_text(json.dumps(record))
