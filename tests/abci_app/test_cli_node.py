"""``edgistry-node``: what its commands make, say and answer; and a solo node from end to end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from abci_app.cli import program
from abci_app.consensus import check_port_free
from abci_app.directory import NodeDirectory, running_pid
from abci_app.launch import node_program
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.kv import MemoryKeyValue

from .solo_node import open_solo

COMMAND_S = 60.0


@pytest.fixture
def parent() -> Iterator[Path]:
    """A short directory: sockets are made in it."""
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as path:
        yield Path(path)


def invoke(*words: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(program, [str(word) for word in words], env=env)


def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from walk(child, f"{path} {name}")


COMMANDS = dict(walk(program, "edgistry-node"))


# --- the face -----------------------------------------------------------------------------------


def test_the_commands_are_the_promised_ones() -> None:
    assert set(program.commands) >= {
        "init", "run", "status", "abci", "cluster", "engine", "device", "fleet", "region",
    }  # fmt: skip
    assert set(COMMANDS) >= {
        f"edgistry-node {words}"
        for words in (
            "cluster init", "cluster up", "cluster status", "cluster logs", "cluster down",
            "engine install", "engine path", "engine version",
        )
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_explains_itself(path: str) -> None:
    command = COMMANDS[path]
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in {"help", "version"}:
            assert parameter.help, (path, parameter.name)
            assert parameter.envvar, (path, parameter.name)
            assert parameter.is_flag or parameter.metavar, (path, parameter.name)
        if isinstance(parameter, click.Argument):
            assert parameter.metavar, (path, parameter.name)


@pytest.mark.parametrize("path", COMMANDS)
def test_help_is_shown_for_every_command(path: str) -> None:
    done = invoke(*path.split()[1:], "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: edgistry-node")


def test_an_unknown_option_is_a_usage_error() -> None:
    assert invoke("cluster", "init", "x", "--node", "4").exit_code == 2


def test_a_refusal_is_one_line_and_a_hint(parent: Path) -> None:
    done = invoke("status", parent)
    assert done.exit_code == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert first.endswith("[directory]")
    assert second.startswith("hint: ")


def test_control_characters_in_a_refusal_cannot_steer_a_terminal(parent: Path) -> None:
    done = invoke("status", parent / "\x1b[2J")
    assert "\x1b" not in done.stderr
    assert "\\x1b" in done.stderr


# --- init ---------------------------------------------------------------------------------------


def test_init_makes_a_solo_node_by_default(parent: Path) -> None:
    done = invoke("init", parent / "n", "--base-port", "23000", "--lease-s", "30", "--epoch", "90m")
    assert done.exit_code == 0
    config = tomllib.loads((parent / "n" / "node.toml").read_text())
    assert config["engine"] == "solo"
    assert config["api"]["port"] == 23000
    assert not (parent / "n" / "engine").exists()
    genesis = json.loads((parent / "n" / "genesis.json").read_text())
    assert genesis["validators"] == []
    assert genesis["app_state"]["lease_s"] == 30
    assert genesis["app_state"]["epoch_s"] == 5400
    assert len(genesis["app_state"]["members"]) == 1


def test_init_can_make_a_node_for_the_real_engine(parent: Path) -> None:
    assert invoke("init", parent / "n", "--engine", "cometbft").exit_code == 0
    assert (parent / "n" / "engine" / "config" / "config.toml").exists()
    genesis = json.loads((parent / "n" / "genesis.json").read_text())
    assert len(genesis["validators"]) == 1


def test_init_refuses_a_directory_that_is_not_empty(parent: Path) -> None:
    (parent / "file").write_text("mine")
    done = invoke("init", parent)
    assert done.exit_code == 1
    assert "not empty" in done.stderr
    assert [each.name for each in parent.iterdir()] == ["file"]


@pytest.mark.parametrize("command", [("init",), ("cluster", "init")])
def test_init_refuses_a_path_too_long_for_a_socket(parent: Path, command: tuple[str, ...]) -> None:
    done = invoke(*command, parent / ("x" * 90))
    assert done.exit_code == 1
    assert "at most 100 work" in done.stderr
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--name", "A B"), "a node name has"),
        (("--chain-id", "A B"), "chain id 'A B'"),
        (("--base-port", "65533"), "choose a base port"),
        (("--lease-s", "999999999999"), "lease_s"),
        (("--epoch", "0s"), "epoch_s is 0; allowed: 1 to"),
        (("--epoch", "999999d"), "epoch_s"),
        (("--epoch", "1.5s"), "a whole number of seconds"),
        (("--epoch", "soon"), "write a number and ms, s, m, h or d"),
    ],
)
def test_init_refuses_values_out_of_range_and_makes_nothing(
    parent: Path, words: tuple[str, ...], part: str
) -> None:
    done = invoke("init", parent / "n", *words)
    assert done.exit_code in {1, 2}
    assert part in done.stderr
    assert not (parent / "n").exists()


def test_what_was_made_can_be_read_by_a_program(parent: Path) -> None:
    made = json.loads(invoke("init", parent / "n", "--chain-id", "mine", "--json").stdout)
    assert made == {
        "directory": str(parent / "n"), "node": "node0", "engine": "solo", "chain_id": "mine",
    }  # fmt: skip
    made = json.loads(invoke("cluster", "init", parent / "c", "--nodes", "2", "--json").stdout)
    assert made["directories"] == [str(parent / "c" / "node0"), str(parent / "c" / "node1")]


# --- cluster init -------------------------------------------------------------------------------


def cluster_of(root: Path) -> list[dict[str, Any]]:
    nodes = sorted(root.glob("node*"))
    return [tomllib.loads((node / "node.toml").read_text()) for node in nodes]


def test_a_cluster_is_made_with_the_promised_ports_and_peers(parent: Path) -> None:
    root = parent / "c"
    done = invoke("cluster", "init", root, "--base-port", "23000")
    assert done.exit_code == 0
    assert "warning" not in done.stderr
    configs = cluster_of(root)
    assert [config["api"]["port"] for config in configs] == [23000, 23010, 23020, 23030]
    assert [config["peers"]["port"] for config in configs] == [23001, 23011, 23021, 23031]
    assert [config["cometbft"]["rpc_port"] for config in configs] == [23002, 23012, 23022, 23032]
    for config in configs:
        others = {other["peers"]["port"] for other in configs} - {config["peers"]["port"]}
        members = config["peers"]["members"]
        assert {int(member.rpartition(":")[2]) for member in members} == others
        assert config["api"]["host"] == config["peers"]["host"] == "127.0.0.1"


def test_all_nodes_of_a_cluster_have_the_same_genesis(parent: Path) -> None:
    invoke("cluster", "init", parent / "c", "--epoch", "2d")
    genesis = {(parent / "c" / f"node{n}" / "genesis.json").read_bytes() for n in range(4)}
    assert len(genesis) == 1
    document = json.loads(genesis.pop())
    assert [each["name"] for each in document["validators"]] == ["node0", "node1", "node2", "node3"]
    assert document["app_state"]["epoch_s"] == 2 * 86_400
    assert document["consensus_params"]["block"]["max_bytes"] == "2000000"


def test_no_key_is_used_twice(parent: Path) -> None:
    invoke("cluster", "init", parent / "c")
    root = parent / "c"
    files = [*root.glob("node*/keys/*"), *root.glob("node*/engine/config/*_key.json")]
    assert len(files) == 16
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    assert len({each.read_bytes() for each in files}) == 16


@pytest.mark.parametrize("nodes", [2, 3])
def test_two_or_three_validators_are_warned_about(parent: Path, nodes: int) -> None:
    done = invoke("cluster", "init", parent / "c", "--nodes", nodes)
    assert done.exit_code == 0
    assert "none may fail" in done.stderr


def test_hosts_make_directories_to_carry_to_other_machines(parent: Path) -> None:
    done = invoke("cluster", "init", parent / "c", "--hosts", "edge0,edge1,edge2,10.0.0.9")
    assert done.exit_code == 0
    assert "move node3 to 10.0.0.9" in done.stdout
    first = cluster_of(parent / "c")[0]
    assert first["peers"]["host"] == first["api"]["host"] == "0.0.0.0"
    hosts = [each.partition("@")[2] for each in first["peers"]["members"]]
    assert hosts == ["edge1:27011", "edge2:27021", "10.0.0.9:27031"]


def test_nodes_of_other_machines_are_not_started_here(parent: Path) -> None:
    invoke("cluster", "init", parent / "c", "--hosts", "edge0,edge1,edge2,edge3")
    done = invoke("cluster", "up", parent / "c", "--detach")
    assert done.exit_code == 1
    assert "belongs to another machine" in done.stderr


@pytest.mark.parametrize(
    "words",
    [("--hosts", "a,b", "--nodes", "3"), ("--hosts", ","), ("--nodes", "0"), ("--nodes", "101")],
)
def test_a_contradictory_cluster_is_a_usage_error(parent: Path, words: tuple[str, ...]) -> None:
    assert invoke("cluster", "init", parent / "c", *words).exit_code == 2
    assert not (parent / "c").exists()


def test_a_stopped_cluster_is_shown_as_such(parent: Path) -> None:
    invoke("cluster", "init", parent / "c", "--nodes", "2")
    done = invoke("cluster", "status", parent / "c", "--json")
    assert done.exit_code == 1
    nodes = json.loads(done.stdout)["nodes"]
    assert [node["running"] for node in nodes] == [False, False]
    assert nodes[0]["height"] is None
    assert "stopped" in invoke("cluster", "status", parent / "c").stdout


def test_stopping_a_cluster_that_does_not_run_does_nothing(parent: Path) -> None:
    invoke("cluster", "init", parent / "c", "--nodes", "1")
    done = invoke("cluster", "down", parent / "c")
    assert (done.exit_code, done.stdout) == (0, "no node was running\n")


def test_a_node_is_no_cluster_and_a_cluster_no_node(parent: Path) -> None:
    invoke("init", parent / "n")
    invoke("cluster", "init", parent / "c", "--nodes", "1")
    assert "it is a single node" in invoke("cluster", "status", parent / "n").stderr
    assert "it is a cluster: name one" in invoke("status", parent / "c").stderr


def test_a_mistyped_setting_is_named_with_its_file(parent: Path) -> None:
    invoke("init", parent / "n")
    file = parent / "n" / "node.toml"
    file.write_text(file.read_text().replace("port = 27000", "prot = 27000"))
    done = invoke("run", parent / "n")
    assert done.exit_code == 2
    assert f"{file}: api.prot: unknown key; did you mean 'port'?" in done.stderr


def test_a_missing_engine_is_named_with_its_remedy(parent: Path) -> None:
    invoke("init", parent / "n", "--engine", "cometbft")
    done = invoke("run", parent / "n", env={"EDGISTRY_ENGINE": str(parent / "absent")})
    assert done.exit_code == 1
    assert "engine install" in done.stderr


def test_a_key_of_another_cluster_is_noticed(parent: Path, reserved_port: int) -> None:
    invoke("init", parent / "a", "--base-port", reserved_port)
    invoke("init", parent / "b")
    (parent / "b/keys/registry.key").replace(parent / "a/keys/registry.key")
    done = invoke("run", parent / "a")
    assert done.exit_code == 2
    assert "not among the members" in done.stderr


# --- a solo node --------------------------------------------------------------------------------


class Solo:
    """A solo node in a process of its own."""

    def __init__(self, root: Path, base_port: int) -> None:
        self.directory = NodeDirectory(root)
        done = invoke("init", root, "--base-port", base_port)
        assert done.exit_code == 0, done.output
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> dict[str, Any]:
        """Start it and wait until it has a block; its status."""
        self.process = subprocess.Popen(
            [*node_program(), "run", str(self.directory.root)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + COMMAND_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()[1]
            status = invoke("status", self.directory.root, "--json")
            if status.exit_code == 0 and json.loads(status.stdout)["height"]:
                answer: dict[str, Any] = json.loads(status.stdout)
                return answer
            time.sleep(0.05)
        raise AssertionError("the node does not come up")

    def end(self, number: signal.Signals) -> tuple[int, str]:
        assert self.process is not None
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=COMMAND_S)
        return self.process.returncode, said


@pytest.fixture
def solo(parent: Path, reserved_port: int) -> Iterator[Solo]:
    node = Solo(parent / "n", reserved_port)
    yield node
    if node.process is not None and node.process.poll() is None:
        node.end(signal.SIGKILL)


def test_a_solo_node_makes_blocks_and_stops_cleanly(solo: Solo) -> None:
    status = solo.start()
    assert status["running"] is True
    assert status["catching_up"] is False
    assert solo.process is not None
    assert running_pid(solo.directory) == solo.process.pid
    assert solo.end(signal.SIGTERM) == (0, "")
    assert running_pid(solo.directory) is None
    assert not solo.directory.admin_socket.exists()
    assert "the node has stopped" in (solo.directory.logs_dir / "node.log").read_text()


def test_a_killed_solo_node_starts_again_where_it_was(solo: Solo) -> None:
    first = solo.start()
    solo.end(signal.SIGKILL)
    assert solo.directory.admin_socket.exists(), "a stale socket is what this is about"
    again = solo.start()
    assert again["height"] >= first["height"]


def test_a_node_that_does_not_run_exits_with_cannot_reach(solo: Solo) -> None:
    done = invoke("status", solo.directory.root)
    assert done.exit_code == 3
    assert "does not run" in done.stderr


def test_two_nodes_on_one_port_are_told_apart(
    parent: Path, reserved_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = partial(check_port_free, tries_s=0.0)
    monkeypatch.setattr("abci_app.node.check_port_free", at_once)
    with socket.socket() as other:
        other.bind(("127.0.0.1", reserved_port))
        other.listen()
        assert invoke("init", parent / "m", "--base-port", reserved_port).exit_code == 0
        done = invoke("run", parent / "m")
    assert done.exit_code == 1
    assert f"port {reserved_port} on 127.0.0.1 (api in node.toml) is in use" in done.stderr


async def make_registry(path: Path) -> None:
    """A registry with a block of the chain that ``solo_node`` has."""
    registry = LevelKeyValue(path)
    await open_solo(registry, MemoryKeyValue())
    registry.close()


def test_a_registry_of_another_chain_is_noticed(parent: Path, reserved_port: int) -> None:
    invoke("init", parent / "m", "--base-port", reserved_port)
    asyncio.run(make_registry(parent / "m" / "data" / "registry.ldb"))
    done = invoke("run", parent / "m")
    assert done.exit_code == 1
    assert "[chain-mismatch]" in done.stderr


def test_commands_of_the_operator_reach_the_node(solo: Solo) -> None:
    solo.start()
    registered = invoke(
        "device", "register", solo.directory.root, "--type", "thermometer",
        "--lat", "34.1", "--lon", "-118.3", "--json",
    )  # fmt: skip
    assert registered.exit_code == 0, registered.stderr
    answer = json.loads(registered.stdout)
    assert (answer["added"], answer["tentative"]) == (1, 0)
    assert len(answer["handle"]) == 22
