"""Stream a prefix that does not end at a folder."""

import json
import sys
from pathlib import Path

from splatgate.sagemaker.request import smoke_request

request = dict(smoke_request().raw)
request["InputDataConfig"][0]["InputMode"] = "FastFile"
request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = "s3://bucket/scene1"
(Path(sys.argv[1]) / "request.json").write_text(json.dumps(request))
