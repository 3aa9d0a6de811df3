"""pytest's fixtures: the door of the run, and everything that comes through it (``provide``)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from splatgate import session
from splatgate.container.engine import EngineError
from splatgate.doors import Recorded
from splatgate.evidence import BadInput
from splatgate.outcomes import CannotLook
from splatgate.provide import PROVIDERS


@pytest.fixture(scope="session")
def door(pytestconfig: pytest.Config) -> Recorded:
    """Where evidence comes from: a look at the image, or a recording.

    Raises:
        CannotLook: nothing can be seen; no check has an answer, and the run could not judge.
    """
    started = monotonic()
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        """Progress on the terminal, past pytest's capture and from any worker."""
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"  {monotonic() - started:4.0f} s  {text}\n")
            sys.stderr.flush()

    run = pytestconfig.pluginmanager.getplugin("splatgate-judge").run
    try:
        return session.open_door(run, say)
    except (BadInput, EngineError) as error:
        raise CannotLook(str(error)) from None


def _fixture(provider: Callable[[Recorded], Any]) -> Any:
    def give(door: Recorded) -> Any:
        return provider(door)

    give.__doc__ = provider.__doc__
    return pytest.fixture(name=provider.__name__)(give)


globals().update({f"give_{name}": _fixture(provider) for name, provider in PROVIDERS.items()})
