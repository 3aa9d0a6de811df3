"""Ask for a model that no instance store of this type holds, and for a volume that would."""

import json
import sys
from pathlib import Path

from splatgate.sagemaker.request import smoke_request

request = dict(smoke_request().raw)
request["HyperParameters"] = {"max_gaussians": "600000000"}
request["ResourceConfig"]["VolumeSizeInGB"] = 1000
(Path(sys.argv[1]) / "request.json").write_text(json.dumps(request))
