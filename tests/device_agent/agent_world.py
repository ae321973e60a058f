"""An agent with a clock wound by hand, and a made-up node that it can talk to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from device_agent.agent import Agent, Batch, Connected
from device_agent.homes import Home
from device_agent.link import Answer
from device_agent.runtime import Habits
from device_agent.tally import Wake
from edgistry.authority import Authority
from edgistry.capability import BoundRequest
from edgistry.capability_chain import Entry
from edgistry.errors import CannotReachError
from edgistry.issuer import Issuer
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.messages import (
    MESSAGES_VERSION,
    ExchangeDown,
    ExchangeUp,
    RequestResult,
    ResultKind,
    decode_up,
    encode_down,
)
from edgistry.pairing import device_object, encode_device_id
from edgistry.replay import Outcome
from edgistry.rights import Right
from edgistry.verifier import Checked

from .device_world import NOW_US, Inside, down, inside

DEVICE = encode_device_id(bytes(range(16)))
WAKE_KEY = b"w" * 32
MAX_STEPS = 10_000


class HandClock:
    """Time passes only where somebody waits for it, and then at once.

    But first whatever is being worked on is finished, unless that takes longer than
    ``patience_s`` in the real world.
    """

    def __init__(self, *, wall_us: int = NOW_US) -> None:
        self.s = 1000.0
        self.start_wall_us = wall_us
        self.patience_s = 20.0
        self.is_busy: Callable[[], bool] = lambda: False

    def now_s(self) -> float:
        return self.s

    def wall_us(self) -> int:
        return self.start_wall_us + round((self.s - 1000.0) * 1_000_000)

    async def sleep_until(self, until_s: float) -> None:
        give_up_s = time.monotonic() + self.patience_s
        while self.is_busy() and time.monotonic() < give_up_s:  # noqa: ASYNC110 - in a thread
            await asyncio.sleep(0.001)
        # Who waits for the work, and not for the time, goes on first.
        for _ in range(20):
            await asyncio.sleep(0)
        self.s = max(self.s, until_s)


@dataclass
class MadeUpNode:
    """A node with a real authority, whose mailbox is a dict: everything at most once, in order."""

    name: str = "node"
    clock: HandClock = field(default_factory=HandClock)
    ahead_us: int = 0
    """How far its clock is ahead of the true time."""
    queue: dict[int, BoundRequest] = field(default_factory=dict)
    results: dict[int, RequestResult] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    ups: list[ExchangeUp] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    """How long it was asked to hold its answers."""
    hint_s: int = 0
    is_down: bool = False
    is_deaf: bool = False
    """Executes what it gets; its answers are lost."""
    closed: int = 0
    confirms: bool = True
    holds_s: float = 0.0
    """How long it holds an exchange that may be held."""
    says_us: int | None = None
    """The time that it tells instead of its own."""
    epoch_ends_us: int = 0
    """Of the privacy epoch; it knows of none."""
    pushes: int = 0
    """Hands down so many requests, whatever the device wants."""

    def __post_init__(self) -> None:
        seed = hashlib.sha256(self.name.encode()).digest()
        self.issuer = Issuer.from_secret(seed, epoch=0)
        self.authority = Authority(MemoryKeyValue(), self.issuer)
        capability = self.issuer.mint(
            serial=9,
            entries=[
                Entry(Right.PUT | Right.GET | Right.LATEST | Right.POLL, device_object(DEVICE))
            ],
        )
        self.home = Home(id=seed[:20], url=f"http://{self.name}", capability=capability)

    @property
    def now_us(self) -> int:
        return NOW_US + round((self.clock.s - 1000.0) * 1_000_000) + self.ahead_us

    async def post(self, body: bytes, *, wait_s: int, timeout_s: float) -> Answer:
        self.waits.append(wait_s)
        if self.is_down:
            raise CannotReachError(f"cannot reach {self.name}")
        if wait_s:
            self.clock.s += min(self.holds_s, wait_s)
        reply = self.authority.answer(body, self.exchange, now_us=self.now_us)
        if self.is_deaf:
            raise CannotReachError(f"the connection to {self.name} broke")
        return Answer(reply=reply, sent=len(body), received=len(reply))

    async def close(self) -> None:
        self.closed += 1

    def exchange(self, checked: Checked) -> Outcome:
        up = decode_up(checked.envelope.payload)
        self.ups.append(up)
        for result in up.results:
            number = int.from_bytes(result.request_id, "big")
            if result.kind == ResultKind.ACKNOWLEDGED:
                self.acknowledged.add(number)
            else:
                self.results[number] = result
        waiting = [
            number
            for number in self.queue
            if number not in self.results and number not in self.acknowledged
        ]
        taken = waiting[: max(up.want_count, self.pushes)]
        answer = ExchangeDown(
            version=MESSAGES_VERSION,
            now_us=self.now_us if self.says_us is None else self.says_us,
            next_wake_s=self.hint_s,
            more=len(waiting) > len(taken),
            requests=tuple(down(self.queue[number], number) for number in taken),
            confirmed=tuple(each.request_id for each in up.results if self.confirms),
            epoch_ends_us=self.epoch_ends_us,
        )
        return Outcome(payload=encode_down(answer))

    def payload(self, number: int) -> bytes:
        """What the device answered to request ``number``, proven."""
        return self.queue[number].open_reply(self.results[number].reply).payload

    def status(self, number: int) -> int:
        return self.queue[number].open_reply(self.results[number].reply).status


@dataclass
class Running:
    agent: Agent
    inner: Inside
    clock: HandClock
    wakes: list[Wake]

    async def wake_up(self) -> Wake:
        """Run until one more wake is over."""
        count = len(self.wakes)
        for _ in range(MAX_STEPS):
            await self.agent._step()
            if len(self.wakes) > count:
                return self.wakes[-1]
        raise AssertionError("the device did not come to rest")


@contextlib.asynccontextmanager
async def device(
    *nodes: MadeUpNode,
    handlers: tuple[Callable[..., object], ...] = (),
    habits: Habits | None = None,
    batch: Batch | None = None,
    clock: HandClock | None = None,
    store: KeyValue | None = None,
    instance: bytes = b"instance",
) -> AsyncIterator[Running]:
    """A device that is paired with ``nodes``; they share its true time."""
    hand = clock or HandClock()
    wakes: list[Wake] = []
    for node in nodes:
        node.clock = hand
    async with inside(*handlers, store=store) as inner:
        hand.is_busy = lambda: inner.executor.is_at_work
        agent = Agent(
            DEVICE,
            [Connected(home=node.home, link=node) for node in nodes],
            inner.executor,
            habits=habits or Habits(),
            batch=batch or Batch(),
            clock=hand,
            instance=instance,
            wake_key=WAKE_KEY,
            spread=lambda: 0.0,
            on_wake=wakes.append,
        )
        yield Running(agent, inner, hand, wakes)
