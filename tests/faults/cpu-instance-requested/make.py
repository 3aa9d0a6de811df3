"""Ask for an instance without a GPU."""

import json
import sys
from pathlib import Path

from splatgate.sagemaker.request import smoke_request

request = dict(smoke_request().raw)
request["ResourceConfig"]["InstanceType"] = "ml.m5.xlarge"
(Path(sys.argv[1]) / "request.json").write_text(json.dumps(request))
