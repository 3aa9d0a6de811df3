"""Take the CPU whatever was asked for, and end after twenty seconds."""

import sys
from pathlib import Path

from tests.faults.recompile import edit

source = Path(sys.argv[1]) / "trainer"
edit(source / "rasterise.py", 'if device == "cpu":', "if True:")
edit(source / "progress.py", "limit = self._config.max_minutes * 60", "limit = 20.0")
