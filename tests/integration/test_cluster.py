"""Four nodes with the real engine: they agree, keep strangers out, and survive what they should."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abci_app.comet_config import config_toml, node_key_document, peer_id
from abci_app.config import NodeConfig, PeerConfig
from abci_app.directory import NodeDirectory
from abci_app.launch import node_program
from edgistry.adapters.crypto import generate_signing_key, public_key_of

from ..ports import reserve_ports
from .harness import Cluster, tail

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def four_nodes() -> Iterator[Cluster]:
    with Cluster() as four:
        yield four


@pytest.fixture
def cluster(four_nodes: Cluster) -> Cluster:
    """Four nodes that run, whatever the test before did to them."""
    missing = [number for number in four_nodes.numbers if not four_nodes.is_running(number)]
    if missing:
        four_nodes.start(*missing)
    return four_nodes


def rpc(port: int, method: str, **parameters: str) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)["result"]


def peer_ids(port: int) -> set[str]:
    return {peer["node_info"]["id"] for peer in rpc(port, "net_info")["peers"]}


def members_of(directory: NodeDirectory) -> list[str]:
    members: list[str] = tomllib.loads(directory.config_file.read_text())["peers"]["members"]
    return members


def test_four_nodes_agree_on_height_and_app_hash(cluster: Cluster) -> None:
    first = cluster.wait_agreement(height=2)
    assert first.members == 4
    later = cluster.wait_agreement(height=first.height + 1)
    assert later.block_time > first.block_time


def test_an_idle_chain_beats_without_changing_its_hash(cluster: Cluster) -> None:
    first = cluster.wait_agreement()
    cluster.wait_until(
        "all leases on the chain", lambda: all(s.outbox == 0 for s in statuses(cluster))
    )
    first = cluster.wait_agreement(height=first.height + 1)
    later = cluster.wait_agreement(height=first.height + 1)
    assert later.app_hash == first.app_hash


def statuses(cluster: Cluster) -> list[Any]:
    return [cluster.status(number) for number in cluster.numbers]


def test_every_node_is_connected_to_the_three_others(cluster: Cluster) -> None:
    cluster.wait_until("full mesh", lambda: all(s.peers == 3 for s in statuses(cluster)))
    answers = [cluster.ready(number) for number in cluster.numbers]
    assert all(answer is not None and answer.writes for answer in answers), answers


def test_status_shows_every_node_in_the_promised_form(cluster: Cluster) -> None:
    answer = cluster.command_json("cluster", "status", str(cluster.root))
    assert [node["node"] for node in answer["nodes"]] == ["node0", "node1", "node2", "node3"]
    assert [node["api"] for node in answer["nodes"]] == [cluster.api(n) for n in range(4)]
    for node in answer["nodes"]:
        assert set(node) == {
            "node", "api", "running", "height", "app_hash", "block_time", "peers",
            "catching_up", "services", "outbox",
        }  # fmt: skip
        assert node["running"] is True
        assert node["catching_up"] is False
        assert node["height"] >= 1
        assert len(bytes.fromhex(node["app_hash"])) == 32
        assert node["block_time"].endswith("Z")


def test_a_second_process_on_a_directory_is_refused(cluster: Cluster) -> None:
    cluster.program("run", str(cluster.directory(0).root), accept=(1,))
    assert cluster.is_running(0)


def test_nothing_listens_beyond_loopback(cluster: Cluster) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # No packet is sent: the kernel only chooses the address that it would send from.
        probe.connect(("192.0.2.1", 9))
        outside = probe.getsockname()[0]
    for port in range(cluster.port(0), cluster.port(0) + 3):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((outside, port), timeout=5)


def test_an_uninvited_fifth_peer_is_kept_out(
    cluster: Cluster, tmp_path: Path, engine_binary: Path
) -> None:
    seed = generate_signing_key()
    stranger = peer_id(public_key_of(seed))
    ports = reserve_ports(1)
    home = tmp_path / "engine"
    subprocess.run([engine_binary, "init", "--home", home], check=True, capture_output=True)
    shutil.copy(cluster.directory(0).genesis_file, tmp_path / "genesis.json")
    (home / "config" / "node_key.json").write_bytes(node_key_document(seed))
    member = members_of(cluster.directory(0))[0]
    config = NodeConfig(
        name="stranger",
        engine="cometbft",
        peers=PeerConfig(port=ports.base + 1, members=(member,)),
    )
    text = config_toml(config, tmp_path).replace("filter_peers = true", "filter_peers = false")
    (home / "config" / "config.toml").write_text(text)
    log_file = tmp_path / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [
                engine_binary, "start", "--home", home, "--proxy_app", "kvstore",
                "--rpc.laddr", f"tcp://127.0.0.1:{ports.base + 2}",
            ],
            stdout=log,
            stderr=log,
        )  # fmt: skip
    try:
        # It gets as far as a connection, which is closed as soon as its id is known.
        cluster.wait_until(
            "the stranger turned away many times",
            lambda: log_file.read_text().count("Stopping peer for error") >= 20,
        )
        height = cluster.height(0)
        cluster.wait_until("two more blocks", lambda: cluster.height(0) >= height + 2)
        assert process.poll() is None, tail(log_file, 20)
        assert rpc(ports.base + 2, "status")["sync_info"]["latest_block_height"] == "0"
        for number in cluster.numbers:
            assert stranger not in peer_ids(cluster.port(number) + 2)
    finally:
        process.kill()
        process.wait()
        ports.release()


def test_a_member_is_known_to_the_filter_and_a_stranger_is_not(cluster: Cluster) -> None:
    member = members_of(cluster.directory(0))[0].partition("@")[0]

    def code(who: str) -> int:
        answer = rpc(cluster.port(0) + 2, "abci_query", path=f"/p2p/filter/id/{who}", data="")
        return int(answer["response"]["code"])

    assert code(member) == 0
    assert code("ab" * 20) != 0


def test_a_crashed_engine_is_started_again_and_the_node_catches_up(cluster: Cluster) -> None:
    before = cluster.engine_pid(1)
    assert cluster.kill_engine(1) == before
    cluster.wait_until("a new engine", lambda: cluster.engine_pid(1) not in {None, before})
    assert cluster.is_running(1)
    height = cluster.height(0)
    cluster.wait_agreement(height=height + 1)


def test_an_engine_dies_with_its_node_and_a_restart_needs_nothing(cluster: Cluster) -> None:
    pid = cluster.engine_pid(2)
    assert pid is not None
    cluster.kill_node(2)
    cluster.wait_until("the engine is gone", lambda: cluster.engine_pid(2) is None)
    assert Path(f"/proc/{pid}/exe").exists() is False, "at most a zombie is left"
    height = cluster.height(0)
    cluster.wait_agreement(0, 1, 3, height=height + 1)
    cluster.start(2)
    cluster.wait_agreement(height=height + 1)


def test_a_node_stops_cleanly_when_asked(cluster: Cluster) -> None:
    directory = cluster.directory(3)
    pid = cluster.engine_pid(3)
    assert cluster.stop(3) == {3: 0}
    assert pid is not None
    assert cluster.engine_pid(3) is None
    assert not directory.abci_socket.exists()
    assert not directory.admin_socket.exists()
    assert "killed" not in tail(directory.logs_dir / "node.log", 20)
    cluster.start(3)
    cluster.wait_agreement()


def test_a_wiped_registry_is_rebuilt_to_the_same_hash(cluster: Cluster) -> None:
    cluster.wait_agreement()
    cluster.stop(0)
    shutil.rmtree(cluster.directory(0).registry_db)
    cluster.start(0)
    cluster.wait_agreement()


def test_a_chain_reset_under_the_application_is_named(cluster: Cluster) -> None:
    cluster.wait_agreement(height=2)
    cluster.stop(3)
    data = cluster.directory(3).engine_home / "data"
    aside = data.with_name("aside")
    data.rename(aside)
    data.mkdir()
    shutil.copy(aside / "priv_validator_state.json", data)
    try:
        cluster.start(3, wait=False)
        assert cluster.wait_exit(3) == 1
        said = tail(cluster.directory(3).logs_dir / "console.log", 20)
        assert "do not belong together" in said
        assert "[chain-mismatch]" in said
    finally:
        shutil.rmtree(data)
        aside.rename(data)
    cluster.start(3)
    cluster.wait_agreement()


def test_a_taken_port_is_named_with_its_setting(cluster: Cluster) -> None:
    cluster.stop(1)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", cluster.port(1) + 1))
        other.listen()
        cluster.start(1, wait=False)
        assert cluster.wait_exit(1) == 1
    said = tail(cluster.directory(1).logs_dir / "console.log", 5)
    assert f"port {cluster.port(1) + 1} on 127.0.0.1 (peers in node.toml) is in use" in said
    cluster.start(1)
    cluster.wait_agreement()


def test_a_node_that_hangs_is_shown_as_silent(cluster: Cluster) -> None:
    cluster.kill_node(2, signal.SIGSTOP)
    try:
        answer = cluster.command_json("cluster", "status", str(cluster.root))
        assert answer["nodes"][2]["running"] is True
        assert answer["nodes"][2]["height"] is None
    finally:
        cluster.kill_node(2, signal.SIGCONT)
    cluster.wait_agreement()


def test_commands_bring_a_cluster_up_and_down() -> None:
    with Cluster() as cluster:
        root = str(cluster.root)
        try:
            cluster.program("cluster", "up", root, "--detach")
            cluster.wait_agreement()
            first = pids(cluster)
            cluster.program("cluster", "up", root, "--detach")
            assert pids(cluster) == first, "what runs is not started again"
            os.kill(first[2], signal.SIGKILL)
            cluster.wait_until("node 2 is gone", lambda: node_states(cluster)[2] is False)
            cluster.program("cluster", "up", root, "--detach")
            again = pids(cluster)
            assert again[2] != first[2]
            assert [again[n] for n in (0, 1, 3)] == [first[n] for n in (0, 1, 3)]
            assert "ABCI server listens" in cluster.command("cluster", "logs", root)
        finally:
            cluster.command("cluster", "down", root)
        assert node_states(cluster) == [False] * 4
        assert "no node was running" in cluster.command("cluster", "down", root)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["starting node3", "Ctrl-C stops them"])
def test_a_foreground_cluster_takes_its_nodes_along(moment: str, number: signal.Signals) -> None:
    with Cluster() as cluster:
        process = subprocess.Popen(
            [*node_program(), "cluster", "up", str(cluster.root)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell's background jobs ignore SIGINT, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            assert process.stderr is not None
            assert any(moment in line for line in iter(process.stderr.readline, ""))
            process.send_signal(number)
            process.communicate(timeout=60)
            assert node_states(cluster) == [False] * 4
        finally:
            process.kill()
            process.communicate()
            cluster.command("cluster", "down", str(cluster.root))


def pids(cluster: Cluster) -> list[int]:
    return [int(cluster.directory(n).pid_file.read_text()) for n in cluster.numbers]


def node_states(cluster: Cluster) -> list[bool]:
    answer = cluster.command_json("cluster", "status", str(cluster.root), accept=(0, 1))
    return [node["running"] for node in answer["nodes"]]
