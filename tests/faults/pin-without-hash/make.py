"""Take the hashes of one requirement away."""

import sys
from pathlib import Path

path = Path(sys.argv[1]) / "lock" / "runtime.txt"
kept, inside = [], False
for line in path.read_text().splitlines(keepends=True):
    if not line.startswith(" "):
        inside = line.startswith("pillow==")
        line = line.replace(" \\", "") if inside else line
    if not (inside and line.startswith(" ")):
        kept.append(line)
path.write_text("".join(kept))
