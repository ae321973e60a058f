"""The node's use cases in memory: what it answers, what it says about itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

import abci_app.covers as covers_module
import abci_app.discover_service as discover_module
from abci_app.consensus import ConsensusView
from abci_app.covers import cover_geojson
from edgistry.adapters.routing import refusal_response
from edgistry.api import CellArea, DiscoverQuery, NearArea, PolygonArea, RegionArea
from edgistry.cover import Cover
from edgistry.errors import (
    BusyError,
    InvalidValueError,
    MalformedError,
    NotYetError,
    UnknownRegionError,
)
from edgistry.kv import MemoryKeyValue
from edgistry.region import cover_region
from edgistry.transactions import RegionPut, pack_cells

from .solo_node import CHAIN_ID, SoloNode, open_solo, row

POLYGON = PolygonArea(
    geojson={
        "type": "Polygon",
        "coordinates": [[[7.9, 45.9], [8.1, 45.9], [8.1, 46.1], [7.9, 46.1], [7.9, 45.9]]],
    }
)
NEAR = NearArea(latitude=46.0, longitude=8.0, radius_km=20.0)


@pytest.fixture
async def node() -> SoloNode:
    return await open_solo(MemoryKeyValue(), MemoryKeyValue())


async def test_pages_in_order_hold_every_service_once(node: SoloNode) -> None:
    await node.service.register([row(n, lat=46.0 + n / 1000) for n in range(25)])
    await node.settle()
    seen: list[tuple[str, str]] = []
    cursor: str | None = None
    while True:
        query = DiscoverQuery(area=NEAR, limit=7, cursor=cursor)
        page = await node.discover(query)
        seen += [(service.cell, service.handle) for service in page.services]
        cursor = page.next
        if cursor is None:
            break
    assert len(set(seen)) == 25
    assert [cell for cell, _ in seen] == sorted(cell for cell, _ in seen)


async def test_cursor_stays_good_while_services_come_and_go(node: SoloNode) -> None:
    made = (await node.service.register([row(n, lat=46.0 + n / 1000) for n in range(10)])).outcomes
    await node.settle()
    first = await node.discover(DiscoverQuery(area=NEAR, limit=5))
    shown = {service.handle for service in first.services}
    await node.service.withdraw(
        [each.handle for each in made if each.handle and node.handle(each.handle) in shown]
    )
    await node.settle()
    rest = await node.discover(DiscoverQuery(area=NEAR, cursor=first.next))
    assert len(rest.services) == 5
    assert not {s.handle for s in rest.services} & {s.handle for s in first.services}


async def test_type_filters(node: SoloNode) -> None:
    await node.service.register([row(0), row(1, type="valve")])
    await node.settle()
    found = await node.discover(DiscoverQuery(area=NEAR, type="valve"))
    assert [service.type for service in found.services] == ["valve"]


async def test_polygon_finds_what_lies_in_it(node: SoloNode) -> None:
    await node.service.register([row(0), row(50)])
    await node.settle()
    assert len((await node.discover(DiscoverQuery(area=POLYGON))).services) == 1


async def test_bad_queries_are_refused(node: SoloNode) -> None:
    with pytest.raises(UnknownRegionError):
        await node.discover(DiscoverQuery(area=RegionArea(name="nowhere")))
    with pytest.raises(MalformedError):
        await node.discover(DiscoverQuery(area=NEAR, cursor="bogus"))
    with pytest.raises(InvalidValueError):
        await node.discover(DiscoverQuery(area=NEAR, limit=0))


async def test_min_height_is_waited_for(node: SoloNode) -> None:
    height = node.app.reader.head.height
    asking = asyncio.create_task(node.discover(DiscoverQuery(area=NEAR, min_height=height + 2)))
    await node.block()
    await asyncio.sleep(0)
    assert not asking.done()
    await node.block()
    assert (await asking).height == height + 2


async def test_height_that_does_not_come_is_not_yet(node: SoloNode) -> None:
    node.service.discoverer._min_height_wait_s = 0.01
    with pytest.raises(NotYetError, match="not yet at 1000"):
        await node.discover(DiscoverQuery(area=NEAR, min_height=1000))


@pytest.mark.parametrize(
    "query",
    [
        DiscoverQuery(area=NEAR, cursor="bogus", min_height=1000),
        DiscoverQuery(area=CellArea(cell="8" * 15), min_height=1000),
        DiscoverQuery(area=PolygonArea(geojson={}), min_height=1000),
    ],
)
async def test_what_is_wrong_at_any_height_is_refused_without_waiting_for_one(
    node: SoloNode, query: DiscoverQuery
) -> None:
    with pytest.raises(MalformedError):
        await node.discover(query)


async def test_region_put_while_its_height_is_waited_for_is_found(node: SoloNode) -> None:
    await node.service.register([row(0)])
    await node.settle()
    height = node.app.reader.head.height
    query = DiscoverQuery(area=RegionArea(name="alp"), min_height=height + 1)
    asking = asyncio.create_task(node.discover(query))
    await asyncio.sleep(0)
    await node.service.named_regions.put("alp", dict(POLYGON.geojson))
    await node.settle()
    assert len((await asking).services) == 1


async def test_many_who_ask_for_a_new_region_have_it_covered_once(
    node: SoloNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.service.named_regions.put("alp", dict(POLYGON.geojson))
    await node.settle()
    covered: list[int] = []

    def counted(cells: Iterable[int]) -> Cover:
        covered.append(1)
        return cover_region(cells)

    monkeypatch.setattr(covers_module, "cover_region", counted)
    query = DiscoverQuery(area=RegionArea(name="alp"))
    await asyncio.gather(*(node.discover(query) for _ in range(20)))
    assert len(covered) == 1


async def test_few_polygons_wait_and_the_next_is_told_to_come_back(
    node: SoloNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def slow(geojson: Mapping[str, Any]) -> Cover:
        assert release.wait(30.0)
        return cover_geojson(geojson)

    monkeypatch.setattr(discover_module, "cover_geojson", slow)
    query = DiscoverQuery(area=POLYGON)
    waiting = [
        asyncio.create_task(node.discover(query))
        for _ in range(discover_module.MAX_WAITING_POLYGONS)
    ]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="polygon") as refusal:
        await node.discover(query)
    assert "Retry-After" in refusal_response(refusal.value).headers
    # Other areas do not wait behind polygons, however large they are.
    wide = NearArea(latitude=46.0, longitude=8.0, radius_km=500.0)
    assert (await node.discover(DiscoverQuery(area=wide))).services == ()
    release.set()
    assert len(await asyncio.gather(*waiting)) == discover_module.MAX_WAITING_POLYGONS
    assert (await node.discover(query)).services == ()


async def test_status_says_what_the_node_knows(node: SoloNode) -> None:
    await node.service.register([row(0), row(1)])
    await node.service.named_regions.put("alp", dict(POLYGON.geojson))
    await node.settle()
    await node.service.register([row(2)])
    status = node.service.status()
    head = node.app.reader.head
    assert (status.node, status.engine, status.chain_id) == ("solo", "solo", CHAIN_ID)
    assert (status.height, status.app_hash) == (head.height, head.app_hash.hex())
    assert (status.members, status.services, status.regions, status.outbox) == (1, 2, 1, 1)


async def test_node_that_is_well_takes_writes(node: SoloNode) -> None:
    for _ in range(5):
        await node.block()
    can_read, answer = node.service.ready()
    assert (can_read, answer.ready, answer.writes, answer.reasons) == (True, True, True, ())


async def test_halted_node_serves_reads_but_no_writes(node: SoloNode) -> None:
    await node.block()
    node.clock.advance(100.0)
    can_read, answer = node.service.ready()
    assert (can_read, answer.writes) == (True, False)
    assert "halted" in answer.reasons[0]


async def test_node_that_catches_up_says_so(node: SoloNode) -> None:
    node.view = ConsensusView(peers=0, catching_up=True)
    assert "catching up" in node.service.ready()[1].reasons[0]


async def test_clock_that_is_off_is_noticed_while_blocks_come(node: SoloNode) -> None:
    for _ in range(4):
        await node.block()
    node.service._clock_us = lambda: node.clock.wall_us() - 90_000_000
    assert "behind block time" in node.service.ready()[1].reasons[0]


async def test_settled_tells_of_refusals_in_the_range_asked_for(node: SoloNode) -> None:
    await node.service.register([row(0)])
    cells = dict(POLYGON.geojson)
    await node.service.named_regions.put("alp", cells)
    first = await node.service.settled(first=1, last=2, timeout_s=0.0)
    assert (first.through, first.refused) == (0, ())
    await node.settle()
    done = await node.service.settled(first=1, last=2, timeout_s=0.0)
    assert (done.through, done.refused) == (2, ())
    assert done.height == node.app.reader.head.height


async def test_refused_transaction_is_kept_and_told_of(node: SoloNode) -> None:
    outbox = node.service.outbox
    await outbox.append([RegionPut(name="alp", version=5, cells=pack_cells([0]))])
    await node.settle()
    [letter] = outbox.dead_letters.newest(10)
    assert letter.sequence == 1
    assert "wrong-version" in letter.reason
    answer = await node.service.settled(first=1, last=1, timeout_s=0.0)
    assert [refusal.sequence for refusal in answer.refused] == [1]
