"""What an image may have at most (``[budget]`` of ``policy.toml``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splatgate.evidence import BadInput, strict
from splatgate.paths import ROOT

FILE = ROOT / "policy.toml"


@dataclass(frozen=True)
class Budget:
    """Limits of an image: bytes unpacked, and layers with content."""

    bytes: int
    layers: int


@dataclass(frozen=True)
class _File:
    schema: int
    policy: dict[str, Any]
    budget: Budget | None = None


def budget(path: Path = FILE) -> Budget:
    """The budget that every image is held to.

    Raises:
        BadInput: broken TOML, or no budget in it.
    """
    found = strict.read(path, _File).budget
    if found is None:
        raise BadInput(f"{path}: no [budget] with bytes and layers")
    return found
