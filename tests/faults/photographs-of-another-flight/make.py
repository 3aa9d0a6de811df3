"""Put another scene's photographs under the names of this one's."""

import sys
from pathlib import Path

from PIL import Image

from splatgate.paths import ROOT

others = sorted((ROOT / "tests" / "scenes" / "banana" / "images").iterdir())
for number, path in enumerate(sorted((Path(sys.argv[1]) / "images").iterdir())):
    with Image.open(path) as own, Image.open(others[number % len(others)]) as other:
        other.convert("RGB").resize(own.size).save(path)
