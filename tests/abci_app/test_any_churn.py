"""Any service while devices come and go: each call is done once or refused, and spread."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.node_client import NodeClient
from edgistry.errors import CallEndedError, CallPendingError, Refused

from ..spread import gini
from .any_world import AREA, AnyWorld, any_world

DEVICES, CALLS = 12, 72
KEYS = ClientKeys.generate()


class Churn:
    """Devices wake in turns; of those that are gone nothing is heard until they are back."""

    def __init__(self, world: AnyWorld, *, gone: float, seed: int) -> None:
        self.world = world
        self._gone = gone
        self._source = random.Random(seed)

    async def run(self) -> None:
        while True:
            there = [n for n in range(DEVICES) if self._source.random() >= self._gone]
            for number in there:
                device = self.world.devices[number]
                await device.exchange(self.world.exchanges, self.world.now_us)
                if self._source.random() >= self._gone:  # else it vanishes with what it has
                    await device.exchange(self.world.exchanges, self.world.now_us, want=0)
            await asyncio.sleep(0.005)


async def called(node: NodeClient, action: str, number: int) -> str:
    """What became of one call."""
    data = b"%d" % number
    try:
        answer = await node.call_any(
            action, data, type="valve", cell=AREA, keys=KEYS, wait_s=20.0, patience_s=0.1
        )
    except (CallPendingError, CallEndedError):
        return "refused in time"
    except Refused as error:
        return error.code
    return answer.payload.decode()


async def all_calls(action: str, *, gone: float, seed: int) -> tuple[list[str], AnyWorld]:
    async with any_world(DEVICES) as world, NodeClient(world.at) as node:
        churn = asyncio.create_task(Churn(world, gone=gone, seed=seed).run())
        limit = asyncio.Semaphore(8)

        async def one(number: int) -> str:
            async with limit:
                return await called(node, action, number)

        try:
            async with asyncio.timeout(50):
                ends = await asyncio.gather(*(one(number) for number in range(CALLS)))
        finally:
            churn.cancel()
        return list(ends), world


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_changes_something_is_done_once_however_devices_come_and_go(seed: int) -> None:
    ends, world = await all_calls("open", gone=0.4, seed=seed)
    devices = {device.id for device in world.devices}
    answered = [each for each in ends if each in devices]
    # At most once each: those that were refused in time may have been, the others exactly once.
    assert len(world.executed) <= CALLS
    assert len(answered) >= CALLS * 3 // 4
    told = Counter(answered)
    for device in world.devices:
        assert told[device.id] <= len(device.executed)


async def test_calls_spread_evenly_over_members_that_wake_equally_soon() -> None:
    ends, world = await all_calls("read", gone=0.0, seed=3)
    counts = Counter(ends)
    assert set(counts) <= {device.id for device in world.devices}
    assert gini([counts[device.id] for device in world.devices]) <= 0.2
