"""A node that dies at any of its writes, before or after it: one effect, one answer, always."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest

from edgistry.envelope import Status
from edgistry.errors import Refused, StorageError
from edgistry.kv import Change, MemoryKeyValue
from edgistry.messages import decode_down
from edgistry.requests_api import RequestAnswer, to_bytes

from .desk_world import FETCH_KEY, Desks, RealDevice, desks

WRITES = 8
"""More than a call takes: the last ones do not crash."""


class Dying(MemoryKeyValue):
    """Dies at write number ``at``: before it, or when it is done but nobody has heard of it."""

    def __init__(self, at: int, *, done: bool) -> None:
        super().__init__()
        self.left = at
        self.done = done
        self.dead = False

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if self.left == 0 and not self.dead:
            self.dead = True
            if self.done:
                super().write(list(changes), sync=sync)
        if self.dead:
            raise StorageError("killed")
        self.left -= 1
        super().write(changes, sync=sync)

    def restart(self) -> None:
        """Nothing more happens to it."""
        self.dead, self.left = False, -1


class Party:
    """A client and a device that do not give up, whatever becomes of the node."""

    def __init__(self, store: Dying) -> None:
        self.store = store
        self.device: RealDevice | None = None
        self.number: bytes | None = None
        self.answers: list[RequestAnswer] = []

    async def run(self) -> Desks:
        """Call until the answer is acknowledged; the node is started again when it has died."""
        for _ in range(4):
            async with desks(self.store) as world:
                if self.device is None:
                    self.device, self.request = world.device, world.bind()
                    self.asked = world.asked(self.request)
                else:
                    self.device.desks = world
                with contextlib.suppress(Refused):
                    await self._call(world)
                    return world
            self.store.restart()
        raise AssertionError("the call did not end")

    async def _call(self, world: Desks) -> None:
        answer, _ = await world.requests.submit(self.asked)
        self.number = to_bytes(answer.id, "id")
        for _ in range(3):
            await self._exchange(world)
        answer = await world.requests.fetch(self.number, FETCH_KEY)
        self.answers.append(answer)
        await world.requests.acknowledge(self.number, FETCH_KEY)

    async def _exchange(self, world: Desks) -> None:
        assert self.device is not None
        exchange = self.device.request()
        raw = await world.exchanges.answer(exchange.encoded)
        reply = exchange.open_reply(raw)
        if reply.status != Status.OK:
            assert reply.status == Status.STORAGE
            raise StorageError("the node said so")
        down = decode_down(reply.payload)
        self.device.results = [
            each for each in self.device.results if each.request_id not in down.confirmed
        ]
        self.device.execute(down)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, WRITES))  # the first one is the start itself
async def test_call_survives_a_node_that_dies_at_any_write(at: int, done: bool) -> None:
    store = Dying(at, done=done)
    party = Party(store)
    world = await party.run()
    assert party.device is not None
    assert party.number is not None
    assert party.device.executed == [b"please"]
    final = [each for each in party.answers if each.final and each.reply]
    assert {each.reply for each in final} == {final[0].reply}
    reply = party.request.open_reply(to_bytes(final[0].reply or "", "reply"))
    assert (reply.status, reply.payload) == (Status.OK, b"21.5")
    assert world.writer.boxes.live == {}


async def test_a_call_takes_fewer_writes_than_are_tried() -> None:
    store = Dying(WRITES - 1, done=False)
    await Party(store).run()
    assert not store.dead
    assert store.left > -1
