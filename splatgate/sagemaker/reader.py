"""Takes members out of a JSON document, with complaints that name the member's path."""

from __future__ import annotations

import json
from typing import Any

from splatgate.evidence import BadInput

_KINDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a whole number",
    bool: "true or false",
}


class Reader:
    """Reads members of a document; ``where`` names the document in each complaint."""

    def __init__(self, where: str) -> None:
        self.where = where

    def bad(self, path: str, what: str) -> BadInput:
        """The complaint about one member."""
        return BadInput(f"{self.where}: {path}: {what}")

    def get(self, parent: Any, path: str, kind: type, default: Any) -> Any:
        """The member of ``parent`` that ``path`` ends in, ``default`` where it is not given."""
        value = parent.get(path.rpartition(".")[2])
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.bad(path, f"{show(value)} is not {_KINDS[kind]}")
        return value

    def strings(self, parent: Any, path: str) -> dict[str, str]:
        """A map whose values are all text, as SageMaker's are."""
        mapping = self.get(parent, path, dict, {})
        for key, value in mapping.items():
            if not isinstance(value, str):
                raise self.bad(
                    f"{path}.{key}",
                    f"{show(value)} is not text; SageMaker takes only strings, put it in quotes",
                )
        return dict(mapping)

    def words(self, parent: Any, path: str) -> tuple[str, ...] | None:
        """A list of strings that is not empty, None where it is not given."""
        found = self.get(parent, path, list, None)
        if found is None:
            return None
        if not found or not all(isinstance(word, str) for word in found):
            raise self.bad(path, f"{show(found)} is not a list of 1-100 strings")
        return tuple(found)


def show(value: object) -> str:
    """A value as JSON, cut to what fits in a line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
