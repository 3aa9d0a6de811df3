"""What looks at a container from inside, in parts that are sent as one text."""

from __future__ import annotations

import re
from pathlib import Path

#: In the order in which they need each other.
PARTS = ("elf.py", "walk.py", "code.py", "main.py")
#: How the image's Python is started on it: no site files, no .pth, no variables of the image.
ISOLATED = ("-I", "-S", "-E")


def text() -> bytes:
    """The probe as one program."""
    folder = Path(__file__).parent
    joined = "\n".join((folder / name).read_text() for name in PARTS)
    return re.sub(r"(?m)^from splatgate\..*$", "", joined).encode()
