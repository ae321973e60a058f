"""The same blocks give the same app hashes, however the interpreter was started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from abci_app.slices import Slices
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.kv import MemoryKeyValue

from .replay_blocks import replay

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    return _replay_in_a_process("0")


def _replay_in_a_process(hash_seed: str, *options: str) -> list[str]:
    finished = subprocess.run(
        [sys.executable, *options, "-m", "tests.abci_app.replay_blocks"],
        cwd=_ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return finished.stdout.splitlines()


def test_the_blocks_of_this_test_do_something(expected: list[str]) -> None:
    hashes = [line.split()[0] for line in expected[:-1]]
    codes = {code for line in expected[:-1] for code in line.split(" ", 2)[2:]}
    assert len(set(hashes)) > 40
    assert len(codes) > 20
    # The empty blocks at the end outlast every lease: deletion is part of what is compared.
    assert expected[-1] == "10 changes of members, epoch 3, 0 records left"


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_any_hash_seed_gives_the_same_hashes(expected: list[str], hash_seed: str) -> None:
    assert _replay_in_a_process(hash_seed) == expected


def test_an_optimised_interpreter_gives_the_same_hashes(expected: list[str]) -> None:
    assert _replay_in_a_process("7", "-O") == expected


async def test_leveldb_gives_the_same_hashes_as_memory(expected: list[str], tmp_path: Path) -> None:
    for name in ("first", "wiped-and-replayed"):
        store = LevelKeyValue(tmp_path / name)
        assert await replay(store) == expected
        store.close()


async def test_a_node_started_anew_after_each_block_comes_to_the_same(expected: list[str]) -> None:
    assert await replay(MemoryKeyValue(), starts_anew=True) == expected


async def test_where_long_work_is_cut_does_not_matter(
    expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never_rest(self: Slices) -> None:
        return None

    monkeypatch.setattr(Slices, "rest", never_rest)
    assert await replay(MemoryKeyValue()) == expected
