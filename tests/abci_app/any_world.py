"""A node with several devices of one type at home, which chooses among them for its clients.

Everything is real but the registry and the devices' sleep: they wake when a test says so.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from abci_app.any_desk import AnycastDesk
from abci_app.any_grants import AnyGrantDesk, AnyGrants
from abci_app.choices import Choices
from abci_app.config_guards import GrantsConfig
from abci_app.discovery import ServiceIndex
from abci_app.epoch_keys import EpochKeys
from abci_app.exchange_desk import ExchangeDesk
from abci_app.grants import GrantDesk
from abci_app.http_any import ChosenRequests, any_handlers
from abci_app.http_requests import device_handlers
from abci_app.http_server import public_routes
from abci_app.mailbox_records import MailboxLimits
from abci_app.mailbox_writer import MailboxWriter
from abci_app.memberships import Memberships
from abci_app.metrics import NodeMetrics
from abci_app.pairing import Paired, StoredPairing, node_capability
from abci_app.profiles import Listed, Profile
from abci_app.request_desk import RequestDesk
from abci_app.schema import EpochStates, StoredService
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import HttpServer
from edgistry.api import Area, CellArea
from edgistry.authority import Authority
from edgistry.codec import replace
from edgistry.cover import Cover
from edgistry.envelope import Operation, Status
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.messages import ExchangeUp, RequestResult, ResultKind, decode_down, encode_up
from edgistry.pairing import ActionOffer, ServiceOffer, device_object
from edgistry.region import cover_cell, parse_cell
from edgistry.replay import Outcome
from edgistry.transactions import NodeId
from edgistry.verifier import Checked
from tests.fake_node import FakeNode, FakeWoofs

from .desk_world import NODE, PAIRED, SECOND

HOME = NodeId(b"h" * 20)
AREA = "87283082bffffff"
SERVICE = ServiceOffer(
    type="valve",
    actions=(
        ActionOffer(name="read", read=True),
        ActionOffer(name="open"),
    ),
)
EPOCH_KEY = b"k" * 32


def record_of(number: int) -> bytes:
    return b"record key ..%03d" % number


def epoch_keys(number: int = 7) -> EpochKeys:
    """A node's keys, in epoch ``number``."""
    keys = EpochKeys()
    enter(keys, number)
    return keys


def enter(keys: EpochKeys, number: int) -> None:
    """The epoch ``number`` begins; each has a key of its own."""
    keys.put({number: bytes([number]) * 32}, EpochStates(number, None, None, None), epoch_us=1)


class OneOfMany:
    """A device that sleeps until it is told to wake."""

    def __init__(self, number: int) -> None:
        self.id = "a" * 24 + chr(ord("a") + number // 26) + chr(ord("a") + number % 26)
        self.record = record_of(number)
        self.issuer = Issuer.from_secret(bytes([number]) * 32, epoch=1)
        offer = replace(
            PAIRED.stored.offer,
            device=self.id,
            key=self.issuer.danger_key(),
            services=(SERVICE,),
        )
        self.paired = Paired(
            device=self.id,
            issuer=self.issuer,
            serial=number + 1,
            stored=StoredPairing(offer=offer, serial=number + 1, paired_us=1),
        )
        self.authority = Authority(MemoryKeyValue(), self.issuer)
        self.executed: list[str] = []
        self._counter = 0
        self._results: list[RequestResult] = []

    async def exchange(self, exchanges: ExchangeDesk, now_us: int, *, want: int = 16) -> None:
        """Report, and fetch and carry out what there is."""
        self._counter += 1
        up = ExchangeUp(
            version=1,
            instance=b"agent.01",
            counter=self._counter,
            want_count=want,
            want_bytes=1 << 20,
            results=tuple(self._results),
            settled=self._counter - 1,
        )
        request = node_capability(NODE, self.paired).bind(
            Operation.EXCHANGE,
            device_object(self.id),
            payload=encode_up(up),
            client=bytes(8),
            sequence=now_us + self._counter,
            deadline=now_us + 60 * SECOND,
        )
        reply = request.open_reply(await exchanges.answer(request.encoded))
        assert reply.status == Status.OK, reply.status
        down = decode_down(reply.payload)
        self._results = [each for each in self._results if each.request_id not in down.confirmed]
        for each in down.requests:
            answer = self.authority.answer(each.envelope, self._carry_out, now_us=now_us)
            self._results.append(
                RequestResult(
                    request_id=each.request_id, kind=int(ResultKind.RESPONDED), reply=answer
                )
            )

    def _carry_out(self, checked: Checked) -> Outcome:
        self.executed.append(checked.envelope.target)
        return Outcome(payload=self.id.encode(), result=len(self.executed))


class ManyPairings:
    """Implements ``Pairings``."""

    def __init__(self, devices: list[OneOfMany]) -> None:
        self._devices = devices

    def by_device(self, device: str) -> Paired | None:
        return next((each.paired for each in self._devices if each.id == device), None)

    def by_record(self, key: bytes) -> tuple[Paired, ServiceOffer] | None:
        for each in self._devices:
            if each.record == key:
                return each.paired, SERVICE
        return None


class CellListing:
    """Implements ``Listing`` for cells."""

    def __init__(self, index: ServiceIndex) -> None:
        self.index = index
        self.covered = 0

    async def cover(self, area: Area) -> Cover:
        assert isinstance(area, CellArea)
        self.covered += 1
        return cover_cell(parse_cell(area.cell))


def stored(home: bytes = HOME, **changes: Any) -> StoredService:
    fields: dict[str, Any] = {
        "home": home,
        "type": "valve",
        "cell": parse_cell(AREA),
        "actions": ("read", "open"),
        "wake": 0,
        "commitment": bytes(32),
        "owner": bytes(8),
        "crowd": 1,
        **changes,
    }
    return StoredService(**fields)


def listed(service: StoredService) -> Listed:
    return Listed(service.cell, Profile.of(service))


@dataclass
class AnyWorld:
    """The node; ``at`` is its address."""

    devices: list[OneOfMany]
    registry: dict[bytes, StoredService]
    index: ServiceIndex
    keys: EpochKeys
    choices: Choices
    desk: AnycastDesk
    writer: MailboxWriter
    exchanges: ExchangeDesk
    at: str = ""
    now_us: int = field(default_factory=lambda: time.time_ns() // 1000)

    def device_of(self, record: bytes) -> OneOfMany:
        return next(each for each in self.devices if each.record == record)

    async def wake(self, *numbers: int) -> None:
        """These devices carry out what there is for them, and say so."""
        for number in numbers:
            device = self.devices[number]
            await device.exchange(self.exchanges, self.now_us)
            await device.exchange(self.exchanges, self.now_us, want=0)

    @property
    def executed(self) -> list[tuple[int, str]]:
        return [
            (number, target)
            for number, device in enumerate(self.devices)
            for target in device.executed
        ]


@contextlib.asynccontextmanager
async def any_world(
    devices: int = 3,
    *,
    policy: GrantsConfig | None = None,
    local: AnyGrants | None = None,
    links: Mapping[NodeId, Any] | None = None,
    **limits: int,
) -> AsyncIterator[AnyWorld]:
    """A node that listens, with so many devices, and ``links`` to others."""
    kept = MemoryKeyValue()
    woofs = DurableWoofs(kept)
    writer = MailboxWriter(
        kept, woofs.committer, limits=MailboxLimits(**limits), clock_us=lambda: world.now_us
    )
    made = [OneOfMany(number) for number in range(devices)]
    pairings = ManyPairings(made)
    authority = Authority(kept, NODE)
    requests = RequestDesk(writer, pairings, authority.guard)
    exchanges = ExchangeDesk(writer, pairings, authority)
    registry = {device.record: stored() for device in made}
    index = ServiceIndex()
    index.rebuild((record, listed(service)) for record, service in registry.items())
    keys = epoch_keys()
    grants = GrantDesk(pairings, policy or GrantsConfig(anyone="all"), keys)
    choices = Choices()
    desk = AnycastDesk(
        Memberships(CellListing(index), is_visible=lambda _: True, seed=b"s" * 32),
        choices,
        node_id=HOME,
        keys=keys,
        find=registry.get,
        is_visible=lambda _: True,
        local=local or AnyGrantDesk(grants),
        links=links or {},
    )
    world = AnyWorld(
        devices=made,
        registry=registry,
        index=index,
        keys=keys,
        choices=choices,
        desk=desk,
        writer=writer,
        exchanges=exchanges,
    )
    handlers = {
        **device_handlers(ChosenRequests(requests, choices), exchanges, keys),
        **any_handlers(desk),
    }
    server = HttpServer(
        public_routes(FakeNode(), FakeWoofs(), version="1", metrics=NodeMetrics(), devices=handlers)
    )
    try:
        world.at = f"http://127.0.0.1:{await server.listen_tcp('127.0.0.1', 0)}"
        yield world
    finally:
        await server.stop(grace_s=0)
        await woofs.close()
