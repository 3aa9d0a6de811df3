"""Ask for a GPU for which the image has no code."""

import json
import sys
from pathlib import Path

from splatgate.sagemaker.request import smoke_request

request = dict(smoke_request().raw)
request["ResourceConfig"]["InstanceType"] = "ml.p3.2xlarge"
(Path(sys.argv[1]) / "request.json").write_text(json.dumps(request))
