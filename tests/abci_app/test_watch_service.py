"""Streams of registry changes from a node: what they tell, when they end, what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import abci_app.watch_view as view_module
from abci_app.change_log import ChangeLog
from abci_app.metrics import NodeMetrics
from abci_app.schema import EpochStates
from abci_app.shown import ShownIndex
from abci_app.watch_service import Watcher
from edgistry.api import DiscoverQuery, NearArea, PolygonArea, RegionArea
from edgistry.codec import decode_json, encode_json
from edgistry.errors import BusyError, NoEpochKeyError, NotYetError, UnknownRegionError
from edgistry.event_stream import KEEP_ALIVE, EventReader
from edgistry.kv import MemoryKeyValue
from edgistry.watch_api import WatchQuery
from tests.handle_world import begin_epoch, client, key_of

from .solo_node import SoloNode, open_solo, row

NEAR = NearArea(latitude=46.0, longitude=8.0, radius_km=20.0)
QUERY = WatchQuery(area=NEAR)
POLYGON = {
    "type": "Polygon",
    "coordinates": [[[7.9, 45.9], [8.1, 45.9], [8.1, 46.1], [7.9, 46.1], [7.9, 45.9]]],
}
SMALLER = {**POLYGON, "coordinates": [[[7.9, 45.9], [8.0, 45.9], [8.0, 46.0], [7.9, 45.9]]]}
Event = tuple[str, Any, str]


class Reading:
    """A reader of one stream."""

    def __init__(self, stream: AsyncGenerator[bytes, None]) -> None:
        self.stream = stream
        self._reader = EventReader()

    async def next(self) -> Event:
        """The next event: name, data, id; comments are skipped."""
        async with asyncio.timeout(20):
            async for chunk in self.stream:
                for event in self._reader.feed(chunk):
                    return event.name, decode_json(event.data.encode(), Any, limit=10**6), event.id
        return "end", None, ""


@pytest.fixture
async def node() -> SoloNode:
    return await open_solo(MemoryKeyValue(), MemoryKeyValue())


async def reading(node: SoloNode, query: WatchQuery = QUERY) -> Reading:
    made = Reading(await node.service.watch(query, client()))
    name, data, event_id = await made.next()
    assert (name, str(data["height"])) == ("begin", event_id)
    return made


async def register(node: SoloNode, *numbers: int, **changes: object) -> list[str]:
    outcomes = (await node.service.register([row(n, **changes) for n in numbers])).outcomes
    await node.settle()
    return [str(each.handle) for each in outcomes]


def seen(node: SoloNode, *handles: str) -> list[str]:
    """The client's handles of what the operator calls so."""
    return [node.handle(each) for each in handles]


def height(node: SoloNode) -> int:
    return node.app.reader.head.height


async def test_service_appears_changes_and_leaves_as_discover_shows_it(node: SoloNode) -> None:
    watching = await reading(node)
    (handle,) = await register(node, 0, id="hut")
    found = (await node.discover(DiscoverQuery(area=NEAR))).services[0]
    name, data, event_id = await watching.next()
    assert (name, data["appeared"], data["changed"], data["left"]) == (
        "changes",
        [decode_json(encode_json(found), Any, limit=10**6)],
        [],
        [],
    )
    assert event_id == str(data["height"])
    await register(node, 0, id="hut", actions=("read", "reset"))
    _, data, _ = await watching.next()
    assert [each["actions"] for each in data["changed"]] == [["read", "reset"]]
    await node.service.withdraw([handle])
    await node.settle()
    _, data, _ = await watching.next()
    assert (data["appeared"], data["changed"], data["left"]) == ([], [], seen(node, handle))


async def test_other_places_and_types_are_not_told(node: SoloNode) -> None:
    watching = await reading(node, WatchQuery(area=NEAR, type="valve"))
    await register(node, 0)  # another type
    await register(node, 90, type="valve")  # 99 km away
    (handle,) = await register(node, 1, type="valve")
    _, data, _ = await watching.next()
    assert [each["handle"] for each in data["appeared"]] == seen(node, handle)


async def test_service_that_moves_out_of_the_area_has_left(node: SoloNode) -> None:
    watching = await reading(node)
    (handle,) = await register(node, 0, id="hut")
    await watching.next()
    await register(node, 0, id="hut", lat=47.5)
    await node.service.registrar.place_moved()  # as at the beginning of an epoch
    await node.settle()
    _, data, _ = await watching.next()
    assert data["left"] == seen(node, handle)


async def test_stream_resumes_behind_the_height_that_was_told_last(node: SoloNode) -> None:
    start = height(node)
    first = await register(node, 0)
    middle = height(node)
    second = await register(node, 1)
    for since, expected in ((start, [first, second]), (middle, [second])):
        watching = await reading(node, WatchQuery(area=NEAR, since=since))
        told = [(await watching.next())[1]["appeared"] for _ in expected]
        assert [[each["handle"] for each in some] for some in told] == [
            seen(node, *each) for each in expected
        ]


async def test_stream_resumes_although_another_key_is_here_of_which_no_handles_are(
    node: SoloNode,
) -> None:
    begin_epoch(node.service.epochs.keys, 1)
    since = height(node)
    (handle,) = await register(node, 0)
    keys = node.service.epochs.keys
    before, states = {1: key_of(1)}, EpochStates(1, None, None, None)
    keys.put({**before, 0: key_of(0)}, states, epoch_us=1)
    watching = await reading(node, WatchQuery(area=NEAR, since=since))
    name, data, _ = await watching.next()
    assert (name, [each["handle"] for each in data["appeared"]]) == ("changes", seen(node, handle))


async def test_height_the_node_has_not_reached_is_waited_for(node: SoloNode) -> None:
    opening = asyncio.create_task(
        node.service.watch(WatchQuery(area=NEAR, since=height(node) + 1), client())
    )
    await asyncio.sleep(0)
    assert not opening.done()
    await node.block()
    watching = Reading(await opening)
    assert (await watching.next())[0] == "begin"
    node.service.discoverer._min_height_wait_s = 0.01
    with pytest.raises(NotYetError):
        await node.service.watch(WatchQuery(area=NEAR, since=height(node) + 50), client())


async def test_reader_whom_the_log_has_left_behind_is_told_so(node: SoloNode) -> None:
    watching = await reading(node)
    node.service.watcher._log = ChangeLog(height(node), node.app.reader.visible_nodes(), most=1)
    await register(node, 0)
    await register(node, 1)
    name, data, event_id = await watching.next()
    assert (name, data["height"]) == ("gone", height(node))
    assert "no longer" in data["reason"]
    assert int(event_id) < data["height"]
    assert (await watching.next())[0] == "end"


async def test_height_from_before_this_program_is_gone(node: SoloNode) -> None:
    await node.block()
    node.service.watcher._log.floor = height(node)
    watching = await reading(node, WatchQuery(area=NEAR, since=0))
    assert (await watching.next())[0] == "gone"


async def test_lease_that_lapses_sends_watchers_to_list_anew(node: SoloNode) -> None:
    await register(node, 0)
    watching = await reading(node)
    node.clock.advance(3600)
    # A silence is no time in which leases age; the second block ends them.
    while node.app.reader.visible_nodes():
        node.clock.advance(14)
        await node.engine.make_block()
    assert (await watching.next())[0] == "gone"
    assert not (await node.discover(DiscoverQuery(area=NEAR))).services


async def test_region_that_was_put_anew_ends_what_watches_it(node: SoloNode) -> None:
    await node.service.named_regions.put("alp", POLYGON)
    await node.settle()
    since = height(node)
    watching = await reading(node, WatchQuery(area=RegionArea(name="alp")))
    await register(node, 0)
    assert len((await watching.next())[1]["appeared"]) == 1
    await node.service.named_regions.put("alp", SMALLER)
    await node.settle()
    name, data, _ = await watching.next()
    assert (name, data["reason"]) == ("gone", "the region was changed")
    late = await reading(node, WatchQuery(area=RegionArea(name="alp"), since=since))
    assert (await late.next())[0] == "gone"


async def test_region_is_put_anew_when_the_block_is_shown_that_says_so(
    node: SoloNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is sent away before comes back with the height of before, again and again."""
    await node.service.named_regions.put("alp", POLYGON)
    await node.settle()
    shown = node.service.discoverer.head
    monkeypatch.setattr(ShownIndex, "head", property(lambda _: shown))
    await node.service.named_regions.put("alp", SMALLER)
    await node.settle()
    watching = await reading(node, WatchQuery(area=RegionArea(name="alp"), since=shown.height))
    following = asyncio.create_task(watching.next())
    for _ in range(9):
        await asyncio.sleep(0)
    assert not following.done()
    monkeypatch.undo()
    await node.block()
    assert (await following)[0] == "gone"


async def test_polygon_can_be_watched_and_an_unknown_region_cannot(node: SoloNode) -> None:
    watching = await reading(node, WatchQuery(area=PolygonArea(geojson=POLYGON)))
    await register(node, 0)
    assert len((await watching.next())[1]["appeared"]) == 1
    with pytest.raises(UnknownRegionError):
        await node.service.watch(WatchQuery(area=RegionArea(name="nowhere")), client())


async def test_large_block_comes_in_parts_of_which_the_last_has_the_id(
    node: SoloNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_module, "MAX_EVENT_SERVICES", 4)
    watching = await reading(node)
    before = height(node)
    await register(node, *range(10))
    events = [await watching.next() for _ in range(3)]
    assert [len(data["appeared"]) for _, data, _ in events] == [4, 4, 2]
    assert [data["more"] for _, data, _ in events] == [True, True, False]
    assert [int(event_id) > before for _, _, event_id in events] == [False, False, True]


async def test_silent_stream_tells_the_height_or_that_it_lives(node: SoloNode) -> None:
    watcher = Watcher(
        node.app.reader, node.service.discoverer, node.service.epochs.keys, keep_alive_s=0.001
    )
    stream = await watcher.watch(QUERY, client())
    begin = await anext(stream)
    assert begin.startswith(b"event: begin\n")
    assert await anext(stream) == b":\n\n"
    await node.block()
    while (event := await anext(stream)) == b":\n\n":
        pass
    assert event.startswith(b"event: height\nid: %d\n" % height(node))
    await stream.aclose()


async def test_streams_are_counted_and_bounded(node: SoloNode) -> None:
    watcher = Watcher(node.app.reader, node.service.discoverer, node.service.epochs.keys, most=2)
    streams = [await watcher.watch(QUERY, client()) for _ in range(2)]
    for stream in streams:
        await anext(stream)
    assert watcher.open == 2
    with pytest.raises(BusyError):
        await watcher.watch(QUERY, client())
    for stream in streams:
        await stream.aclose()
    assert watcher.open == 0
    await watcher.watch(QUERY, client())


async def test_no_event_tells_more_than_discover_does(node: SoloNode) -> None:
    stream = await node.service.watch(QUERY, client())
    await anext(stream)
    await register(node, 0, id="secret-id", name="secret hut")
    event = (await anext(stream)).decode()
    for secret in ("secret", "hut", "solo", "commitment", "home", "46.0,"):
        assert secret not in event


async def test_events_of_a_block_come_in_an_order_of_the_client_s_own(node: SoloNode) -> None:
    streams = [await node.service.watch(QUERY, client(number)) for number in (1, 2)]
    for stream in streams:
        await anext(stream)
    made = await register(node, *range(40), lat=46.0, lon=8.0)
    orders = []
    for number, stream in zip((1, 2), streams, strict=True):
        _, data, _ = await Reading(stream).next()
        told = [each["handle"] for each in data["appeared"]]
        assert sorted(told) == sorted(node.handle(each, number) for each in made)
        shown = (await node.discover(DiscoverQuery(area=NEAR, limit=100), number)).services
        assert told == [each.handle for each in shown]
        by_handle = {node.handle(each, number): each for each in made}
        orders.append([by_handle[each] for each in told])
    assert orders[0] != orders[1]


async def test_new_epoch_is_told_and_then_all_that_is_there_under_new_handles(
    node: SoloNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_module, "MAX_EVENT_SERVICES", 2)
    made = await register(node, 0, 1, 2)
    watching = await reading(node)
    old = set(seen(node, *made))
    begin_epoch(node.service.epochs.keys, 2)
    await node.block()
    name, data, _ = await watching.next()
    assert (name, data["epoch"], data["height"]) == ("epoch", 2, height(node))
    parts = [(await watching.next())[1] for _ in range(2)]
    told = {each["handle"] for part in parts for each in part["appeared"]}
    assert told == set(seen(node, *made))
    assert not told & old
    assert [part["more"] for part in parts] == [True, False]
    # It goes on from there, and who resumes is told which epoch handles are of.
    await register(node, 3)
    assert len((await watching.next())[1]["appeared"]) == 1
    resumed = Reading(await node.service.watch(WatchQuery(area=NEAR, since=1), client()))
    assert (await resumed.next())[1]["epoch"] == 2


async def test_nothing_that_was_done_in_an_epoch_is_told_under_handles_of_the_next(
    node: SoloNode,
) -> None:
    start = height(node)
    (early,) = await register(node, 0)
    last = height(node)
    begin_epoch(node.service.epochs.keys, 2)
    (late,) = await register(node, 1)
    resumed = await reading(node, WatchQuery(area=NEAR, since=start))
    name, data, _ = await resumed.next()
    assert (name, data["reason"]) == ("gone", "handles are of another privacy epoch since then")
    resumed = await reading(node, WatchQuery(area=NEAR, since=last))
    _, data, _ = await resumed.next()
    assert [each["handle"] for each in data["appeared"]] == seen(node, late)
    assert seen(node, early) != seen(node, late)


async def edge(node: SoloNode) -> None:
    """The chain begins the next epoch, whose key is not here yet."""
    before = node.app.reader.epoch
    for _ in range(20):
        await node.block()
        await node.service.epochs.follow()
        await node.block()
        if node.app.reader.epoch > before:
            return
        node.clock.advance(30)
    raise AssertionError("no epoch begins")


async def in_first_epoch() -> SoloNode:
    """A node that makes its own keys, of epochs of a minute."""
    node = await open_solo(MemoryKeyValue(), MemoryKeyValue(), epoch_s=60)
    await edge(node)
    await node.service.epochs.follow()
    await node.service.discoverer.shown.follow()
    assert node.service.epochs.keys.number == 1
    return node


async def test_what_an_epoch_shows_elsewhere_is_told_under_its_handles_only() -> None:
    node = await in_first_epoch()
    (moved,) = await register(node, 0, id="hut")
    watching = await reading(node)
    old = seen(node, moved)
    await register(node, 0, id="hut", lat=46.1)
    await node.service.registrar.place_moved()
    await edge(node)
    await node.service.discoverer.shown.follow()
    waiting = asyncio.create_task(watching.next())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done(), "nothing happens to the old handles"
    resumed = await node.service.watch(QUERY, client())
    assert b'"epoch":1' in await anext(resumed)
    await node.service.epochs.follow()
    name, data, _ = await waiting
    assert (name, data["epoch"], data["height"]) == ("epoch", 2, height(node))
    _, data, _ = await watching.next()
    assert [each["handle"] for each in data["appeared"]] == seen(node, moved) != old
    assert data["changed"] == data["left"] == []


async def test_a_slow_reader_gets_no_places_of_an_epoch_under_handles_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(view_module, "MAX_EVENT_SERVICES", 1)
    node = await in_first_epoch()
    await register(node, *range(4), id=None)
    watching = await reading(node)
    await edge(node)
    await node.service.discoverer.shown.follow()
    await node.service.epochs.follow()
    assert (await watching.next())[0] == "epoch"
    first = (await watching.next())[1]["appeared"]
    # It reads on when the next epoch is here.
    await edge(node)
    await node.service.discoverer.shown.follow()
    await node.service.epochs.follow()
    name, data, _ = await watching.next()
    assert (name, data["epoch"]) == ("epoch", 3)
    told = [(await watching.next())[1] for _ in range(4)]
    assert [part["more"] for part in told] == [True, True, True, False]
    handles = {each["handle"] for part in told for each in part["appeared"]}
    assert len(handles) == 4
    assert first[0]["handle"] not in handles


async def test_an_epoch_with_more_changes_than_the_log_keeps_is_told_as_one() -> None:
    node = await in_first_epoch()
    made = [handle for n in range(4) for handle in await register(node, n, id=str(n))]
    watching = await reading(node)
    await register(node, 0, id="0", lat=46.1)
    await node.service.registrar.place_moved()
    node.service.watcher._log._most = 0  # as if each block had too many
    await edge(node)
    assert node.service.watcher._log.floor > node.service.discoverer.head.height
    waiting = asyncio.create_task(watching.next())
    await asyncio.sleep(0)
    await node.service.discoverer.shown.follow()
    await node.service.epochs.follow()
    assert (await waiting)[0] == "epoch"
    _, data, _ = await watching.next()
    assert {each["handle"] for each in data["appeared"]} == set(seen(node, *made))


async def test_a_reader_who_missed_something_is_not_told_that_there_was_nothing() -> None:
    node = await in_first_epoch()
    stream = await node.service.watch(QUERY, client())
    await anext(stream)
    await register(node, 0, id="hut")  # not read in time
    await register(node, 0, id="hut", lat=46.1)
    await node.service.registrar.place_moved()
    node.service.watcher._log._most = 0
    await edge(node)
    node.service.watcher._keep_alive_s = 0.001
    assert await anext(stream) == KEEP_ALIVE


async def test_a_stream_ends_when_the_node_has_no_key_of_now(node: SoloNode) -> None:
    watching = await reading(node)
    node.service.epochs.keys.put({}, EpochStates(2, None, None, None), epoch_us=1)
    await node.block()
    name, data, _ = await watching.next()
    assert (name, data["reason"]) == (
        "gone",
        "this node has no key of the privacy epoch of now yet",
    )


async def test_without_an_epoch_key_nobody_can_watch(node: SoloNode) -> None:
    node.service.epochs.keys.put({}, EpochStates(0, None, None, None), epoch_us=1)
    with pytest.raises(NoEpochKeyError):
        await node.service.watch(QUERY, client())


async def test_metrics_tell_how_many_watch(node: SoloNode) -> None:
    metrics = NodeMetrics()
    node.service.watch_metrics(metrics)
    await reading(node)
    text = metrics.render(node.service.status(), node.service.ready()[1]).decode()
    assert "edgistry_watch_streams 1.0" in text
