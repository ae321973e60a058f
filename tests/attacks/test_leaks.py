"""The leak scan: what is seen of a cluster has no place, id or secret of a device in it.

Four real nodes, one of which has devices at home. Their owners know where they are; what is looked
through is what anybody else sees: all blocks, the databases of the other nodes, all logs, metrics,
what clients are told and refused, what commands of clients print (privacy.md, *Attack tests*, 5).
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.admin_api import DeviceRow
from abci_app.admin_client import AdminClient
from abci_app.devices import DeviceTable
from abci_app.epoch_store import EpochSecrets
from abci_app.pairing import PairingTable
from device_agent.directory import AgentDirectory
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.codec import encode
from edgistry.region import cell_center, published_cell
from tests.integration.agents import agent_command
from tests.integration.harness import Cluster

from .leak_scan import LeakScan

HOME = 1
CENTER = (67.51971234567, 126.63227345678)
"""So far north and east that no coordinate looks like the seconds of a time."""
COMMAND_S = 120.0


# --- the scan itself ----------------------------------------------------------------------------


@given(
    secret=st.binary(min_size=16, max_size=32),
    before=st.binary(max_size=9),
    behind=st.binary(max_size=9),
    spelling=st.integers(0, 4),
)
def test_a_planted_secret_is_found_in_every_spelling(
    secret: bytes, before: bytes, behind: bytes, spelling: int
) -> None:
    whole = before + secret + behind
    planted = (
        whole,
        whole.hex().encode(),
        whole.hex().upper().encode(),
        base64.b64encode(whole),
        base64.urlsafe_b64encode(whole),
    )[spelling]
    scan = LeakScan()
    scan.secret("the secret", secret)
    scan.search("here", b"noise " + planted + b" noise")
    assert scan.found == {"the secret": {"here"}}


@given(st.integers(-890_000_000, 890_000_000).filter(lambda number: number % 1000))
def test_a_planted_coordinate_is_found_in_every_spelling(number: int) -> None:
    value = number / 10_000_000
    for planted in (
        f"{value:.7f}".encode(),
        f"{value:.5f}".encode(),
        f"{value:.15f}".encode(),
        struct.pack(">d", value),
        struct.pack("<d", value),
        encode({"lat": value}),
    ):
        scan = LeakScan()
        scan.number("the place", value)
        scan.search("here", b"x" + planted + b"x")
        assert scan.found == {"the place": {"here"}}


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    scan = LeakScan()
    scan.secret("the secret", b"0123456789abcdef")
    scan.text("the id", "device-of-ann")
    scan.number("the place", CENTER[0])
    scan.search("noise", random.Random(1).randbytes(200_000))
    assert scan.found == {}
    path = tmp_path / "file"
    path.write_bytes(bytes((1 << 20) - 5) + b"device-of-ann")  # across two pieces that are read
    scan.search_file(path)
    assert scan.found == {"the id": {str(path)}}


def test_a_leak_in_a_database_is_found(tmp_path: Path) -> None:
    store = LevelKeyValue(tmp_path / "db")
    store.write([(b"key", encode((1, CENTER[1])))], sync=True)
    store.close()
    scan = LeakScan()
    scan.number("the place", CENTER[1])
    scan.search_database(tmp_path / "db")
    assert scan.found == {"the place": {str(tmp_path / "db")}}


# --- four real nodes ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Fleet:
    """Devices that an owner registers: where they are is known to nobody else."""

    rows: list[DeviceRow]

    @classmethod
    def of(cls, count: int) -> Fleet:
        source = random.Random(count)
        return cls(
            [
                DeviceRow(
                    line=number + 1,
                    id=f"station-{source.randbytes(6).hex()}",
                    name=f"{source.randbytes(5).hex()} of somebody",
                    lat=CENTER[0] + source.uniform(-0.2, 0.2),
                    lon=CENTER[1] + source.uniform(-0.2, 0.2),
                    type="station",
                    actions=("read",),
                )
                for number in range(count)
            ]
        )


class Agent:
    """A device with a program of its own, paired with the home node."""

    lat, lon = 67.48812345, 126.71998765

    def __init__(self, cluster: Cluster) -> None:
        self.root = cluster.parent / "agent"
        where = ("--lat", str(self.lat), "--lon", str(self.lon))
        self.run("init", "--type", "thermometer", *where)
        code = cluster.command("pair-code", str(cluster.directory(HOME).root)).strip()
        self.run("pair", "--node", cluster.api(HOME), "--code", "-", text=code)

    def run(self, command: str, *words: str, text: str = "") -> None:
        agent_command(self.root, command, *words, text=text)

    def wake(self) -> None:
        self.run("run", "--once")


class Outsider:
    """A client at a node that has no devices: all that it gets is looked through."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.home = cluster.parent / f"client{number}"
        self.home.mkdir(mode=0o700)
        self.heard: list[bytes] = []

    def command(self, *words: str, accept: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            [Path(sys.executable).with_name("edgistry"), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_S,
            env={
                **self.cluster.environment,
                "XDG_CONFIG_HOME": str(self.home),
                "EDGISTRY_NODE": self.cluster.api(self.number),
            },
            check=False,
        )
        self.heard += [done.stdout, done.stderr]
        assert done.returncode in accept, f"{words}: {done.stdout!r}{done.stderr!r}"
        return done.stdout.decode()

    def ask(self, method: str, path: str, body: bytes = b"") -> None:
        """One request; what came back is kept, with its headers, whatever it is."""
        request = urllib.request.Request(
            self.cluster.api(self.number) + path, body or None, method=method
        )
        with contextlib.suppress(TimeoutError):
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    self.heard.append(str(answer.headers).encode() + answer.read())
            except urllib.error.HTTPError as error:
                self.heard.append(str(error.headers).encode() + error.read())

    def poke(self, device: str) -> None:
        """Everything that may be asked, and much that may not."""
        for path in (
            "/metrics",
            "/v1/status",
            "/readyz",
            "/v1/regions",
            "/openapi.json",
            "/v1/discover",
            "/v1/discover?region=nowhere",
            f"/v1/discover?near={CENTER[0]:.2f},{CENTER[1]:.2f}&radius_km=100&limit=1000",
            "/v1/discover?near=67.5,126.6&radius_km=50&limit=100000",
            "/v1/discover?cell=871f9ac8effffff&cursor=nonsense",
            "/v1/requests/AAAAAAAAAAAAAAAAAAAAAA",
            "/v1/nothing",
            f"/admin/devices?id={device[:3]}",
        ):
            self.ask("GET", path)
        for path in ("/v1/grants", "/v1/any/grant", "/v1/requests", "/v1/exchange", "/v1/woof"):
            self.ask("POST", path, b"{}")
            self.ask("POST", path, b"\xff" * 40)


@contextlib.contextmanager
def seen(count: int) -> Iterator[tuple[Cluster, LeakScan]]:
    """A cluster that has stopped, and a scan with all that nobody may know; its dealings in it."""
    fleet = Fleet.of(count)
    with Cluster() as cluster:
        cluster.start()
        for begin in range(0, count, 256):
            with AdminClient(cluster.directory(HOME)) as admin:
                admin.register(fleet.rows[begin : begin + 256])
        agent = Agent(cluster)
        outsiders = [Outsider(cluster, number) for number in (0, 2)]

        def listed() -> bool:
            agent.wake()
            status = cluster.status(0)
            return status is not None and status.services >= count + 1

        cluster.wait_until("all are listed", listed, seconds=120.0)
        area = ("--near", "67.5,126.7", "--radius-km", "50")
        for outsider in outsiders:
            outsider.command("discover", *area, "--limit", "1000", "--json")
            outsider.command("discover", *area, "--type", "thermometer")
            call = ("call", "--any", "--type", "thermometer", *area, "read", "--wait", "0s")
            outsider.command(*call, "--json")
            agent.wake()
            outsider.command("request", "list")
            outsider.command("call", "--any", "--type", "camera", *area, "read", accept=(1,))
            outsider.command("status")
            outsider.poke(fleet.rows[0].id or "")
        heard = [each for outsider in outsiders for each in outsider.heard]
        for number in cluster.numbers:
            with urllib.request.urlopen(f"{cluster.api(number)}/metrics", timeout=20) as answer:
                heard.append(answer.read())
        blocks = list(blocks_of(cluster, 0))
        cluster.stop()
        scan = LeakScan()
        name_everything(scan, cluster, fleet, agent)
        for data in heard:
            scan.search("what a client heard", data)
        for data in blocks:
            scan.search("a block", data)
        search_files(scan, cluster)
        yield cluster, scan


def blocks_of(cluster: Cluster, number: int) -> Iterator[bytes]:
    """All blocks as the engine of a node has them, transactions decoded."""
    latest = int(cluster.engine_rpc(number, "status")["sync_info"]["latest_block_height"])
    for height in range(1, latest + 1):
        block: Any = cluster.engine_rpc(number, "block", height=str(height))
        yield json.dumps(block).encode()
        for transaction in block["block"]["data"]["txs"] or ():
            yield base64.b64decode(transaction)


def name_everything(scan: LeakScan, cluster: Cluster, fleet: Fleet, agent: Agent) -> None:
    """Tell ``scan`` what nobody but the owners and the home node may know."""
    for row in fleet.rows:
        scan.text("a device's id", row.id or "")
        scan.text("a device's name", row.name)
        scan.number("a device's latitude", row.lat)
        scan.number("a device's longitude", row.lon)
    scan.number("the agent's latitude", agent.lat)
    scan.number("the agent's longitude", agent.lon)
    # With many devices, some coordinate is by chance that of the centre of a published cell, which
    # everybody is told.
    everyone = [*((row.lat, row.lon) for row in fleet.rows), (agent.lat, agent.lon)]
    cells = {published_cell(*place, 7) for place in everyone}
    centres = [f"{value!r}" for cell in cells for value in cell_center(cell)]
    every = len(scan.needles)
    assert scan.allow(" ".join(centres).encode()) < every // 50
    store = LevelKeyValue(cluster.directory(HOME).queues_db)
    try:
        for device in DeviceTable(store).scan():
            scan.secret("a device's salt", device.salt)
            scan.secret("the seed of a device's noise", device.seed)
        for paired in PairingTable(store).scan():
            scan.text("a paired device's id", paired.device)
            scan.secret("a paired device's key", paired.offer.key)
            scan.secret("the seed of a paired device's noise", paired.offer.seed)
    finally:
        store.close()
    for number in cluster.numbers:
        for path in (cluster.directory(number).root / "keys").rglob("*"):
            if path.is_file():
                name_key_file(scan, f"the key {path.name} of node {number}", path)
    for path in AgentDirectory(agent.root).root.rglob("*.key"):
        name_key_file(scan, f"the agent's {path.name}", path)
    for path in cluster.parent.glob("client*/edgistry/**/identity.key"):
        keys = bytes.fromhex(path.read_text().splitlines()[-1])
        scan.secret("what a client signs with", keys[:32])
        scan.secret("what is sealed to a client", keys[32:])


def name_key_file(scan: LeakScan, what: str, path: Path) -> None:
    """Keys rest as bytes, or as lines of hexadecimal digits among remarks."""
    data = path.read_bytes()
    lines = [line for line in data.splitlines() if line and not line.startswith(b"#")]
    try:
        found = [bytes.fromhex(line.decode()) for line in lines]
    except ValueError:
        found = [data]
    for each in found:
        if len(each) == 32:
            scan.secret(what, each)


def search_files(scan: LeakScan, cluster: Cluster) -> None:
    """Logs of all nodes; databases and the engine's data of those that are no home."""
    epoch_keys = LeakScan()
    for number in cluster.numbers:
        directory = cluster.directory(number)
        for path in directory.logs_dir.rglob("*"):
            scan.search_file(path)
        scan.search_database(directory.registry_db)
        if number != HOME:
            scan.search_database(directory.queues_db)
            for path in (directory.root / "engine" / "data").rglob("*"):
                if path.is_file():
                    scan.search_file(path)
        store = LevelKeyValue(directory.queues_db)
        try:
            for key in EpochSecrets(store).keys.values():
                epoch_keys.secret("an epoch key", key)
        finally:
            store.close()
    # Every node has these; nobody else may.
    for number in cluster.numbers:
        directory = cluster.directory(number)
        for path in directory.logs_dir.rglob("*"):
            epoch_keys.search_file(path)
        epoch_keys.search_database(directory.registry_db)
    assert epoch_keys.needles
    scan.found |= epoch_keys.found


def check(count: int) -> None:
    with seen(count) as (cluster, scan):
        fleet = Fleet.of(count)
        assert scan.found == {}
        assert len(scan.needles) > 15 * count
        assert {"a paired device's key", "what a client signs with"} <= set(scan.needles.values())
        assert scan.searched_bytes > 100_000
        # The scan would have found something: it is there where it may be.
        own = LeakScan(needles=dict(scan.needles))
        own.search_database(cluster.directory(HOME).queues_db)
        assert {"a device's id", "a device's latitude", "a device's salt"} <= own.found.keys()
        # And where it may not be, had it been there.
        directory = cluster.directory(0)
        with (directory.logs_dir / "node.log").open("a") as log:
            log.write(f'{{"event": "moved", "to": [{fleet.rows[0].lat}, 126.7]}}\n')
        store = LevelKeyValue(directory.queues_db)
        store.write([(b"planted", encode((1, fleet.rows[1].lon)))], sync=True)
        store.close()
        search_files(scan, cluster)
        assert scan.found.keys() == {"a device's latitude", "a device's longitude"}


@pytest.mark.engine
def test_nothing_leaks_from_four_nodes_with_a_few_devices() -> None:
    check(12)


@pytest.mark.engine
@pytest.mark.soak
def test_nothing_leaks_from_four_nodes_with_a_thousand_devices() -> None:
    check(1000)
