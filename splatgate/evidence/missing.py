"""How a check says that it has no answer. An assertion is a verdict; these two are not."""

from __future__ import annotations

#: Why a check that trains gives no answer under ``--quick``.
QUICK = "--quick: no training"


class Blocked(Exception):
    """What a check needs never came about, because the subject of check ``by`` failed."""

    def __init__(self, by: str, reason: str) -> None:
        super().__init__(reason)
        self.by = by


class CannotLook(Exception):
    """The image cannot be looked into at all: no verdict on it, and the run could not judge."""


class NotVerified(Exception):
    """A check cannot give an answer here. The message says why and, where it can, what would give
    one.
    """
