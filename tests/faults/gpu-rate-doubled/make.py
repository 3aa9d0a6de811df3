"""Double the rate in the update, and recompile."""

import sys
from pathlib import Path

from tests.faults.recompile import replace

replace(Path(sys.argv[1]), "update.cu", "-= rate / s.bias1", "-= 2.f * rate / s.bias1")
