"""The real program of a device, killed again and again while clients call it over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from random import Random

import pytest

from abci_app.mailbox_states import OUTSTANDING
from device_agent.directory import AgentDirectory
from edgistry.adapters.http import HttpServer
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.routing import Request, Response, Route
from edgistry.api import ENVELOPE_CONTENT_TYPE
from edgistry.capability import BoundRequest
from edgistry.envelope import Operation
from edgistry.operations import encode_woof_shape
from edgistry.woof_store import WoofStore
from tests.abci_app.desk_world import CLIENT, DEVICE, DEVICE_ISSUER, HOUR, Desks, desks
from tests.edgistry.killing import Nursery, memory_directory

from .killable import make_device, run_agent, stop_file

ROUNDS = [pytest.param(8, id="8-kills"), pytest.param(200, id="200-kills", marks=pytest.mark.soak)]
CALLS = 3
"""In each round."""


@contextlib.asynccontextmanager
async def served(world: Desks) -> AsyncIterator[str]:
    """The exchange desk of ``world`` over HTTP, in real time; its address."""

    async def exchange(request: Request) -> Response:
        world.now_us = time.time_ns() // 1000
        # Held for a moment only: nobody tells the node that the agent was killed.
        reply = await world.exchanges.answer(request.body, wait_s=0.2)
        return Response(headers={"Content-Type": ENVELOPE_CONTENT_TYPE}, body=reply)

    server = HttpServer([Route(method="POST", template="/v1/exchange", handler=exchange)])
    port = await server.listen_tcp("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop()


async def furnish(world: Desks) -> list[bytes]:
    """Ask of the device what a node asks of a new one: its namespace and its WooFs; the ids."""
    asked = []
    root = DEVICE_ISSUER.mint(serial=1)
    shape = encode_woof_shape(history=10_000)
    for number, (operation, target, payload) in enumerate(
        [
            (Operation.NAMESPACE_CREATE, "thermometer", b""),
            (Operation.WOOF_CREATE, "thermometer/read", shape),
            (Operation.WOOF_CREATE, "thermometer/effects", shape),
        ]
    ):
        request = root.bind(
            operation,
            target,
            payload,
            client=bytes(8),
            sequence=world.now_us + number,
            deadline=world.now_us + HOUR,
        )
        key = b"set-up %d" % number
        asked.append(await world.own.submit_own(DEVICE, request.encoded, idempotency_key=key))
    return asked


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_every_call_has_one_effect_and_one_answer_however_often_the_agent_is_killed(
    rounds: int,
) -> None:
    draw = Random(rounds)
    asked: dict[bytes, BoundRequest] = {}
    with memory_directory() as place, Nursery() as nursery:
        root = place / "device"
        async with desks(attempts=rounds + 10, unfetched=10_000) as world, served(world) as url:
            make_device(root, url)
            world.now_us = time.time_ns() // 1000
            await let_end(world, await furnish(world), nursery, root)

            async def call() -> None:
                for _ in range(CALLS):
                    await asyncio.sleep(draw.random() * 0.02)
                    world.now_us = time.time_ns() // 1000
                    request = world.bind(payload=b"%d" % len(asked), client=CLIENT)
                    asked[await world.submit(request)] = request

            for number in range(rounds):
                if len(outstanding(world, asked)) > 10:
                    # A client may have 16; and who is killed at once never answers any.
                    await let_end(world, list(asked), nursery, root)
                ticks = draw.choice([0, draw.randrange(40), draw.randrange(120)])
                run = functools.partial(
                    nursery.kill_after,
                    run_agent,
                    root,
                    number,
                    messages=ticks,
                    and_s=draw.random() * 0.003,
                )
                await asyncio.gather(call(), asyncio.to_thread(run))
            await let_end(world, list(asked), nursery, root)
            answers = [(await world.outcome(each, key)).payload for key, each in asked.items()]
        effects = effects_in(root)
    calls = [b"%d" % number for number in range(rounds * CALLS)]
    assert answers == [b"did " + each for each in calls]
    assert sorted(effects, key=int) == calls


def outstanding(world: Desks, asked: Iterable[bytes]) -> list[bytes]:
    """Those that have not ended."""
    return [each for each in asked if world.own.outcome_of(each)[0] in OUTSTANDING]


async def let_end(world: Desks, asked: list[bytes], nursery: Nursery, root: Path) -> None:
    """Let the agent run until all that was asked of it has ended, and stop in good order."""
    running = asyncio.create_task(asyncio.to_thread(nursery.run_to_the_end, run_agent, root, -1))
    async with asyncio.timeout(60):
        while outstanding(world, asked):
            assert not running.done()
            await asyncio.sleep(0.01)
    stop_file(root).touch()
    await running
    stop_file(root).unlink()


def effects_in(root: Path) -> list[bytes]:
    """What the handlers have put."""
    store = LevelKeyValue(AgentDirectory(root).database)
    try:
        return [element for _, element in WoofStore(store).scan("thermometer/effects")]
    finally:
        store.close()
