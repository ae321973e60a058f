"""``edgistry-node repair``: what it finds, repairs, keeps and says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from abci_app.application import RegistryApplication
from abci_app.cli import program
from abci_app.comet_config import read_genesis
from abci_app.directory import NodeDirectory, hold
from abci_app.solo import SoloEngine
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.codec import replace
from edgistry.woof_keys import elements_of, number_bytes
from edgistry.woof_store import WoofStore, write_now

START_US = 1_772_366_400_000_000


def invoke(*words: object) -> Result:
    return CliRunner().invoke(program, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def node() -> Iterator[NodeDirectory]:
    """A solo node that ran for a while, with a WooF of 30 elements."""
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as parent:
        directory = NodeDirectory(Path(parent) / "n")
        assert invoke("init", directory.root).exit_code == 0
        make_queues(directory)
        yield directory


def make_queues(directory: NodeDirectory) -> None:
    store = LevelKeyValue(directory.queues_db)
    woofs = WoofStore(store)
    staging = woofs.begin()
    staging.create_namespace("a")
    staging.create("a/b", 20)
    for number in range(30):
        staging.put("a/b", b"%d" % number * 100)
    write_now(store, staging)
    store.close()


async def make_registry(directory: NodeDirectory) -> None:
    store = LevelKeyValue(directory.registry_db)
    app = RegistryApplication(store, allowed_peer_ids=lambda _: False)
    genesis = read_genesis(directory.genesis_file)
    # Blocks come from no engine here, which has no validators.
    members = tuple(replace(member, validator_key="") for member in genesis.state.members)
    engine = SoloEngine(
        app,
        chain_id=genesis.chain_id,
        genesis=replace(genesis.state, members=members),
        genesis_time_us=START_US,
        clock_us=lambda: START_US,
    )
    await engine.start()
    for _ in range(3):
        await engine.make_block()
    store.close()


def newest(directory: Path, pattern: str) -> Path:
    return max(directory.glob(pattern))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def databases(result: Result) -> dict[str, dict[str, object]]:
    found = json.loads(result.stdout)["databases"]
    return {Path(each["path"]).name: each for each in found}


def test_whole_databases_are_called_whole_and_left_alone(node: NodeDirectory) -> None:
    for words in (["--check"], []):
        result = invoke("repair", node.root, *words)
        assert result.exit_code == 0
        assert "queues.ldb: whole" in result.stdout
        assert "registry.ldb: not made yet" in result.stdout
    assert [path.name for path in (node.root / "data").iterdir()] == ["queues.ldb"]


def test_checking_names_the_damage_exits_with_1_and_changes_nothing(node: NodeDirectory) -> None:
    flip(newest(node.queues_db, "*.ldb"), 20)
    before = {path: path.read_bytes() for path in node.queues_db.glob("*.ldb")}
    result = invoke("repair", node.root, "--check")
    assert result.exit_code == 1
    assert "checksum" in result.stdout
    assert "edgistry-node repair" in result.stderr
    assert {path: path.read_bytes() for path in node.queues_db.glob("*.ldb")} == before


def test_repair_makes_the_node_usable_again_and_keeps_the_damaged_files(
    node: NodeDirectory,
) -> None:
    newest(node.queues_db, "CURRENT").unlink()
    result = invoke("repair", node.root, "--json")
    assert result.exit_code == 0
    report = databases(result)["queues.ldb"]
    assert report["state"] == "repaired"
    assert Path(str(report["kept"])).is_dir()
    store = LevelKeyValue(node.queues_db, create=False)
    assert WoofStore(store).newest("a/b") == (30, b"29" * 100)
    store.close()
    assert invoke("repair", node.root, "--check").exit_code == 0


def test_lost_elements_are_named(node: NodeDirectory) -> None:
    store = LevelKeyValue(node.queues_db)
    prefix = elements_of(WoofStore(store).info("a/b").id)
    store.write([(prefix + number_bytes(15), None), (prefix + number_bytes(16), None)], sync=True)
    store.close()
    assert "lost: elements 15 to 16 of a/b" in invoke("repair", node.root).stdout


async def test_damaged_registry_of_a_solo_node_is_salvaged_only_if_its_hash_is_right(
    node: NodeDirectory,
) -> None:
    await make_registry(node)
    newest(node.registry_db, "CURRENT").unlink()
    result = invoke("repair", node.root, "--json")
    assert (result.exit_code, databases(result)["registry.ldb"]["state"]) == (0, "repaired")

    store = LevelKeyValue(node.registry_db)
    record = next(key for key, _ in store.scan(b"m", b"n"))
    store.write([(record, None)], sync=True)
    store.close()
    result = invoke("repair", node.root)
    assert result.exit_code == 1
    assert "hash" in result.stderr
    assert node.registry_db.is_dir()


async def test_damaged_registry_of_a_node_with_an_engine_is_put_aside() -> None:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as parent:
        node = NodeDirectory(Path(parent) / "n")
        assert invoke("init", node.root, "--engine", "cometbft").exit_code == 0
        await make_registry(node)
        newest(node.registry_db, "CURRENT").unlink()
        result = invoke("repair", node.root, "--json")
        assert (result.exit_code, databases(result)["registry.ldb"]["state"]) == (0, "aside")
        assert not node.registry_db.exists()
        kept = str(databases(result)["registry.ldb"]["kept"])
        assert kept == f"{node.registry_db}.damaged-1"


def test_running_node_is_not_repaired(node: NodeDirectory) -> None:
    with hold(node):
        result = invoke("repair", node.root)
    assert result.exit_code == 1
    assert "already run" in result.stderr
