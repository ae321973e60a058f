"""CometBFT's files: its configuration, the genesis document, its keys.

Rules kept here:

* ``config.toml`` is derived: it is written again from ``node.toml`` at every start, so that a
  moved directory and a changed setting need no second edit. Only what differs from the engine's
  defaults is written, each with its reason.
* Consensus timeouts are the same on all nodes: they are constants, not settings.
* Keys are Ed25519 seeds made by us and written once, 0600, exclusively. The validator key signs
  votes, the node key connects to peers; neither is the registry key.
* ``genesis.json`` has CometBFT's format for a solo node too: chain id, time, first state.

Not handled here: running the engine (``supervisor``), the meaning of ``app_state`` (``schema``).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from edgistry.adapters.crypto import public_key_of
from edgistry.codec import to_builtins
from edgistry.errors import ConfigError, DirectoryError
from edgistry.transactions import MAX_TRANSACTION_BYTES

from .addresses import is_loopback, peer_host_of, peer_id_of, url_host
from .config import NodeConfig
from .directory import NodeDirectory, write_secret
from .schema import MAX_GENESIS_BYTES, GenesisState, parse_genesis

MAX_BLOCK_BYTES = 2_000_000
"""A block of this size is finalized in about half a second (measured)."""
VALIDATOR_POWER = 10

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- keys --------------------------------------------------------------------------------------


def peer_id(p2p_public_key: bytes) -> str:
    """How other nodes name the owner of this p2p key: 40 hex digits."""
    return hashlib.sha256(p2p_public_key).digest()[:20].hex()


def validator_address(validator_public_key: bytes) -> str:
    """The engine's name for a validator: 40 upper-case hex digits."""
    return hashlib.sha256(validator_public_key).digest()[:20].hex().upper()


def node_key_document(seed: bytes) -> bytes:
    """``node_key.json`` for a p2p seed."""
    return _json({"priv_key": _private_key(seed)})


def validator_key_document(seed: bytes) -> bytes:
    """``priv_validator_key.json`` for a validator seed."""
    public_key = public_key_of(seed)
    return _json(
        {
            "address": validator_address(public_key),
            "pub_key": _public_key(public_key),
            "priv_key": _private_key(seed),
        }
    )


def read_public_keys(directory: NodeDirectory) -> tuple[bytes, str]:
    """The validator's public key and the peer id of the node in ``directory``.

    Raises:
        DirectoryError: one of the engine's key files is missing or damaged.
    """
    home = directory.engine_home / "config"
    validator = _public_half(home / "priv_validator_key.json")
    return validator, peer_id(_public_half(home / "node_key.json"))


def _public_half(path: Path) -> bytes:
    try:
        document = json.loads(path.read_bytes())
        both = base64.b64decode(document["priv_key"]["value"], validate=True)
    except OSError as error:
        raise DirectoryError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        both = b""
    if len(both) != 64:
        raise DirectoryError(f"{path}: not a key of the engine; restore it from backup")
    return both[32:]


def _private_key(seed: bytes) -> dict[str, str]:
    both = seed + public_key_of(seed)
    return {"type": "tendermint/PrivKeyEd25519", "value": base64.b64encode(both).decode()}


def _public_key(public_key: bytes) -> dict[str, str]:
    return {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(public_key).decode()}


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


# --- genesis -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """A node that votes: its 32-byte public key and its name for people."""

    public_key: bytes
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """How a chain begins. ``time_us``: microseconds since 1970. Solo has no validators."""

    chain_id: str
    time_us: int
    validators: tuple[Validator, ...]
    state: GenesisState


def genesis_document(genesis: Genesis) -> bytes:
    """``genesis.json``: byte for byte the same for the same genesis."""
    moment = _EPOCH + timedelta(microseconds=genesis.time_us)
    return _json(
        {
            "genesis_time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "chain_id": genesis.chain_id,
            "initial_height": "1",
            "consensus_params": {
                "block": {"max_bytes": str(MAX_BLOCK_BYTES), "max_gas": "-1"},
                "evidence": {
                    "max_age_num_blocks": "100000",
                    "max_age_duration": str(48 * 3600 * 10**9),
                    "max_bytes": "100000",
                },
                "validator": {"pub_key_types": ["ed25519"]},
                "version": {"app": "0"},
                "abci": {"vote_extensions_enable_height": "0"},
            },
            "validators": [
                {
                    "address": validator_address(validator.public_key),
                    "pub_key": _public_key(validator.public_key),
                    "power": str(VALIDATOR_POWER),
                    "name": validator.name,
                }
                for validator in genesis.validators
            ],
            "app_hash": "",
            "app_state": to_builtins(genesis.state),
        }
    )


def read_genesis(path: Path) -> Genesis:
    """The chain's beginning as ``path`` has it.

    Raises:
        ConfigError: missing, or not a genesis document of ours.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_GENESIS_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_genesis_document(data, source=str(path))


def parse_genesis_document(data: bytes, *, source: str) -> Genesis:
    """The chain's beginning in ``data``; ``source`` is what errors call it.

    Raises:
        ConfigError: not a genesis document of ours.
    """
    if len(data) > MAX_GENESIS_BYTES:
        raise ConfigError(f"{source}: more than {MAX_GENESIS_BYTES} bytes")
    try:
        document = json.loads(data)
        moment = datetime.fromisoformat(document["genesis_time"])
        genesis = Genesis(
            chain_id=_text(document["chain_id"]),
            time_us=(moment - _EPOCH) // timedelta(microseconds=1),
            validators=tuple(_validator(entry) for entry in document["validators"]),
            state=parse_genesis(json.dumps(document["app_state"]).encode()),
        )
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except KeyError as error:
        raise ConfigError(f"{source}: {error.args[0]}: missing") from None
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{source}: not a genesis document: {error}") from None
    if genesis.state.chain_id not in {"", genesis.chain_id}:
        raise ConfigError(
            f"{source}: app_state.chain_id is {genesis.state.chain_id!r},"
            f" chain_id {genesis.chain_id!r}"
        )
    return genesis


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is asked for, not {value!r:.60}")
    return value


def _validator(entry: Any) -> Validator:
    public_key = base64.b64decode(_text(entry["pub_key"]["value"]), validate=True)
    return Validator(public_key=public_key, name=_text(entry["name"]))


# --- configuration -----------------------------------------------------------------------------


def shares_a_host(members: Sequence[str]) -> bool:
    """Whether two of these peers (``id@host:port``) run on one machine, as far as we can tell."""
    hosts = [peer_host_of(member) for member in members]
    named = ["127.0.0.1" if is_loopback(host) else host.lower() for host in hosts]
    return len(set(named)) < len(named)


def config_toml(config: NodeConfig, abci_socket: Path) -> str:
    """``config.toml`` for this node."""
    members = config.peers.members
    values = {
        "proxy_app": f"unix://{abci_socket}",
        "moniker": config.name,
        "log_level": config.cometbft.log_level,
        "rpc_laddr": f"tcp://127.0.0.1:{config.cometbft.rpc_port}",
        "p2p_laddr": f"tcp://{url_host(config.peers.host)}:{config.peers.port}",
        "persistent_peers": ",".join(members),
        "unconditional_peer_ids": ",".join(peer_id_of(member) for member in members),
    }
    quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    return _CONFIG.format(
        **quoted,
        allow_duplicate_ip="true" if shares_a_host(members) else "false",
        max_tx_bytes=MAX_TRANSACTION_BYTES,
    )


_CONFIG = """\
# Written by edgistry-node at every start, from node.toml: edit that file, not this one.
# What is not here has CometBFT's default.

proxy_app = {proxy_app}
moniker = {moniker}
log_level = {log_level}
log_format = "plain"
genesis_file = "../genesis.json"
# The application answers for each peer whether it belongs to the cluster.
filter_peers = true

[rpc]
# No authentication: never on another address. grpc_laddr and pprof_laddr stay empty.
laddr = {rpc_laddr}
unsafe = false
grpc_laddr = ""
pprof_laddr = ""

[p2p]
laddr = {p2p_laddr}
persistent_peers = {persistent_peers}
unconditional_peer_ids = {unconditional_peer_ids}
# Private addresses are what edge sites have.
addr_book_strict = false
allow_duplicate_ip = {allow_duplicate_ip}
# With pex and a bounded redial, an 8-minute cut healed in 15 s (143 s without).
pex = true
persistent_peers_max_dial_period = "10s"
# The default 100ms costs half a second a commit.
flush_throttle_timeout = "10ms"
send_rate = 20480000
recv_rate = 20480000

[mempool]
type = "flood"
recheck = true
size = 2000
max_txs_bytes = 16000000
max_tx_bytes = {max_tx_bytes}

[blocksync]
version = "v0"

[consensus]
# The same on all validators. One second to propose fails rounds with 2 MB blocks.
timeout_propose = "3s"
timeout_prevote = "1s"
timeout_precommit = "1s"
timeout_commit = "100ms"
peer_gossip_sleep_duration = "20ms"
# No block without need, but a beat every 10 s: block time lags by one silence otherwise.
create_empty_blocks = false
create_empty_blocks_interval = "10s"

[storage]
# Only the last results are needed, for recovery; all of them would double the growth.
discard_abci_responses = true

[tx_index]
# Transactions are confirmed by registry state; nobody asks the engine for one.
indexer = "null"

[instrumentation]
prometheus = false
"""


def write_config(directory: NodeDirectory, config: NodeConfig) -> None:
    """Write ``config.toml`` as ``config`` asks for."""
    path = directory.engine_home / "config" / "config.toml"
    # A crash between the two steps leaves the old file whole.
    fresh = path.with_suffix(".new")
    fresh.write_text(config_toml(config, directory.abci_socket), encoding="utf-8")
    fresh.replace(path)


def create_home(directory: NodeDirectory, *, validator_seed: bytes, p2p_seed: bytes) -> None:
    """Make CometBFT's home with its keys; ``config.toml`` follows at every start."""
    home = directory.engine_home
    for folder in (home, home / "config", home / "data"):
        folder.mkdir(mode=0o700)
    write_secret(home / "config" / "node_key.json", node_key_document(p2p_seed))
    write_secret(
        home / "config" / "priv_validator_key.json", validator_key_document(validator_seed)
    )
    write_secret(
        home / "data" / "priv_validator_state.json",
        _json({"height": "0", "round": 0, "step": 0}),
    )
