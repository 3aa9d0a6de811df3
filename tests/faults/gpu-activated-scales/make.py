"""Export scales after the exponential."""

import sys
from pathlib import Path

from tests.faults.recompile import edit

edit(Path(sys.argv[1]) / "trainer" / "export.py", 'v["scales"]', 'v["scales"].exp()')
