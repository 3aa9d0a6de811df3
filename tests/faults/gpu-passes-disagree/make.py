"""Let the writing pass ask for a little more opacity than the counting pass, and recompile."""

import sys
from pathlib import Path

from tests.faults.recompile import replace

replace(
    Path(sys.argv[1]),
    "project.cu",
    "touches(x, y, A, B, C, opacity, tx, ty)",
    "touches(x, y, A, B, C, WRITE ? 0.9f * opacity : opacity, tx, ty)",
)
