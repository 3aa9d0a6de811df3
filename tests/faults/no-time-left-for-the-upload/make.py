"""Leave five minutes and a half, and a model of a gigabyte to send."""

import json
import sys
from pathlib import Path

from splatgate.sagemaker.request import smoke_request

request = dict(smoke_request().raw)
request["HyperParameters"] = {"max_minutes": "54.5", "max_gaussians": "4000000"}
(Path(sys.argv[1]) / "request.json").write_text(json.dumps(request))
