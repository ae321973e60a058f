"""A node that pairs, and devices that are paired: real tables, authorities and registry, with
clocks and randomness in the test's hands."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

from abci_app.device_setup import DeviceSetup
from abci_app.mailbox_states import State
from abci_app.pairing_desk import PairingDesk
from edgistry.adapters.crypto import public_key_of
from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.codec import replace
from edgistry.envelope import Operation, Status
from edgistry.errors import InvalidValueError, NotFoundError
from edgistry.handlers import HandlerTable
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.pairing import (
    UNPAIR,
    ActionOffer,
    PairingAnswer,
    PairingOffer,
    PairingRequest,
    ServiceOffer,
    device_object,
    encode_device_id,
)
from edgistry.policy import PrivacyPolicy
from edgistry.replay import Outcome
from edgistry.verifier import Checked

from .solo_node import NODE_ID, SEED, SoloNode, open_solo

NODE_SECRET = b"n" * 32
READ = ActionOffer(name="read", history=10, read=True)
OPEN = ActionOffer(name="open", history=5, element_size=1)


class Draw:
    """Bytes that never repeat, and are the same in every run."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size, "big")


class FakeDevice:
    """A device of which only the authority is real."""

    def __init__(self, number: int = 1, *, epoch: int = 1) -> None:
        self.id = encode_device_id(bytes([number]) * 16)
        self.secret = bytes([number]) * 32
        self.epoch = epoch
        self.authority = Authority(
            MemoryKeyValue(), Issuer.from_secret(self.secret, epoch=epoch), label=self.id.encode()
        )
        self.done: list[tuple[int, str, bytes]] = []
        self.status = Status.OK

    def offer(self, **changes: object) -> PairingOffer:
        plain = PairingOffer(
            version=2,
            device=self.id,
            epoch=self.epoch,
            key=Issuer.from_secret(self.secret, epoch=self.epoch).danger_key(),
            name="hut",
            lat=46.0,
            lon=8.0,
            cell=0,
            moves=0,
            policy=PrivacyPolicy(),
            seed=hashlib.sha256(b"noise of" + self.secret).digest(),
            owner=b"",
            period_s=600,
            services=(
                ServiceOffer(type="thermometer", actions=(READ,)),
                ServiceOffer(type="valve", actions=(OPEN, READ)),
            ),
        )
        return replace(plain, **changes)

    def execute(self, envelope: bytes, now_us: int) -> bytes:
        def note(checked: Checked) -> Outcome:
            found = checked.envelope
            self.done.append((found.op, found.target, found.payload))
            return Outcome(status=self.status)

        return self.authority.answer(envelope, note, now_us=now_us)


class FakeQueue:
    """A mailbox without limits, for one request after the other."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, tuple[str, bytes]] = {}
        self.replies: dict[bytes, bytes] = {}
        self.given: dict[bytes, int] = {}
        self.forgotten: list[str] = []
        self.refuse = False

    async def submit_own(self, device: str, envelope: bytes, *, idempotency_key: bytes) -> bytes:
        if self.refuse:
            raise InvalidValueError("full")
        self.waiting[idempotency_key] = (device, envelope)
        return idempotency_key

    def outcome_of(self, request: bytes) -> tuple[State, bytes | None]:
        if request in self.waiting:
            return State.QUEUED, None
        if request in self.replies:
            return State.RESPONDED, self.replies[request]
        raise NotFoundError("no such request")

    def given_us(self, request: bytes) -> int:
        return self.given[request]

    async def let_go(self, request: bytes) -> None:
        del self.replies[request]

    async def forget_device(self, device: str) -> None:
        self.forgotten.append(device)
        self.waiting = {key: each for key, each in self.waiting.items() if each[0] != device}

    def serve(self, device: FakeDevice, now_us: int, *, most: int = 1000) -> None:
        """The device takes up to ``most`` requests and answers them."""
        mine = [key for key, (whose, _) in self.waiting.items() if whose == device.id]
        for key in mine[:most]:
            _, envelope = self.waiting.pop(key)
            self.replies[key] = device.execute(envelope, now_us)
            self.given[key] = now_us


@dataclass
class PairingWorld:
    node: SoloNode
    store: MemoryKeyValue
    authority: Authority
    queue: FakeQueue
    setup: DeviceSetup
    desk: PairingDesk
    draw: Draw = field(default_factory=Draw)

    @property
    def now_us(self) -> int:
        return self.node.clock.now_us

    async def pair(self, device: FakeDevice, **changes: object) -> PairingAnswer:
        code, _ = await self.desk.new_code(ttl_s=600)
        return await self.desk.pair(
            PairingRequest(secret=code.secret, offer=device.offer(**changes))
        )

    async def make_ready(self, device: FakeDevice) -> None:
        """Pair ``device``, let it answer the set-up, and publish its services."""
        await self.pair(device)
        await self.set_up(device)

    async def set_up(self, device: FakeDevice) -> None:
        await self.setup.step(device.id)
        self.queue.serve(device, self.now_us)
        await self.setup.step(device.id)
        await self.node.settle()

    async def listed(self) -> list[tuple[str, str]]:
        """Types and wake buckets of what clients find, in order of types."""
        answer = await self.node.near(46.0, 8.0)
        return sorted((service.type, service.wake) for service in answer.services)

    def stage(self, device: FakeDevice) -> str | None:
        paired = self.desk.table.by_device(device.id)
        return None if paired is None else paired.stored.stage

    def leave(self, answer: PairingAnswer, *, payload: bytes = UNPAIR, device: str = "") -> bytes:
        """A device's envelope that asks to leave."""
        capability = Capability.from_bytes(answer.capability)
        return capability.bind(
            Operation.PUT,
            device_object(device or answer.device),
            payload,
            client=bytes(8),
            sequence=self.now_us,
            deadline=self.now_us + 60_000_000,
        ).encoded


async def open_world(
    store: MemoryKeyValue | None = None,
    registry: MemoryKeyValue | None = None,
    *,
    queue: FakeQueue | None = None,
    draw: Draw | None = None,
    handlers: HandlerTable | None = None,
) -> PairingWorld:
    """A node with nothing paired, or with what is in ``store`` and ``registry``."""
    store = store or MemoryKeyValue()
    node = await open_solo(registry or MemoryKeyValue(), store)
    authority = Authority.from_secret(store, NODE_SECRET)
    queue, draw, writing = queue or FakeQueue(), draw or Draw(), asyncio.Lock()
    setup = DeviceSetup(
        store,
        queue=queue,
        registrar=node.service.registrar,
        node_id=NODE_ID,
        writing=writing,
        clock_us=node.clock.wall_us,
        draw=draw,
        look_every_s=0.01,
    )
    desk = PairingDesk(
        store,
        authority=authority,
        followers=setup,
        node_name="solo",
        node_key=public_key_of(SEED),
        link_port=27003,
        writing=writing,
        require_handler=(handlers or HandlerTable()).require_for_devices,
        clock_us=node.clock.wall_us,
        draw=draw,
    )
    return PairingWorld(node, store, authority, queue, setup, desk, draw)
