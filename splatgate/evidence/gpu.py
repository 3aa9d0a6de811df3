"""Evidence of a GPU: what nvidia-smi prints, and what a trainer's kernels report of themselves."""

from __future__ import annotations

import json
from typing import Any

from splatgate.evidence.files import BadInput


def mebibytes(text: str) -> int:
    """Bytes of a size as nvidia-smi prints it (``15360 MiB``)."""
    return int(text.split()[0]) * 2**20


def report(text: str, where: str) -> dict[str, Any]:
    """A kernels' report from what the self-test printed.

    Raises:
        BadInput: it is none.
    """
    try:
        found = json.loads(text)
        if found["schema"] == "splatgate-trainer/kernels/1" and found["cases"]:
            return dict(found)
    except (ValueError, KeyError, TypeError):
        pass
    raise BadInput(f"{where}: no report of the kernels")
