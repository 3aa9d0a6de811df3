"""Add the trailing slash of the channel's prefix, or take it away."""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1])
request = json.loads(path.read_text())
source = request["InputDataConfig"][0]["DataSource"]["S3DataSource"]
uri = source["S3Uri"]
source["S3Uri"] = uri.rstrip("/") if uri.endswith("/") else uri + "/"
path.write_text(json.dumps(request))
