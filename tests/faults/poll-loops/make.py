"""Put the machine with poll loops in the reference's place."""

import json
import shutil
import sys
from pathlib import Path

definition = Path(sys.argv[1])
machines = Path(__file__).parents[2] / "machines"
machine = json.loads((machines / "poll-loops.json").read_text())
definition.write_text(json.dumps(machine))
shutil.copyfile(machines / "poll-loops.input.json", definition.parent / "input.json")
# Its states and its jobs have other names.
for path in (*definition.parent.glob("contracts/*"), *definition.parent.glob("roles/*")):
    text = path.read_text().replace("StructureFromMotion", "Sfm")
    for name in ("gsplat", "sfm", "compress"):
        text = text.replace(f"-job/{name}-*", "-job/*")
    path.write_text(text)
