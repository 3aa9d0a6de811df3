"""What an image may have at most (``[budget]`` of ``policy.toml``)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec

from splatgate.evidence import BadInput
from splatgate.paths import ROOT

FILE = ROOT / "policy.toml"


@dataclass(frozen=True)
class Budget:
    """Limits of an image: bytes unpacked, and layers with content."""

    bytes: int
    layers: int


def budget(path: Path = FILE) -> Budget:
    """The budget that every image is held to.

    Raises:
        BadInput: broken TOML, or no budget in it.
    """
    try:
        table = tomllib.loads(path.read_text()).get("budget")
        if table is None:
            raise BadInput(f"{path}: no [budget] with bytes and layers")
        found = msgspec.convert(table, Budget)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except (ValueError, msgspec.ValidationError) as error:
        raise BadInput(f"{path}: budget: {error}") from None
    known = {field.name for field in fields(Budget)}
    if unknown := sorted(set(table) - known):
        raise BadInput(
            f"{path}: budget: unknown field {', '.join(unknown)}; one of {', '.join(sorted(known))}"
        )
    return found
