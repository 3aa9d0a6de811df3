"""Add sixty large photographs to the scene, and say how this trainer keeps them."""

import shutil
import sys
from pathlib import Path

from PIL import Image

from splatgate.evidence import Facts, read
from splatgate.sagemaker.variants import as_text

scene = Path(sys.argv[1])
model = as_text(scene)
with (model / "cameras.txt").open("a") as file:
    file.write("9000 PINHOLE 6000 4000 5000 5000 3000 2000\n")
first = scene / "images" / "large_00.jpg"
Image.new("RGB", (6000, 4000), "grey").save(first, quality=50)
lines = (model / "images.txt").read_text().splitlines()
poses = [line.split(maxsplit=9)[1:8] for line in lines[::2]]
with (model / "images.txt").open("a") as file:
    for number in range(60):
        name = f"large_{number:02}.jpg"
        if number:
            shutil.copyfile(first, first.with_name(name))
        file.write(f"{9000 + number} {' '.join(poses[number % len(poses)])} 9000 {name}\n\n")

evidence = scene.with_name("evidence")
profile = read(evidence / "container" / "facts.json", Facts).subject or ""
head, _, rest = profile.partition("\n[memory]")
kept = "\n[memory]\nphoto_pixel = 12\nfull_size = true\n\n"
(evidence / "subject.toml").write_text(head + kept + rest.partition("\n\n")[2])
