"""Hosts as their operators see them: processes, with WooFs that go onward between them."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

from abci_app.cli import program
from abci_app.config import ForwardConfig
from abci_app.directory import NodeDirectory, write_secret
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.captext import danger_text
from edgistry.errors import NoRegistryError
from edgistry.rights import Right
from tests.cut_link import CutLink
from tests.ports import reserve_ports

from .hosts import HostProcess

SOURCE, TARGET = "edge/log", "cloud/log"


@dataclass
class Pair:
    """An edge and a cloud, running, with a WooF of the one that goes onward to the other."""

    edge: HostProcess
    cloud: HostProcess
    link: CutLink

    def put(self, *elements: bytes) -> None:
        with self.edge.client() as client:
            for element in elements:
                client.put(SOURCE, element)

    def arrived(self) -> list[bytes]:
        """All elements there, in order."""
        with self.cloud.client() as client:
            return [element for _, element in client.scan(TARGET, 1)]

    def settle(self) -> None:
        """Return when nothing is left to go onward."""
        self.edge.until(lambda: self.edge.lag() == 0, "an empty lag")


@contextlib.contextmanager
def pair_of_hosts() -> Iterator[Pair]:
    with contextlib.ExitStack() as parts:
        root = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="edg", dir="/tmp")))
        ports = reserve_ports(2)
        parts.callback(ports.release)
        edge = parts.enter_context(HostProcess(root / "edge", ports.base))
        cloud = parts.enter_context(HostProcess(root / "cloud", ports.base + 1))
        link = parts.enter_context(CutLink(cloud.port))
        file = "keys/cloud.cap"
        to = f"woof://127.0.0.1:{link.port}/{TARGET}"
        edge.forward(ForwardConfig(woof=SOURCE, to=to, capability_file=file))
        for host in (cloud, edge):
            host.start(wait=False)
        for host, namespace, woof in ((cloud, "cloud", TARGET), (edge, "edge", SOURCE)):
            host.until(host.is_ready)
            with host.client() as client:
                client.create_namespace(namespace)
                client.create(woof, 1_000_000)
        grant = cloud.mint(TARGET, Right.PUT)
        write_secret(edge.layout.root / file, danger_text(grant).encode())
        yield Pair(edge, cloud, link)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with pair_of_hosts() as pair:
        yield pair


def invoke(*words: object) -> Result:
    return CliRunner().invoke(program, [str(word) for word in words], catch_exceptions=False)


def test_elements_go_onward_across_kills_of_both_sides(pair: Pair) -> None:
    pair.put(b"1", b"2")
    pair.settle()
    pair.cloud.kill()
    pair.put(b"3")
    pair.edge.kill()
    pair.cloud.start(wait=False)
    pair.edge.start()
    pair.put(b"4")
    pair.settle()
    assert pair.arrived() == [b"1", b"2", b"3", b"4"]


def test_list_shows_what_goes_where(pair: Pair) -> None:
    done = invoke("forwards", "list", pair.edge.layout.root, "--json")
    [entry] = json.loads(done.stdout)["forwards"]
    assert (entry["woof"], entry["state"], entry["gone"]) == (SOURCE, "reading", 0)
    assert SOURCE in invoke("forwards", "list", pair.edge.layout.root).stdout
    assert "nothing is forwarded" in invoke("forwards", "list", pair.cloud.layout.root).stderr


def test_lag_and_reason_are_shown_while_the_link_is_cut(pair: Pair) -> None:
    pair.link.cut()
    pair.put(b"5")
    pair.edge.until(lambda: pair.edge.forwards()[0].reason != "", "a reason")
    assert pair.edge.lag() == 1
    with urllib.request.urlopen(f"{pair.edge.url}/metrics") as answer:
        text = answer.read().decode()
    assert "edgistry_forward_lag 1.0" in text
    assert "edgistry_forwards_waiting 1.0" in text
    assert SOURCE not in text
    pair.link.mend()
    pair.settle()


def test_nothing_can_be_settled_while_nothing_is_in_doubt(pair: Pair) -> None:
    done = invoke("forwards", "settle", pair.edge.layout.root, SOURCE, 1)
    assert done.exit_code == 1
    assert "in doubt" in done.stderr
    done = invoke("forwards", "settle", pair.edge.layout.root, "no/such", 1)
    assert "not forwarded" in done.stderr


def test_host_says_that_it_has_no_registry(pair: Pair) -> None:
    with BlockingNodeClient(pair.cloud.url) as client:
        with pytest.raises(NoRegistryError):
            client.regions()
        with pytest.raises(NoRegistryError):
            client.discover(near=(0.0, 0.0), radius_km=1.0)
        status = client.status()
    assert (status.engine, status.height, status.node) == ("none", 0, "cloud")
    assert "[no-registry]" in invoke("device", "list", pair.cloud.layout.root).stderr
    assert invoke("status", pair.cloud.layout.root).exit_code == 0


def test_host_stops_cleanly(pair: Pair) -> None:
    assert pair.edge.stop() == 0
    assert "the host has stopped" in (pair.edge.layout.logs_dir / "node.log").read_text()
    assert not pair.edge.layout.admin_socket.exists()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2))
def test_50_kills_of_hosts_lose_nothing_and_repeat_nothing(seed: int) -> None:
    seeded = Random(seed)
    put: list[bytes] = []
    with pair_of_hosts() as pair:
        for number in range(50):
            victim = seeded.choice([pair.edge, pair.cloud])
            elements = [b"%d/%d" % (number, turn) for turn in range(20)]
            pair.put(*elements)
            put += elements
            seeded.choice([pair.link.cut, pair.link.deafen, pair.link.mend])()
            time.sleep(seeded.uniform(0.0, 0.2))
            victim.kill()
            pair.link.mend()
            victim.start()
        pair.settle()
        assert pair.arrived() == put


# --- without running ----------------------------------------------------------------------------


@pytest.fixture
def parent() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as directory:
        yield Path(directory)


def test_init_makes_a_host_without_keys_and_files_of_a_chain(parent: Path) -> None:
    done = invoke("init", parent / "h", "--engine", "none", "--json")
    assert json.loads(done.stdout)["engine"] == "none"
    found = {str(each.relative_to(parent / "h")) for each in (parent / "h").rglob("*")}
    assert found == {"data", "keys", "keys/issuer.key", "logs", "node.toml", "run"}
    assert "edgistry-node host" in invoke("init", parent / "g", "--engine", "none").stdout


def test_node_is_not_run_as_a_host(parent: Path) -> None:
    invoke("init", parent / "n")
    done = invoke("host", parent / "n")
    assert done.exit_code == 2
    assert "edgistry-node run" in done.stderr


@pytest.mark.parametrize(("made", "written"), [("none", "solo"), ("solo", "none")])
def test_directory_of_one_kind_is_not_taken_for_another(
    parent: Path, made: str, written: str
) -> None:
    invoke("init", parent / "d", "--engine", made)
    file = NodeDirectory(parent / "d").config_file
    file.write_text(file.read_text().replace(f'engine = "{made}"', f'engine = "{written}"'))
    done = invoke("run", parent / "d")
    assert done.exit_code == 2
    assert f"made for '{made}'" in done.stderr
