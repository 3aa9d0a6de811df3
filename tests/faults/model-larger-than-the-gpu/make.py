"""Ask for more Gaussians than a T4 holds."""

import json
import sys
from pathlib import Path

from splatgate.sagemaker.request import smoke_request

request = dict(smoke_request().raw)
request["HyperParameters"] = {"max_gaussians": "20000000"}
(Path(sys.argv[1]) / "request.json").write_text(json.dumps(request))
