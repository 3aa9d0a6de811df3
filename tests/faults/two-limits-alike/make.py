"""Give the trainer the time that the service gives."""

import json
import sys
from pathlib import Path

from splatgate.sagemaker.request import smoke_request

request = dict(smoke_request().raw)
request["HyperParameters"] = {"max_minutes": "60"}
(Path(sys.argv[1]) / "request.json").write_text(json.dumps(request))
