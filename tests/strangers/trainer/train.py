#!/usr/bin/env python3
"""A trainer of some other team, in as far as its start goes: it refuses an empty channel."""

import signal
import sys
from pathlib import Path

from parts.channel import photographs

FAILURE = Path("/opt/ml/output/failure")


def main():
    """Look for photographs, and say so where there are none."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    print("trainer: starting", flush=True)
    found = photographs()
    if not found:
        text = "no photographs below /opt/ml/input/data/training"
        print(f"trainer: {text}", flush=True)
        if FAILURE.parent.is_dir():
            FAILURE.write_text(text)
        return 3
    print(f"trainer: {len(found)} photographs", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
