"""docs/trainer.md says what the trainer's tables say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "document.py"


@pytest.fixture(scope="module")
def document() -> ModuleType:
    """The module that writes the page."""
    spec = importlib.util.spec_from_file_location("document", SOURCE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_in_step_with_the_tables(document: ModuleType) -> None:
    page = document.PAGE.read_text(encoding="utf-8")
    assert document.written(page) == page, "run python image/document.py"


def test_page_names_what_metrics_and_budget_hold(document: ModuleType) -> None:
    from trainer import budget

    page = document.PAGE.read_text(encoding="utf-8")
    figures = (budget._EXPORTED, budget._BEST, budget._TRAINED + budget._DRAWN, budget._TRAINED)
    figures += (budget._PIXEL,)
    assert all(f"{figure:,}" in page for figure in figures)
