"""The agent and a node's real desks: every link between them may be cut, and each may restart."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from abci_app.pairing import node_capability
from device_agent.agent import Agent, Batch, Connected
from device_agent.duty_cycle import Cycle
from device_agent.homes import Home
from device_agent.link import Answer
from device_agent.reach import BackOff
from device_agent.runtime import Habits
from edgistry.capability import BoundRequest
from edgistry.errors import CannotReachError, TwoAgentsError
from edgistry.handlers import handler
from edgistry.kv import MemoryKeyValue
from tests.abci_app.desk_world import (
    DEVICE,
    DEVICE_ISSUER,
    FETCH_KEY,
    HOUR,
    NODE,
    PAIRED,
    Desks,
    desks,
)
from tests.edgistry.faas_world import Gate, until

from .agent_world import WAKE_KEY, HandClock, Running
from .device_world import inside

HABITS = Habits(
    cycle=Cycle(period_s=60.0, linger_s=2.0),
    back_off=BackOff(first_wait_s=5.0, longest_wait_s=30.0),
)
HOME = Home(id=bytes(20), url="http://node", capability=node_capability(NODE, PAIRED))
calls: list[bytes] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@handler
async def read(_context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
    calls.append(element)
    return b"21.5 for " + element


@dataclass
class CutLink:
    """Leads to the node's desk; ``before`` and ``after`` say which exchanges are cut, and where."""

    world: Desks
    clock: HandClock
    before: set[int] = field(default_factory=set)
    """Exchanges that never arrive."""
    after: set[int] = field(default_factory=set)
    """Exchanges whose answers are lost."""
    count: int = 0

    async def post(self, body: bytes, *, wait_s: int, timeout_s: float) -> Answer:
        self.count += 1
        self.world.now_us = self.clock.wall_us()
        if self.count in self.before:
            raise CannotReachError("the link is cut")
        reply = await self.world.exchanges.answer(body, wait_s=wait_s)
        if self.count in self.after:
            raise CannotReachError("the link is cut")
        return Answer(reply=reply, sent=len(body), received=len(reply))

    async def close(self) -> None:
        return None


@contextlib.asynccontextmanager
async def agent_at(
    world: Desks,
    link: CutLink,
    *,
    store: MemoryKeyValue | None = None,
    instance: bytes = b"instance",
    habits: Habits = HABITS,
    handlers: tuple[Callable[..., object], ...] = (read,),
) -> AsyncIterator[Running]:
    wakes: list[Any] = []
    async with inside(*handlers, store=store, issuer=DEVICE_ISSUER) as inner:
        link.clock.is_busy = lambda: inner.executor.is_at_work
        await inner.woofs.create_namespace("thermometer")
        await inner.woofs.create("thermometer/read", 100)
        agent = Agent(
            DEVICE,
            [Connected(home=HOME, link=link)],
            inner.executor,
            habits=habits,
            batch=Batch(count=5),
            clock=link.clock,
            instance=instance,
            wake_key=WAKE_KEY,
            spread=lambda: 0.0,
            on_wake=wakes.append,
        )
        yield Running(agent, inner, link.clock, wakes)


def clock_of(world: Desks) -> HandClock:
    return HandClock(wall_us=world.now_us)


async def answers(world: Desks, asked: dict[bytes, BoundRequest]) -> list[bytes]:
    return [(await world.outcome(request, each)).payload for each, request in asked.items()]


async def test_client_s_request_is_answered_by_the_sleeping_device() -> None:
    async with desks() as world:
        link = CutLink(world, clock_of(world))
        async with agent_at(world, link) as running:
            await running.wake_up()
            request = world.bind(payload=b"me")
            number = await world.submit(request)
            await running.wake_up()
            assert await answers(world, {number: request}) == [b"21.5 for me"]


async def test_withheld_request_is_told_to_be_expired_and_never_runs() -> None:
    async with desks() as world:
        link = CutLink(world, clock_of(world))
        async with agent_at(world, link) as running:
            request = world.bind(deadline=world.now_us + 30_000_000)
            number = await world.submit(request)
            link.before = {1}
            await running.wake_up()
            running.clock.s += 60
            await running.wake_up()
            await world.writer.sweep()
            answer = await world.requests.fetch(number, FETCH_KEY)
            assert answer.state == "EXPIRED"
            assert calls == []


async def test_second_agent_with_the_same_identity_is_noticed() -> None:
    async with desks() as world:
        clock = clock_of(world)
        async with (
            agent_at(world, CutLink(world, clock), instance=b"original") as one,
            agent_at(world, CutLink(world, clock), instance=b"the copy") as other,
        ):
            await one.wake_up()
            await other.wake_up()
            with pytest.raises(TwoAgentsError):
                await one.wake_up()


async def test_unpaired_device_backs_off_and_goes_on_trying() -> None:
    async with desks() as world:
        link = CutLink(world, clock_of(world))
        world.pairings.paired = None
        async with agent_at(world, link) as running:
            wake = await running.wake_up()
            assert (wake.exchanges, wake.failures) == (0, 1)
            world.pairings.paired = PAIRED
            wake = await running.wake_up()
            assert (wake.exchanges, wake.failures) == (1, 0)


@contextlib.asynccontextmanager
async def awake(
    world: Desks, *handlers: Callable[..., object], link: CutLink | None = None
) -> AsyncIterator[Running]:
    """A device that is always awake, and runs."""
    habits = replace(HABITS, cycle=Cycle(period_s=0.0, shortest_sleep_s=0.001))
    way = link or CutLink(world, clock_of(world))
    async with agent_at(world, way, habits=habits, handlers=handlers) as running:
        task = asyncio.create_task(running.agent.run())
        try:
            yield running
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def final(world: Desks, number: bytes) -> str:
    return (await world.requests.fetch(number, FETCH_KEY, wait_s=30)).state


async def test_device_that_is_awake_answers_while_its_node_holds_an_exchange() -> None:
    async with desks() as world, awake(world, read):
        for _ in range(3):
            request = world.bind(payload=b"me")
            number = await world.submit(request)
            assert await final(world, number) == "RESPONDED"
            assert (await world.outcome(request, number)).payload == b"21.5 for me"


async def test_slow_answer_of_a_device_that_is_awake_does_not_wait_for_the_held_exchange() -> None:
    gate = Gate()

    @handler("read")
    async def slow(_context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
        if element == b"slow":
            await gate.wait_async()
        return element

    async with desks() as world, awake(world, slow):
        late_number = await world.submit(world.bind(payload=b"slow"))
        await until(lambda: gate.entered)
        quick_number = await world.submit(world.bind(payload=b"quick"))
        assert await final(world, quick_number) == "RESPONDED"
        await until(lambda: world.exchanges.waiting)
        held = world.exchanges.exchanges
        gate.open()
        assert await final(world, late_number) == "RESPONDED"
        assert world.exchanges.exchanges > held


async def test_device_that_is_awake_survives_cut_links() -> None:
    async with desks() as world:
        link = CutLink(world, clock_of(world), before={1, 4}, after={2, 5, 6})
        async with awake(world, read, link=link):
            for _ in range(4):
                number = await world.submit(world.bind(payload=b"me"))
                assert await final(world, number) == "RESPONDED"
            assert len(calls) == 4


@pytest.mark.parametrize("seed", range(8))
async def test_every_call_has_one_effect_and_one_answer_whatever_is_cut(seed: int) -> None:
    draw = random.Random(seed)
    device = MemoryKeyValue()
    asked: dict[bytes, BoundRequest] = {}
    async with desks() as world:
        clock = clock_of(world)
        for round_ in range(6):
            link = CutLink(world, clock)
            link.before = {number for number in range(1, 9) if draw.random() < 0.2}
            link.after = {number for number in range(1, 9) if draw.random() < 0.3}
            # Each round is a new run of the agent over what the last one left.
            async with agent_at(world, link, store=device, instance=b"run %04d" % round_) as run:
                for _ in range(draw.randrange(2, 5)):
                    world.now_us = clock.wall_us()
                    request = world.bind(payload=b"%d" % len(asked), deadline=world.now_us + HOUR)
                    asked[await world.submit(request)] = request
                    await run.wake_up()
        link = CutLink(world, clock)
        async with agent_at(world, link, store=device, instance=b"the last") as run:
            for _ in range(4):
                await run.wake_up()
        expected = [b"21.5 for %d" % number for number in range(len(asked))]
        assert await answers(world, asked) == expected
        assert sorted(calls, key=int) == [b"%d" % number for number in range(len(asked))]
        states = {(await world.requests.fetch(each, FETCH_KEY)).state for each in asked}
        assert states == {"RESPONDED"}
