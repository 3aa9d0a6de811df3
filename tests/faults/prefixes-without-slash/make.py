"""Take the trailing slash off every prefix of the definition and the input."""

import sys
from pathlib import Path

definition = Path(sys.argv[1])
definition.write_text(definition.read_text().replace("/', $.run.prefix)", "', $.run.prefix)"))
sent = definition.parent / "input.json"
sent.write_text(sent.read_text().replace('/",', '",'))
