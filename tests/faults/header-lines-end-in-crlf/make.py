"""End the header's lines in CR LF, and compress the model again."""

import sys
from pathlib import Path

from splatgate.sagemaker import compression

(job,) = Path(sys.argv[1]).glob("jobs/truth-*")
path = job / "model" / "point_cloud.ply"
header, end, body = path.read_bytes().partition(b"end_header\n")
path.write_bytes((header + end).replace(b"\n", b"\r\n") + body)
compression.compress(compression.install(lambda line: None), job)
