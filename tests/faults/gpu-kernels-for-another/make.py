"""Recompile for a GPU of another generation: its machine code does not run on this one."""

import subprocess
import sys
from pathlib import Path

target = Path(sys.argv[1]) / "kernels"
sys.path.insert(0, str(target))
import build  # noqa: E402

other = "8.6" if build.capabilities().startswith("7") else "7.5"
subprocess.run([sys.executable, str(target / "build.py"), "--archs", other], check=True)
