"""Reads pip's locks: which versions an image may hold, and whether each is bound to a hash."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True)
class Pin:
    """One requirement of a lock. ``version`` is None where it does not name exactly one."""

    name: str
    version: str | None
    hashes: int


def read(text: str) -> list[Pin]:
    """The requirements of a locked file; options such as ``-r`` and ``--index-url`` are no pins."""
    pins = []
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = re.sub(r"(?:^|\s)#.*", "", line).strip()
        if not line or line.startswith("-"):
            continue
        wanted, *options = re.split(r"\s+--", line)
        try:
            need = Requirement(wanted)
        except InvalidRequirement:
            pins.append(Pin(wanted, None, 0))
            continue
        exact = [s.version for s in need.specifier if s.operator in ("==", "===")]
        version = exact[0] if len(exact) == 1 and "*" not in exact[0] else None
        hashes = sum(option.startswith("hash=") for option in options)
        pins.append(Pin(canonicalize_name(need.name), version, hashes))
    return pins


def allows(pins: Iterable[Pin], name: str, version: str) -> bool:
    """Whether a lock holds a distribution in just this version, its local part aside."""
    for pin in pins:
        if pin.name == canonicalize_name(name) and pin.version is not None:
            try:
                return SpecifierSet(f"=={pin.version}").contains(Version(version), prereleases=True)
            except InvalidVersion:
                return pin.version == version
    return False
