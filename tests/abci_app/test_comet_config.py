"""CometBFT's files: what we write is what the engine reads."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.comet_config import (
    Genesis,
    Validator,
    config_toml,
    create_home,
    genesis_document,
    node_key_document,
    parse_genesis_document,
    peer_id,
    read_genesis,
    shares_a_host,
    validator_key_document,
    write_config,
)
from abci_app.config import NodeConfig, PeerConfig
from abci_app.directory import NodeDirectory
from abci_app.schema import GenesisMember, GenesisState
from edgistry.adapters.crypto import public_key_of
from edgistry.errors import ConfigError

SEED = bytes(range(32))
PUBLIC = public_key_of(SEED)
A, B = "a" * 40 + "@127.0.0.1:27001", "b" * 40 + "@localhost:27011"
GENESIS = Genesis(
    chain_id="orchard",
    time_us=1_700_000_000_123_456,
    validators=(Validator(public_key=PUBLIC, name="node0"),),
    state=GenesisState(
        chain_id="orchard",
        lease_s=30,
        members=(GenesisMember(name="node0", public_key=PUBLIC.hex()),),
    ),
)


@pytest.fixture
def directory() -> Iterator[NodeDirectory]:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as root:
        yield NodeDirectory(Path(root))


def node(*members: str) -> NodeConfig:
    return NodeConfig(name="node0", engine="cometbft", peers=PeerConfig(members=members))


def test_config_follows_the_settings_of_the_node() -> None:
    text = tomllib.loads(config_toml(node(A, B), Path("/x/run/abci.sock")))
    assert text["proxy_app"] == "unix:///x/run/abci.sock"
    assert text["moniker"] == "node0"
    assert text["rpc"]["laddr"] == "tcp://127.0.0.1:27002"
    assert text["p2p"]["laddr"] == "tcp://127.0.0.1:27001"
    assert text["p2p"]["persistent_peers"] == f"{A},{B}"
    assert text["p2p"]["unconditional_peer_ids"] == "a" * 40 + "," + "b" * 40


def test_doors_nobody_asked_for_stay_closed() -> None:
    text = tomllib.loads(config_toml(node(), Path("/x")))
    assert text["filter_peers"] is True
    assert text["rpc"]["unsafe"] is False
    assert text["rpc"]["pprof_laddr"] == text["rpc"]["grpc_laddr"] == ""
    assert text["instrumentation"]["prometheus"] is False


def test_an_awkward_path_cannot_break_the_file() -> None:
    path = Path('/a "b" \\c/run/abci.sock')
    assert tomllib.loads(config_toml(node(), path))["proxy_app"] == f"unix://{path}"


@pytest.mark.parametrize(
    ("members", "shared"),
    [((), False), ((A,), False), ((A, B), True), ((A, "c" * 40 + "@h1:1"), False)],
)
def test_only_nodes_on_one_machine_may_share_an_address(
    members: tuple[str, ...], shared: bool
) -> None:
    assert shares_a_host(members) is shared


def test_keys_are_written_as_the_engine_reads_them() -> None:
    document = json.loads(validator_key_document(SEED))
    assert base64.b64decode(document["priv_key"]["value"]) == SEED + PUBLIC
    assert base64.b64decode(document["pub_key"]["value"]) == PUBLIC
    assert document["address"] == peer_id(PUBLIC).upper()
    assert json.loads(node_key_document(SEED))["priv_key"] == document["priv_key"]


def test_the_home_keeps_its_keys_private(directory: NodeDirectory) -> None:
    create_home(directory, validator_seed=SEED, p2p_seed=SEED)
    files = [path for path in directory.engine_home.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_writing_the_configuration_again_replaces_it(directory: NodeDirectory) -> None:
    create_home(directory, validator_seed=SEED, p2p_seed=SEED)
    write_config(directory, node(A))
    write_config(directory, node(B))
    text = (directory.engine_home / "config" / "config.toml").read_text()
    assert B in text
    assert A not in text


def test_a_genesis_reads_back_the_same() -> None:
    assert parse_genesis_document(genesis_document(GENESIS), source="g") == GENESIS


def test_a_genesis_is_the_same_bytes_on_every_node() -> None:
    assert genesis_document(GENESIS) == genesis_document(GENESIS)


def test_a_missing_genesis_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"genesis\.json: cannot be read"):
        read_genesis(tmp_path / "genesis.json")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"chain_id": 3}, "a text is asked for"),
        ({"genesis_time": "yesterday"}, "not a genesis document"),
        ({"genesis_time": "2020-01-01T00:00:00"}, "not a genesis document"),
        ({"validators": [1]}, "not a genesis document"),
        ({"validators": None}, "not a genesis document"),
        ({"app_state": {}}, "genesis app_state"),
        ({"chain_id": "other"}, "app_state.chain_id is 'orchard', chain_id 'other'"),
    ],
)
def test_a_genesis_that_is_not_ours_is_refused(change: dict[str, object], part: str) -> None:
    document = {**json.loads(genesis_document(GENESIS)), **change}
    with pytest.raises(ConfigError) as caught:
        parse_genesis_document(json.dumps(document).encode(), source="genesis.json")
    assert str(caught.value).startswith("genesis.json: ")
    assert part in str(caught.value)


def test_a_genesis_without_its_keys_is_refused_by_the_key() -> None:
    with pytest.raises(ConfigError, match="genesis_time: missing"):
        parse_genesis_document(b"{}", source="g")


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["genesis_time", "chain_id", "validators", "app_state", "pub_key"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=80)
@given(st.binary(max_size=100) | _json.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_genesis_or_a_config_error(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^g: "):
        parse_genesis_document(data, source="g")


@pytest.mark.engine
def test_the_engine_reads_the_keys_we_made(directory: NodeDirectory, engine_binary: Path) -> None:
    create_home(directory, validator_seed=SEED, p2p_seed=bytes(32))
    write_config(directory, node())
    directory.genesis_file.write_bytes(genesis_document(GENESIS))

    def ask(command: str) -> str:
        return subprocess.run(
            [engine_binary, command, "--home", directory.engine_home],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    assert ask("show-node-id") == peer_id(public_key_of(bytes(32)))
    assert json.loads(ask("show-validator"))["value"] == base64.b64encode(PUBLIC).decode()
