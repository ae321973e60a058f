"""Which block is shown: places and handles of an epoch come in one step."""

from __future__ import annotations

import asyncio

import pytest

from abci_app.discover_service import Discoverer
from abci_app.epoch_keys import EpochKeys
from abci_app.schema import EpochStates
from abci_app.shown import ShownIndex
from abci_app.slices import Slices
from edgistry.api import CellArea, DiscoverQuery
from edgistry.cell import cell_text, children_of, parent_of
from edgistry.errors import NoEpochKeyError, NotYetError
from edgistry.kv import MemoryKeyValue
from tests.handle_world import begin_epoch, client, epoch_keys

from .chain_world import ANN, CELL, genesis, key, put, record, started, withdraw
from .test_crowd import CrowdWorld

THERE = next(each for each in children_of(parent_of(CELL, 6)) if each != CELL)
QUERY = DiscoverQuery(area=CellArea(cell=cell_text(parent_of(CELL, 5))))


class Node:
    """A chain in its first epoch, and what a node shows of it."""

    def __init__(self, chain: CrowdWorld, keys: EpochKeys) -> None:
        self.chain = chain
        self.keys = keys
        self.shown = ShownIndex(chain.world.app.reader, keys)

    @property
    def height(self) -> int:
        return self.chain.world.app.reader.head.height

    def places(self) -> dict[bytes, int]:
        index = self.shown.index
        entries = [row for chunk in index._all._chunks for row in chunk]
        return {row[8:24]: int.from_bytes(row[:8], "big") for row in entries}

    def seen(self) -> tuple[int, dict[bytes, int]]:
        """The epoch of handles, and where services are shown under them."""
        return self.keys.number, self.places()

    async def move(self) -> None:
        await self.chain.put(record("a"))
        await self.chain.put(record("a", cell=THERE))


@pytest.fixture
async def node() -> Node:
    chain = CrowdWorld(started(MemoryKeyValue(), genesis(epoch_s=3600)))
    await chain.begin_epoch()
    made = Node(chain, epoch_keys(1))
    await made.move()
    return made


BEFORE, AFTER = {key("a"): CELL}, {key("a"): THERE}


async def test_an_epoch_is_shown_when_its_key_is_here_and_not_before(node: Node) -> None:
    height = node.height
    await node.chain.begin_epoch()
    for _ in range(2):
        await node.shown.follow()
        assert node.seen() == (1, BEFORE)
    assert node.shown.head.height == height + 1, "the block before the epoch"
    begin_epoch(node.keys, 2)
    assert node.seen() == (2, AFTER)
    assert node.shown.head.height == node.height


async def test_handles_wait_for_the_places_of_their_epoch(node: Node) -> None:
    await node.chain.begin_epoch()
    begin_epoch(node.keys, 2)
    assert node.seen() == (1, BEFORE), "the index has not followed yet"
    assert node.keys.handles().epoch == 1
    assert node.keys.handles_of(2).epoch == 2, "others may have them, and they are good"
    await node.shown.follow()
    assert node.seen() == (2, AFTER)


async def test_who_hears_of_the_new_key_finds_the_new_places(node: Node) -> None:
    heard = []
    node.keys.on_change(lambda: heard.append(node.seen()))
    await node.chain.begin_epoch()
    await node.shown.follow()
    begin_epoch(node.keys, 2)
    assert heard == [(2, AFTER)]


async def test_blocks_behind_the_edge_are_shown_with_it(node: Node) -> None:
    await node.chain.begin_epoch()
    await node.shown.follow()
    await node.chain.put(record("b"))
    assert await node.chain.world.do(ANN, withdraw("a")) == 0
    assert node.seen() == (1, BEFORE)
    begin_epoch(node.keys, 2)
    assert node.seen() == (2, AFTER), "the edge itself, and then the rest"
    await node.shown.follow()
    assert node.seen() == (2, {key("b"): CELL})


async def test_blocks_that_come_while_the_index_follows_are_shown_with_it(node: Node) -> None:
    await node.chain.begin_epoch()
    following = asyncio.create_task(node.shown.follow())
    await asyncio.sleep(0)
    await node.chain.put(record("b"))
    begin_epoch(node.keys, 2)
    await following
    await node.shown.follow()
    assert node.seen() == (2, {**AFTER, key("b"): CELL})
    await node.chain.put(record("c"))
    assert key("c") in node.places(), "it is level again"


async def test_a_node_that_was_started_anew_without_the_key_makes_no_handles(node: Node) -> None:
    """It does not know any more where services were under the handles of before."""
    await node.chain.begin_epoch()
    again = Node(node.chain, epoch_keys(1))
    assert again.seen() == (0, AFTER)
    with pytest.raises(NoEpochKeyError):
        again.keys.handles()
    assert again.keys.handles_of(1).epoch == 1, "those that were given out still lead somewhere"
    begin_epoch(again.keys, 2)
    assert again.seen() == (2, AFTER)


async def test_a_node_that_makes_no_handles_waits_for_no_key(node: Node) -> None:
    await node.chain.begin_epoch()
    await node.shown.follow()
    node.keys.put({}, EpochStates(2, None, None, None), epoch_us=1)
    assert node.seen() == (0, AFTER)
    await node.chain.begin_epoch()
    assert node.shown.head.height == node.height


async def test_a_node_that_missed_an_epoch_goes_over_to_the_one_whose_key_it_has(
    node: Node,
) -> None:
    await node.chain.begin_epoch()
    await node.shown.follow()
    await node.chain.begin_epoch()
    await node.shown.follow()
    assert node.seen() == (1, BEFORE)
    begin_epoch(node.keys, 3)
    assert node.seen() == (3, AFTER)


async def test_the_key_of_an_epoch_that_is_over_already_shows_nothing_of_the_next(
    node: Node,
) -> None:
    await node.chain.begin_epoch()
    await node.shown.follow()
    await node.chain.put(record("a"))
    height = node.height
    await node.shown.follow()
    await node.chain.begin_epoch()
    begin_epoch(node.keys, 2)
    assert (node.seen(), node.shown.head.height) == ((2, AFTER), height)
    await node.shown.follow()
    assert node.seen() == (2, AFTER), "the third shows it where it was"
    begin_epoch(node.keys, 3)
    assert node.seen() == (3, BEFORE)


async def test_the_key_of_an_epoch_shows_nothing_of_the_next_that_was_followed_with_it(
    node: Node,
) -> None:
    await node.chain.begin_epoch()
    await node.chain.begin_epoch()
    await node.shown.follow()
    begin_epoch(node.keys, 2)
    assert node.seen() == (1, BEFORE), "what it has is of the third"
    begin_epoch(node.keys, 3)
    assert node.seen() == (3, AFTER)


async def test_nobody_sees_a_block_that_is_followed_by_half(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abci_app.shown._STEP", 2)
    monkeypatch.setattr("abci_app.shown.Slices", lambda: Slices(0.0))
    await node.chain.begin_epoch()
    await node.shown.follow()
    await node.chain.put(*put(*range(20)).records)
    following = asyncio.create_task(node.shown.follow())
    for _ in range(4):
        await asyncio.sleep(0)
    begin_epoch(node.keys, 2)
    assert node.seen() == (1, BEFORE)
    await following
    assert (node.keys.number, len(node.places())) == (2, 21)


async def test_large_blocks_are_shown_one_after_the_other(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abci_app.shown.MAX_AT_ONCE", 4)
    monkeypatch.setattr("abci_app.shown.Slices", lambda: Slices(0.0))
    for at in range(0, 30, 10):
        await node.chain.put(*put(*range(at, at + 10)).records)
    await node.chain.put(record("b"))
    heights, sizes = [], []
    following = asyncio.create_task(node.shown.follow())
    for _ in range(4):
        await node.shown.next_shown()
        heights.append(node.shown.head.height)
        sizes.append(len(node.places()))
    await following
    assert heights == list(range(node.height - 3, node.height + 1))
    assert sizes == [11, 21, 31, 32]


async def test_a_large_block_is_shown_as_a_whole(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abci_app.shown.MAX_AT_ONCE", 4)
    monkeypatch.setattr("abci_app.shown._STEP", 2)
    monkeypatch.setattr("abci_app.shown.Slices", lambda: Slices(0.0))
    await node.chain.put(*put(*range(20)).records)
    assert node.places() == BEFORE
    following = asyncio.create_task(node.shown.follow())
    sizes = []
    while not following.done():
        await asyncio.sleep(0)
        sizes.append(len(node.places()))
    assert (set(sizes), sizes[0], sizes[-1]) == ({1, 21}, 1, 21)
    assert node.keys.number == 1, "handles stay good meanwhile"


async def test_answers_carry_the_height_that_is_shown_and_who_wants_more_waits(node: Node) -> None:
    discoverer = Discoverer(node.chain.world.app.reader, node.keys, min_height_wait_s=0.01)
    before = (await discoverer.discover(QUERY, client())).services
    await node.chain.begin_epoch()
    await discoverer.shown.follow()
    answer = await discoverer.discover(QUERY, client())
    assert (answer.height, answer.epoch, answer.services) == (node.height - 1, 1, before)
    counts = (await discoverer.discover(QUERY, None)).counts
    assert [each.cell for each in counts] == [cell_text(CELL)]
    wanted = DiscoverQuery(area=QUERY.area, min_height=node.height)
    with pytest.raises(NotYetError):
        await discoverer.discover(wanted, client())
    discoverer._min_height_wait_s = 60.0
    waiting = asyncio.create_task(discoverer.discover(wanted, client()))
    await asyncio.sleep(0)
    begin_epoch(node.keys, 2)
    answer = await waiting
    assert (answer.height, answer.epoch) == (node.height, 2)
    assert [each.cell for each in answer.services] == [cell_text(THERE)]
    assert answer.services[0].handle != before[0].handle
