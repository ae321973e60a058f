"""Fixtures that more than one package of tests needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from abci_app.engine import find_engine

from .ports import reserve_ports

# The same examples in every run: what passed here passes elsewhere. HYPOTHESIS_PROFILE=search looks
# for new ones.
settings.register_profile("edgistry", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "edgistry"))


@pytest.fixture(scope="session")
def engine_binary() -> Path:
    """The real consensus engine; a test that asks for it fails when it is not installed."""
    return find_engine()


@pytest.fixture(scope="session", autouse=True)
def _nobody_s_own_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands that tests run keep keys and handles here, not with those of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture
def reserved_port() -> Iterator[int]:
    """The first of four ports that nobody else takes, whoever of the test's own comes and goes."""
    with reserve_ports() as ports:
        yield ports.base
