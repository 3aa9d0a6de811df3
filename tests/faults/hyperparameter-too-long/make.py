"""Send the whole configuration as one hyperparameter."""

import json
import sys
from pathlib import Path

from splatgate.sagemaker.request import smoke_request

request = dict(smoke_request().raw)
request["HyperParameters"] = {"config": "x" * 3000}
(Path(sys.argv[1]) / "request.json").write_text(json.dumps(request))
