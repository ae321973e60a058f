"""Fixtures that more than one package of tests needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from abci_app.engine import find_engine


@pytest.fixture(scope="session")
def engine_binary() -> Path:
    """The real consensus engine; a test that asks for it fails when it is not installed."""
    return find_engine()
