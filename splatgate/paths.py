"""Where the suite's own files lie: in a checkout, or inside the installed package."""

from __future__ import annotations

import json
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
#: The repository, where this package lies in one; None: it is installed.
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pytest.ini").is_file() else None
#: Checks, checklist, policies, scenes and pipeline: the repository, or what the wheel took from it
#: (pyproject.toml, force-include).
ROOT = CHECKOUT or PACKAGE / "suite"
#: What is built, and where results go by default.
BUILD = (CHECKOUT or Path.cwd()) / "build"
DEFAULT_SCENE = ROOT / "tests" / "scenes" / "brighton_beach"


def built_image() -> str | None:
    """Id of the image that ``make image`` built here."""
    try:
        return str(json.loads((BUILD / "image" / "build.json").read_text())["image_id"])
    except (OSError, ValueError, KeyError):
        return None
