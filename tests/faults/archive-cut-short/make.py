"""Pack the scene, and cut the archive short."""

import shutil
import sys
from pathlib import Path

scene = Path(sys.argv[1])
packed = Path(shutil.make_archive(str(scene.with_name("packed")), "gztar", scene))
data = packed.read_bytes()
packed.unlink()
shutil.rmtree(scene)
scene.mkdir()
(scene / "scene.tar.gz").write_bytes(data[: len(data) * 2 // 3])
