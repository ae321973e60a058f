"""A node's desks over a store in memory, with one paired device that executes for real."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from abci_app.asked import Asked
from abci_app.epoch_keys import EpochKeys
from abci_app.exchange_desk import ExchangeDesk
from abci_app.http_requests import PublicExchange, PublicRequests, device_handlers
from abci_app.http_server import public_routes
from abci_app.mailbox_records import MailboxLimits
from abci_app.mailbox_writer import MailboxWriter
from abci_app.metrics import NodeMetrics
from abci_app.own_requests import OwnRequestDesk
from abci_app.pairing import Paired, StoredPairing, node_capability
from abci_app.request_desk import RequestDesk
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import HttpServer
from edgistry.authority import Authority
from edgistry.capability import BoundRequest, Capability
from edgistry.capability_chain import Entry
from edgistry.envelope import Operation, Reply, Status
from edgistry.issuer import Issuer
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.messages import (
    ExchangeDown,
    ExchangeUp,
    RequestResult,
    ResultKind,
    decode_down,
    encode_up,
)
from edgistry.pairing import ActionOffer, PairingOffer, ServiceOffer, device_object
from edgistry.policy import PrivacyPolicy
from edgistry.replay import Outcome
from edgistry.requests_api import to_bytes
from edgistry.rights import Right
from edgistry.verifier import Checked
from tests.fake_node import FakeNode, FakeWoofs
from tests.handle_world import epoch_keys

NOW = 1_750_000_000_000_000
SECOND = 1_000_000
HOUR = 3600 * SECOND
DEVICE = "a" * 26
SERVICE_KEY = b"record key......"
SERVICE = ServiceOffer(
    type="thermometer",
    actions=(ActionOffer(name="read", read=True, fresh_s=600),),
)
NODE = Issuer.from_secret(b"n" * 32, epoch=0)
DEVICE_ISSUER = Issuer.from_secret(b"d" * 32, epoch=1)
CLIENT = b"client-1"
FETCH_KEY = b"fetch key"
GRANT = DEVICE_ISSUER.mint(
    serial=77, entries=(Entry(Right.PUT | Right.INVOKE | Right.GET, "thermometer/read"),)
)
PAIRED = Paired(
    device=DEVICE,
    issuer=DEVICE_ISSUER,
    serial=5,
    stored=StoredPairing(
        offer=PairingOffer(
            version=2,
            device=DEVICE,
            epoch=1,
            key=DEVICE_ISSUER.danger_key(),
            name="hut",
            lat=46.0,
            lon=8.0,
            cell=0,
            moves=0,
            policy=PrivacyPolicy(),
            seed=bytes(32),
            owner=b"",
            period_s=600,
            services=(SERVICE,),
        ),
        serial=5,
        paired_us=NOW,
    ),
)


class FakePairings:
    """Implements ``Pairings``."""

    def __init__(self) -> None:
        self.paired: Paired | None = PAIRED
        self.service = SERVICE
        self.is_listed = True

    def by_device(self, device: str) -> Paired | None:
        return self.paired if self.paired and device == self.paired.device else None

    def by_record(self, key: bytes) -> tuple[Paired, ServiceOffer] | None:
        is_found = self.is_listed and key == SERVICE_KEY
        return (self.paired, self.service) if self.paired and is_found else None


class RealDevice:
    """A device that polls with its capability, and executes with its own authority."""

    def __init__(self, desks: Desks, *, instance: bytes = b"agent..1") -> None:
        self.desks = desks
        self.instance = instance
        self.capability: Capability = node_capability(NODE, PAIRED)
        self.authority = Authority(MemoryKeyValue(), DEVICE_ISSUER)
        self.counter = 0
        self.results: list[RequestResult] = []
        self.executed: list[bytes] = []

    def request(self, **more: Any) -> BoundRequest:
        """An exchange, bound and not sent."""
        self.counter += 1
        payload = more.pop("payload", None)
        fields: dict[str, Any] = {
            "version": 1,
            "instance": self.instance,
            "counter": self.counter,
            "want_count": 16,
            "want_bytes": 1 << 20,
            "results": tuple(self.results),
            "settled": self.counter - 1,
            **more,
        }
        now_us = self.desks.now_us
        return self.capability.bind(
            Operation.EXCHANGE,
            device_object(DEVICE),
            payload=encode_up(ExchangeUp(**fields)) if payload is None else payload,
            client=bytes(8),
            sequence=now_us + self.counter,
            deadline=now_us + 60 * SECOND,
        )

    async def exchange(self, *, wait_s: float = 0, **more: Any) -> ExchangeDown:
        """One exchange; what came down, proven."""
        request = self.request(**more)
        reply = request.open_reply(
            await self.desks.exchanges.answer(request.encoded, wait_s=wait_s)
        )
        assert reply.status == Status.OK, reply.status
        down = decode_down(reply.payload)
        self.results = [each for each in self.results if each.request_id not in down.confirmed]
        return down

    def execute(self, down: ExchangeDown) -> None:
        """Execute what came down, and have its replies for the next exchange."""
        for each in down.requests:
            reply = self.authority.answer(each.envelope, self._read, now_us=self.desks.now_us)
            self.results.append(
                RequestResult(
                    request_id=each.request_id, kind=int(ResultKind.RESPONDED), reply=reply
                )
            )

    def _read(self, checked: Checked) -> Outcome:
        self.executed.append(checked.envelope.payload)
        return Outcome(payload=b"21.5", result=len(self.executed))

    async def wake(self, **more: Any) -> None:
        """Fetch, execute, report."""
        self.execute(await self.exchange(**more))
        await self.exchange(**{**more, "want_count": 0})


@dataclass
class Desks:
    """The desks, and the clock that they read."""

    store: KeyValue
    woofs: DurableWoofs
    writer: MailboxWriter
    requests: RequestDesk
    own: OwnRequestDesk
    exchanges: ExchangeDesk
    pairings: FakePairings
    now_us: int = NOW
    device: RealDevice = field(init=False)
    _asked: int = 0

    def __post_init__(self) -> None:
        self.device = RealDevice(self)

    def bind(self, capability: Capability = GRANT, **more: Any) -> BoundRequest:
        """A request to read, for an hour."""
        self._asked += 1
        fields: dict[str, Any] = {
            "payload": b"please",
            "handler": "read",
            "client": CLIENT,
            "sequence": self.now_us + self._asked,
            "deadline": self.now_us + HOUR,
            **more,
        }
        return capability.bind(Operation.PUT, "thermometer/read", **fields)

    def asked(self, request: BoundRequest, **more: Any) -> Asked:
        fields: dict[str, Any] = {
            "service": SERVICE_KEY,
            "envelope": request.encoded,
            "idempotency_key": b"key %d" % self._asked,
            "fetch_hash": hashlib.sha256(FETCH_KEY).digest(),
            **more,
        }
        return Asked(**fields)

    async def submit(self, request: BoundRequest, **more: Any) -> bytes:
        """Queue it; its id."""
        answer, _ = await self.requests.submit(self.asked(request, **more))
        return text_bytes(answer.id)

    async def outcome(self, request: BoundRequest, number: bytes) -> Reply:
        """The proven reply to ``request``."""
        answer = await self.requests.fetch(number, FETCH_KEY)
        assert answer.reply is not None
        return request.open_reply(text_bytes(answer.reply))


def text_bytes(text: str) -> bytes:
    return to_bytes(text, "test")


def server_of(
    requests: PublicRequests, exchanges: PublicExchange, keys: EpochKeys | None = None
) -> HttpServer:
    """The public server of a node that has these desks, and is made up otherwise."""
    return HttpServer(
        public_routes(
            FakeNode(),
            FakeWoofs(),
            version="1",
            metrics=NodeMetrics(),
            devices=device_handlers(requests, exchanges, keys or epoch_keys()),
        )
    )


@contextlib.asynccontextmanager
async def desks(store: KeyValue | None = None, **limits: Any) -> AsyncIterator[Desks]:
    """The desks over ``store``, with a hand-wound clock."""
    kept = store if store is not None else MemoryKeyValue()
    woofs = DurableWoofs(kept)
    writer = MailboxWriter(
        kept, woofs.committer, limits=MailboxLimits(**limits), clock_us=lambda: world.now_us
    )
    pairings = FakePairings()
    authority = Authority(kept, NODE)
    requests = RequestDesk(writer, pairings, authority.guard)
    world = Desks(
        store=kept,
        woofs=woofs,
        writer=writer,
        requests=requests,
        own=OwnRequestDesk(writer, pairings, requests.keys),
        exchanges=ExchangeDesk(writer, pairings, authority),
        pairings=pairings,
    )
    try:
        yield world
    finally:
        await woofs.close()
