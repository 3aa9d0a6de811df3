"""``python -m splatgate VERB``."""

import sys

from splatgate.cli import main

sys.exit(main())
