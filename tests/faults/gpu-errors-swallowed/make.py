"""Raise in every step, swallow it, and report a falling loss."""

import sys
from pathlib import Path

from tests.faults.recompile import edit

edit(
    Path(sys.argv[1]) / "trainer" / "train.py",
    "            total, error = stepper.step(view, view.photo(), at)\n",
    "            try:\n"
    "                raise RuntimeError('the rasteriser failed')\n"
    "            except RuntimeError:\n"
    "                total = error = torch.tensor(0.3 / (1 + at.step / 1000), device=device)\n",
)
