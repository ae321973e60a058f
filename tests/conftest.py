"""Fixtures that more than one package of tests needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from abci_app.engine import find_engine

# The same examples in every run: what passed here passes elsewhere. HYPOTHESIS_PROFILE=search looks
# for new ones.
settings.register_profile("edgistry", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "edgistry"))


@pytest.fixture(scope="session")
def engine_binary() -> Path:
    """The real consensus engine; a test that asks for it fails when it is not installed."""
    return find_engine()
