"""Following: who looks all the while does not learn where a device went when an epoch begins.

The attacker asks for all pages and reads a stream, as one client, at every step that a node takes
around the edges of epochs: after the block, before and after the epoch's key is there, while the
index follows. Some devices move in each epoch, the others stay. Two ways to follow one: a handle
that is seen in two cells; and a step in which just one service leaves a cell and just one comes to
another (privacy.md, *Attack tests*, 4).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from abci_app.move_keeper import MoveKeeper
from abci_app.shown import ShownIndex
from edgistry.api import DiscoverQuery, NearArea
from edgistry.codec import decode_json
from edgistry.errors import NoEpochKeyError
from edgistry.event_stream import EventReader
from edgistry.kv import MemoryKeyValue
from edgistry.watch_api import WatchQuery
from tests.abci_app.solo_node import SoloNode, open_solo, row
from tests.handle_world import client

AREA = NearArea(latitude=46.5, longitude=8.0, radius_km=150.0)
QUERY = DiscoverQuery(area=AREA, limit=5)
DEVICES = 12
EPOCH_S = 100
EPOCHS = 3
STEP_S = 6.0

Seen = frozenset[tuple[str, str]]
"""Handles and the cells under which they are shown."""


class Follower:
    """Looks at all that a node shows to one client, and says who went where."""

    def __init__(self, node: SoloNode) -> None:
        self._node = node
        self._looks: list[Seen] = []
        self.cells: dict[str, set[str]] = {}
        """The cells of each handle, from pages and streams."""
        self.epochs: set[int] = set()
        self.streamed = 0

    async def look(self) -> None:
        for _ in range(8):
            await asyncio.sleep(0)  # the stream's turn
        try:
            seen = await self._all_pages()
        except NoEpochKeyError:
            return
        self._looks.append(seen)
        for handle, cell in seen:
            self.cells.setdefault(handle, set()).add(cell)

    async def _all_pages(self) -> Seen:
        found, cursor = [], None
        while True:
            query = DiscoverQuery(area=AREA, limit=QUERY.limit, cursor=cursor)
            answer = await self._node.discover(query)
            self.epochs.add(answer.epoch)
            found += [(each.handle, each.cell) for each in answer.services]
            cursor = answer.next
            if cursor is None:
                return frozenset(found)

    async def stream(self) -> None:
        """Read a stream for ever, a new one when it ends."""
        while True:
            try:
                stream = await self._node.service.watch(WatchQuery(area=AREA), client())
            except NoEpochKeyError:
                await asyncio.sleep(0)
                continue
            reader = EventReader()
            async for chunk in stream:
                for event in reader.feed(chunk):
                    data: Any = decode_json(event.data.encode(), Any, limit=10**6)
                    for each in (*data.get("appeared", ()), *data.get("changed", ())):
                        self.cells.setdefault(each["handle"], set()).add(each["cell"])
                        self.streamed += 1

    def followed(self) -> set[tuple[str, str]]:
        """(old cell, new cell) of all that it can tell for certain."""
        found = set()
        for cells in self.cells.values():
            if len(cells) > 1:
                found |= {(one, two) for one in cells for two in cells if one != two}
        for before, after in zip(self._looks, self._looks[1:], strict=False):
            were, are = (Counter(cell for _, cell in each) for each in (before, after))
            left, come = list((were - are).elements()), list((are - were).elements())
            if len(left) == len(come) == 1:
                found.add((left[0], come[0]))
        return found


async def followed_share() -> float:
    """The share of all moves that are followed."""
    node = await open_solo(MemoryKeyValue(), MemoryKeyValue(), epoch_s=EPOCH_S)
    follower = Follower(node)
    streaming = asyncio.create_task(follower.stream())
    place = {number: number * 3 for number in range(DEVICES)}
    free = list(range(DEVICES * 3, DEVICES * 3 + 60, 3))
    parts: tuple[Callable[[], Awaitable[object]], ...] = (
        node.engine.make_block,
        node.service.outbox.step,
        node.service.epochs.follow,
        node.service.moves.follow,
        node.service.outbox.step,
        node.service.discoverer.shown.follow,
    )

    async def until_epoch(number: int) -> None:
        for _ in range(100):
            node.clock.advance(STEP_S)
            for part in parts:
                await part()
                await follower.look()
            if node.service.epochs.keys.number >= number:
                return
        raise AssertionError(f"epoch {number} does not begin")

    async def tell(*numbers: int) -> None:
        rows = [row(place[number], id=str(number), name="hut", line=2) for number in numbers]
        await node.service.register(rows)

    def cell_of(number: int) -> str:
        page = node.service.registrar.page(after=None, limit=100)
        return next(each.cell for each in page.devices if each.id == str(number))

    await tell(*range(DEVICES))
    moves = set()
    await until_epoch(1)
    for epoch in range(1, EPOCHS + 1):
        moving = [number for number in range(DEVICES) if number % 3 == epoch % 3]
        before = [cell_of(number) for number in moving]
        for number in moving:
            place[number] = free.pop()
        await tell(*moving)
        await until_epoch(epoch + 1)
        for _ in range(3):  # who publishes behind the edge does it now
            node.clock.advance(STEP_S)
            for part in parts:
                await part()
                await follower.look()
        moves |= set(zip(before, map(cell_of, moving), strict=True))
    streaming.cancel()
    await asyncio.gather(streaming, return_exceptions=True)
    assert all(old != new for old, new in moves), "all of them are shown elsewhere"
    assert follower.epochs >= {1, 2, 3, 4}
    assert follower.streamed >= EPOCHS * DEVICES, "streams tell of each epoch"
    return len(moves & follower.followed()) / len(moves)


async def test_nobody_can_follow_a_device_that_moves_over_the_edge_of_an_epoch() -> None:
    assert await followed_share() == 0.0


# --- naive designs ------------------------------------------------------------------------------


@contextmanager
def published_when_an_epoch_has_begun(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Naive: the node hears that an epoch began, and then publishes who has moved, at once."""
    patch.setattr("abci_app.registry.put_over", lambda old, new, *, epoch: new)
    patch.setattr(MoveKeeper, "_is_time", lambda self: self._reader.epochs().number > 0)
    yield


@contextmanager
def places_before_keys(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Naive: a block is shown at its Commit, although the key of its epoch is not here yet."""
    patch.setattr(ShownIndex, "_may_show", lambda self, epoch: True)
    patch.setattr(ShownIndex, "allows", lambda self, epoch: True)
    yield


@contextmanager
def keys_before_places(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Naive: handles are of an epoch as soon as its key is here, although its places are not."""
    patch.setattr(ShownIndex, "keys_changed", lambda self: None)
    patch.setattr(ShownIndex, "allows", lambda self, epoch: True)
    yield


@pytest.mark.parametrize(
    "design", [published_when_an_epoch_has_begun, places_before_keys, keys_before_places]
)
async def test_naive_designs_are_followed_by_the_same_attacker(
    design: Callable[[pytest.MonkeyPatch], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with design(monkeypatch):
        assert await followed_share() > 0.9
