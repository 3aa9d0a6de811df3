"""Where the suite's own files lie: checks, checklist, scenes, the trainer's sources."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_SCENE = ROOT / "tests" / "scenes" / "brighton_beach"


def built_image() -> str | None:
    """Id of the image that ``make image`` built here."""
    path = ROOT / "build" / "image" / "build.json"
    try:
        return str(json.loads(path.read_text())["image_id"])
    except (OSError, ValueError, KeyError):
        return None
