"""Add what a good build says too."""

import hashlib
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
log = folder / "build.log"
said = (
    "#99 1.204 debconf: delaying package configuration, since apt-utils is not installed\n"
    "#99 2.310 Setting up libgpg-error0:amd64 (1.51-4) ...\n"
    "#99 2.377 update-alternatives: warning: skip creation of /usr/share/man/man1/pager.1.gz"
    " because associated file /usr/share/man/man1/less.1.gz (of link group pager) doesn't exist\n"
    "#99 4.019 g++-13 -Wall -Werror -c ext.cpp\n"
    "#99 5.111 WARNING: Running pip as the 'root' user can result in broken permissions\n"
    "#99 5.120 0 errors, 0 warnings\n"
)
log.write_text(log.read_text() + said)
record = json.loads((folder / "build.json").read_text())
record["log_sha256"] = hashlib.sha256(log.read_bytes()).hexdigest()
(folder / "build.json").write_text(json.dumps(record))
