"""Members of a document that may be malformed: what does not fit is left to the grammar."""

from __future__ import annotations

from typing import Any


def listed(value: Any) -> list[Any]:
    """A list, or none where something else stands for it."""
    return value if isinstance(value, list) else []


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; what else stands there, the grammar tells."""
    return [v for v in listed(value) if isinstance(v, dict)]
