"""``node.toml`` and ``cluster.toml``: their values, ranges and the example files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.addresses import check_peers, is_loopback, peer_host_of, peer_id_of
from abci_app.config import ApiConfig, EngineConfig, NodeConfig, PeerConfig
from abci_app.config_cluster import ClusterConfig, check_base_port
from edgistry.adapters.config import load, parse, render
from edgistry.errors import ConfigError, InvalidValueError

PEER = "0123456789abcdef0123456789abcdef01234567@10.0.0.2:26656"


def read(text: str) -> NodeConfig:
    return parse(text, NodeConfig, source="node.toml")


def test_a_name_is_enough_for_a_single_node() -> None:
    config = read('name = "porch"')
    assert config.engine == "solo"
    assert (config.api.host, config.api.port) == ("127.0.0.1", 27000)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('name = "Porch"', "name: a node name has"),
        ('name = "a"\nengine = "raft"', 'engine: must be one of "solo", "cometbft"'),
        ('name = "a"\n[api]\nport = 65536', "api.port: a port is a number from 1 to 65535"),
        ('name = "a"\n[api]\nhost = "a b"', "api.host: 'a b' is neither"),
        ('name = "a"\n[peers]\nmembers = ["10.0.0.2:1"]', "peers.members: '10.0.0.2:1' is not ID@"),
        ('name = "a"\n[cometbft]\nlog_level = "loud"', "cometbft.log_level: must be one of"),
        (
            'name = "a"\nengine = "cometbft"\n[api]\nport = 27001',
            "api, link, peers and cometbft need different ports",
        ),
    ],
)
def test_a_wrong_setting_is_refused_by_its_key(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert part in str(caught.value)


def test_a_solo_node_may_use_any_api_port() -> None:
    assert read('name = "a"\n[api]\nport = 27001').api.port == 27001


def test_a_rendered_node_file_reads_back_the_same() -> None:
    config = NodeConfig(
        name="node3",
        engine="cometbft",
        api=ApiConfig(host="0.0.0.0", port=8000),
        peers=PeerConfig(host="0.0.0.0", port=8001, members=(PEER,)),
        cometbft=EngineConfig(rpc_port=8002),
    )
    assert read(render(config, title="A node.")) == config


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:27000"),
        ("0.0.0.0", "http://127.0.0.1:27000"),
        ("::1", "http://[::1]:27000"),
        ("edge.example", "http://edge.example:27000"),
    ],
)
def test_the_api_url_is_reachable_from_this_machine(host: str, url: str) -> None:
    assert NodeConfig(name="a", api=ApiConfig(host=host)).api_url == url


def test_a_peer_splits_into_id_and_host() -> None:
    assert peer_id_of(PEER) == "0123456789abcdef0123456789abcdef01234567"
    assert peer_host_of(PEER) == "10.0.0.2"
    assert peer_host_of(PEER.replace("10.0.0.2", "[::1]")) == "::1"


@pytest.mark.parametrize(
    "peer",
    ["", "a@b:1", PEER.replace("26656", "0"), PEER.replace("26656", "99999"), PEER.upper()],
)
def test_a_malformed_peer_is_refused(peer: str) -> None:
    with pytest.raises(InvalidValueError):
        check_peers((peer,))


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{40}@[a-z.:\[\]]{1,20}:[0-9]{1,6}"))
def test_any_peer_text_is_accepted_or_refused(peer: str) -> None:
    try:
        check_peers((peer,))
    except InvalidValueError:
        return
    assert len(peer_id_of(peer)) == 40
    assert peer_host_of(peer)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("10.0.0.1", False), ("h0", False)],
)
def test_only_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_cluster_names_its_nodes_in_order() -> None:
    cluster = ClusterConfig(chain_id="c", base_port=27000, hosts=("127.0.0.1",) * 3)
    assert cluster.names == ("node0", "node1", "node2")
    assert cluster.is_local


def test_a_cluster_of_several_machines_is_not_local() -> None:
    assert not ClusterConfig(chain_id="c", base_port=27000, hosts=("127.0.0.1", "h1")).is_local


def test_base_ports_leave_room_for_all_nodes() -> None:
    check_base_port(65502, 4)
    with pytest.raises(InvalidValueError, match="choose a base port from 1 to 65502"):
        check_base_port(65503, 4)


def test_the_link_is_where_the_api_is_three_ports_on_unless_it_is_set() -> None:
    plain = read('name = "n"\n[api]\nhost = "::1"\nport = 500\n')
    assert (plain.link_host, plain.link_port) == ("::1", 503)
    chosen = read('name = "n"\n[link]\nhost = "127.0.0.2"\nport = 7\n')
    assert (chosen.link_host, chosen.link_port) == ("127.0.0.2", 7)


def test_a_link_without_a_port_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="a port is a number"):
        read('name = "n"\n[api]\nport = 65534\n')
    with pytest.raises(ConfigError, match="different ports"):
        read('name = "n"\n[link]\nport = 27000\n')


EXAMPLES = Path(__file__).resolve().parents[2] / "node_configs"


def test_the_example_node_has_every_setting_at_its_default() -> None:
    text = (EXAMPLES / "node.toml").read_text()
    default = NodeConfig(name="node0")
    assert read(text) == default
    title, rest = text.split("\n\n", 1)
    assert render(default, title="").lstrip() == rest
    assert title.startswith("# Example")


def test_the_example_nodes_of_a_test_net_belong_together() -> None:
    cluster = load(EXAMPLES / "testnet" / "cluster.toml", ClusterConfig)
    nodes = [load(EXAMPLES / "testnet" / f"{name}.toml", NodeConfig) for name in cluster.names]
    assert [node.name for node in nodes] == list(cluster.names)
    everybody = {member for node in nodes for member in node.peers.members}
    assert len(everybody) == 4
    for number, node in enumerate(nodes):
        base = cluster.base_port + 10 * number
        assert (node.api.port, node.peers.port, node.cometbft.rpc_port) == (
            base,
            base + 1,
            base + 2,
        )
        (own,) = everybody - set(node.peers.members)
        assert own.endswith(f"@127.0.0.1:{node.peers.port}")
