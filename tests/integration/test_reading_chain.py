"""Readings from a device by way of its home node to a cloud host, while all three are killed.

The device puts a reading into a WooF for each call; the home node mirrors that WooF, and forwards
the mirror to the host. Every reading arrives once. So does what a handler at the home node makes of
each.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from abci_app.admin_client import AdminClient
from abci_app.config import PORTS_PER_NODE, ForwardConfig
from abci_app.mirror import mirror_name
from device_agent.config import AgentConfig, CycleConfig, HandlersConfig, RadioConfig
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.http import HttpClient
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.captext import danger_text
from edgistry.codec import encode_json
from edgistry.envelope import Operation
from edgistry.errors import NoEpochKeyError, Refused
from edgistry.requests_api import SubmitBody, to_text

from ..abci_app.hosts import LIMIT_S, HostProcess
from ..ports import reserve_ports
from .agents import AgentProcess, device_manifest
from .sleeping import NodeProcess

WOOF = "sensors/air"
KEYS = ClientKeys.generate()
CALLS_A_GRANT = 100
"""Nobody fetches these outcomes, and a node keeps 256 for one grant before it takes no more."""
CALLS_A_ROUND = 5
HANDLERS = """
from edgistry.handlers import handler

@handler(first_wait_s=0.1, longest_wait_s=0.5)
async def measure(context, woof, seq, element):
    await context.put("sensors/air", element)
    return b"done"
"""
NODE_HANDLERS = """
from edgistry.handlers import handler

@handler(for_devices=True, concurrency=1, first_wait_s=0.1, longest_wait_s=0.5)
def compare(context, woof, seq, element):
    newest = context.tail(woof, 1000)
    before = [each for number, each in newest if number == seq - 1]
    context.put("sensors/compared", b"%b after %b" % (element, *(before or [b"nothing"])))
"""
AIR = """
[[woof]]
name = "sensors/air"
history = 10000
mirror = true
"""
PLACED = """
handler = "compare"
place = "node"
[[result]]
name = "sensors/compared"
history = 10000
"""

CONFIG = AgentConfig(
    cycle=CycleConfig(period_s=1, any_period=True, shortest_sleep_s=0.1),
    radio=RadioConfig(first_wait_s=0.2, longest_wait_s=0.5),
    handlers=HandlersConfig(module="station"),
)

MANY_KILLS = pytest.mark.parametrize(
    "kills",
    [pytest.param(6, id="6-kills"), pytest.param(90, id="90-kills", marks=pytest.mark.soak)],
)

pytestmark = pytest.mark.engine


class Chain:
    """The three, connected."""

    def __init__(self, root: Path, base_port: int, *, is_placed: bool) -> None:
        self.forwarded = "sensors/compared" if is_placed else WOOF
        self.host = HostProcess(root / "cloud", base_port)
        self.node = NodeProcess(root / "home", base_port + PORTS_PER_NODE)
        manifest = (
            device_manifest("station", measure="history = 10000")
            + AIR
            + (PLACED if is_placed else "")
        )
        self.agent = AgentProcess(
            root / "device", config=CONFIG, manifest=manifest, handlers=HANDLERS
        )
        if is_placed:
            self._give_handlers()
        self.handle = ""
        self.sent = 0

    def begin(self) -> None:
        """Pair, connect, and wait until the service is listed."""
        self.host.start()
        with self.host.client() as client:
            client.create_namespace("cloud")
            client.create("cloud/air", history=100_000)
        self._forward()
        self.node.start()
        with AdminClient(self.node.layout) as admin:
            (code,) = admin.pair_codes(1, ttl_s=600, replace=False).codes
        self.agent.pair(self.node.url, code)
        self.agent.start()
        self.host.until(self._is_listed, "the service's listing")

    def _give_handlers(self) -> None:
        layout = self.node.layout
        (layout.root / "handlers").mkdir(exist_ok=True)
        (layout.root / "handlers" / "placed_here.py").write_text(NODE_HANDLERS)
        text = layout.config_file.read_text()
        changed = re.sub(r'(?m)^module = ""$', 'module = "placed_here"', text, count=1)
        assert changed != text
        layout.config_file.write_text(changed)

    def _forward(self) -> None:
        file = self.node.layout.root / "cloud.cap"
        file.touch(mode=0o600)
        file.write_text(danger_text(self.host.mint("cloud/air")))
        config = ForwardConfig(
            woof=mirror_name(self.agent.id, self.forwarded),
            to=f"woof://127.0.0.1:{self.host.port}/cloud/air",
            capability_file=str(file),
        )
        self.node.forward(config)

    def _is_listed(self) -> bool:
        with (
            contextlib.suppress(NoEpochKeyError),
            BlockingNodeClient(self.node.url, keys=KEYS) as client,
        ):
            for service in client.services(near=(46.0, 8.0), radius_km=20.0):
                self.handle = service.handle
                return True
        return False

    def call(self, count: int) -> None:
        """Have so many readings taken; returns when the node has queued them."""
        for _ in range(count):
            self.sent += 1
            asyncio.run(self._submit(b"reading %d" % self.sent))

    async def _submit(self, reading: bytes) -> None:
        now_us = time.time_ns() // 1000
        request = self.agent.issuer.mint(serial=99 + self.sent // CALLS_A_GRANT).bind(
            Operation.PUT,
            "station/measure",
            reading,
            handler="measure",
            client=KEYS.id,
            sequence=now_us,
            deadline=now_us + 3_600_000_000,
        )
        body = encode_json(
            SubmitBody(
                handle=self.handle,
                envelope=to_text(request.encoded),
                idempotency_key=to_text(reading),
                fetch_hash=to_text(bytes(32)),
            )
        )
        async with HttpClient(self.node.url, timeout_s=5.0) as http:
            deadline = time.monotonic() + LIMIT_S
            while True:
                try:
                    answer = await http.request("POST", "/v1/requests", body=body)
                    if answer.status in (200, 202):
                        return
                    # The client's share is 16; the device has to catch up first.
                    assert answer.status in (429, 503), answer
                except Refused:
                    pass
                assert time.monotonic() < deadline, f"it does not get through; {self.last_words()}"
                await asyncio.sleep(0.1)

    def last_words(self) -> str:
        """What the device and its node have said last."""
        return f"{self.agent.last_words()}\n{self.node.last_words()}"

    def arrived(self) -> list[bytes]:
        """What is in the cloud."""
        with self.host.client() as client:
            return [element for _, element in client.scan("cloud/air", 1)]


@pytest.fixture
def is_placed() -> bool:
    return False


@pytest.fixture
def chain(is_placed: bool) -> Iterator[Chain]:
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="edg", dir="/tmp"))
        ports = reserve_ports(2)
        stack.callback(ports.release)
        chain = Chain(Path(root), ports.base, is_placed=is_placed)
        stack.enter_context(chain.host)
        stack.enter_context(chain.node)
        stack.callback(chain.agent.kill)
        yield chain


@MANY_KILLS
def test_every_reading_reaches_the_cloud_once_however_often_any_of_the_three_is_killed(
    chain: Chain, kills: int
) -> None:
    found = arrived_in_spite_of(kills, chain)
    assert sorted(found) == sorted(b"reading %d" % each for each in range(1, chain.sent + 1))
    assert found == chain.agent.elements(WOOF), "in the order in which they were taken"


@MANY_KILLS
@pytest.mark.parametrize("is_placed", [True])
def test_handler_at_the_home_node_runs_once_on_each_reading_however_often_any_is_killed(
    chain: Chain, kills: int
) -> None:
    found = arrived_in_spite_of(kills, chain)
    taken = [b"nothing", *chain.agent.elements(WOOF)]
    assert len(taken) == chain.sent + 1
    # One that a kill had interrupted waits, and others go before it.
    assert sorted(found) == sorted(
        b"%b after %b" % (reading, before) for before, reading in pairwise(taken)
    )


def arrived_in_spite_of(kills: int, chain: Chain) -> list[bytes]:
    """What is in the cloud when readings were taken while one or another was killed so often."""
    chance = Random(kills)
    chain.begin()
    for number in range(kills):
        victim = (chain.agent, chain.node, chain.host)[number % 3]
        chain.call(chance.randrange(CALLS_A_ROUND))
        time.sleep(chance.uniform(0.0, 1.5))
        victim.kill()
        victim.start()
        chain.call(1)
    chain.host.until(lambda: len(chain.arrived()) >= chain.sent, "the last reading")
    return chain.arrived()
