"""Choose gsplat's pair of rasterising kernels."""

import sys
from pathlib import Path

from tests.faults.recompile import edit

edit(
    Path(sys.argv[1]) / "trainer" / "train.py",
    'pair = "gsplat" if chosen == "fused-gsplat" else "own"',
    'pair = "gsplat"',
)
