"""Requests through another node while messages are lost and both nodes restart at random."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field

import pytest

from edgistry.capability import BoundRequest
from edgistry.envelope import BY_NODE, Status
from edgistry.errors import Refused
from edgistry.kv import MemoryKeyValue
from edgistry.requests_api import RequestAnswer

from .desk_world import HOUR, Desks, RealDevice, text_bytes
from .peer_world import Nodes, nodes

SEEDS = [
    *range(3),
    *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1000, 1100)),
]
ROUNDS = 6
CALLS = 4
DELIVERED = 0.3


@dataclass
class Asked:
    """A call as its client remembers it."""

    request: BoundRequest
    answer: RequestAnswer
    payload: bytes
    cancelled: bool = False
    ends: set[tuple[str, str | None]] = field(default_factory=set)
    """What the client was told in the end."""


class Story:
    """What happens to two nodes, a device and a client, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.store, self.home_store = MemoryKeyValue(), MemoryKeyValue()
        self.device: RealDevice | None = None
        self.now_us: int | None = None
        self.calls: list[Asked] = []
        self.numbers = 0

    async def round(self, *, calm: bool = False) -> None:
        """Both nodes run for a while, from what is in their stores."""
        parts = nodes(self.store, home_store=self.home_store, now_us=self.now_us)
        async with parts as world:
            self._bring_device(world.home)
            for _ in range(12):
                await self._something(world, calm=calm)
            self.now_us = world.home.now_us + 1_000_000

    def _bring_device(self, home: Desks) -> None:
        if self.device is not None:
            old = self.device
            new = home.device
            new.authority, new.results, new.executed = old.authority, old.results, old.executed
            new.counter = old.counter
        self.device = home.device
        home._asked = self.numbers

    async def _something(self, world: Nodes, *, calm: bool) -> None:
        draw = self.draw
        world.way.is_cut = not calm and draw.random() < 0.4
        world.way.lose_answers = 0 if calm else int(draw.random() < 0.4)
        await world.passes(draw.choice([0.1, 1.0, 5.0]))
        with contextlib.suppress(Refused):
            await world.step()
        if not calm and draw.random() < 0.5:
            await self._call(world)
        for each in self.calls:
            await self._ask(world, each)
        if calm or draw.random() < 0.4:
            await world.home.device.wake()
        self.numbers = world.home._asked

    async def _call(self, world: Nodes) -> None:
        world.home._asked = self.numbers
        self.numbers += 1
        payload = b"%d" % self.numbers
        seconds = self.draw.choice([20, 3600])
        deadline = world.home.now_us + seconds * HOUR // 3600
        request = world.home.bind(payload=payload, deadline=deadline)
        asked = world.home.asked(request)
        answer, _ = await world.entry.submit(asked)
        again, is_new = await world.entry.submit(asked)
        assert (again.id, is_new) == (answer.id, False)
        self.calls.append(Asked(request, answer, payload))

    async def _ask(self, world: Nodes, call: Asked) -> None:
        if not call.ends and self.draw.random() < 0.05:
            call.cancelled = True
            await world.cancel(call.answer)
        found = await world.fetch(call.answer)
        if found.final and found.state != "DELIVERED":
            call.ends.add((found.state, found.reply))
            if self.draw.random() < DELIVERED:
                await world.acknowledge(call.answer)


def check(call: Asked, executed: list[bytes]) -> None:
    assert len(call.ends) == 1, (call.payload, call.ends)
    ((state, reply),) = call.ends
    times = executed.count(call.payload)
    assert times == (1 if state == "RESPONDED" else 0), (call.payload, state)
    if state == "RESPONDED":
        assert reply is not None
        assert call.request.open_reply(text_bytes(reply)).payload == b"21.5"
    elif reply is not None:
        status = call.request.open_reply(text_bytes(reply)).status & ~BY_NODE
        assert status in {Status.EXPIRED, Status.CANCELLED}
    assert state in {"RESPONDED", "EXPIRED"} or call.cancelled


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_call_ends_once_whatever_is_lost_and_whoever_restarts(seed: int) -> None:
    story = Story(seed)
    for _ in range(ROUNDS):
        await story.round()
    await story.round(calm=True)
    await story.round(calm=True)
    assert len(story.calls) > 10
    assert story.device is not None
    for call in story.calls:
        check(call, story.device.executed)
