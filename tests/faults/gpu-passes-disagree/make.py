"""Let the writing pass ask for a little more opacity than the counting pass, and recompile."""

import sys
from pathlib import Path

from tests.faults.recompile import replace

replace(
    Path(sys.argv[1]),
    "project.cu",
    "touches(r.x, r.y, r.A, r.B, r.C, r.opacity, tx, ty)",
    "touches(r.x, r.y, r.A, r.B, r.C, WRITE ? 0.9f * r.opacity : r.opacity, tx, ty)",
)
