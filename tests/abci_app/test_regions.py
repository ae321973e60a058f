"""Named regions: versions, ownership, and puts that have to wait."""

from __future__ import annotations

from typing import Any

import pytest

from abci_app.outbox import Outbox
from abci_app.regions import Regions
from abci_app.schema import StoredRegion
from edgistry.errors import (
    InvalidValueError,
    MalformedError,
    NotOwnerError,
    Refused,
    UnknownRegionError,
)
from edgistry.kv import MemoryKeyValue
from edgistry.transactions import pack_cells

from .simulated_registry import NODE, OTHER, SimulatedRegistry


def square(size: float) -> dict[str, Any]:
    corners = [[8.0, 46.0], [8.0 + size, 46.0], [8.0 + size, 46.0 + size], [8.0, 46.0 + size]]
    return {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}


class Bench:
    def __init__(self) -> None:
        self.store = MemoryKeyValue()
        self.chain = SimulatedRegistry()
        self.restart()

    def restart(self) -> None:
        self.outbox = Outbox(
            self.store,
            chain_id="test",
            node_id=NODE,
            sign=lambda message: bytes(64),
            reader=self.chain,
            sink=self.chain,
        )
        self.regions = Regions(self.store, node_id=NODE, reader=self.chain, outbox=self.outbox)
        self.outbox.on_settled = lambda entry, transaction: self.regions.settled(entry)

    async def block(self) -> None:
        await self.outbox.step()
        self.chain.commit()
        await self.outbox.step()


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_new_region_has_version_one_and_its_cells(bench: Bench) -> None:
    put = await bench.regions.put("alp", square(0.3))
    assert (put.version, put.changed, put.sequence) == (1, True, 1)
    await bench.block()
    shown = bench.regions.show("alp")
    assert (shown.version, len(shown.cells), shown.owner) == (1, put.cells, NODE.hex())


async def test_same_area_again_changes_nothing_waiting_or_not(bench: Bench) -> None:
    await bench.regions.put("alp", square(0.3))
    waiting = await bench.regions.put("alp", square(0.3))
    assert (waiting.version, waiting.changed, waiting.sequence) == (1, False, 1)
    await bench.block()
    done = await bench.regions.put("alp", square(0.3))
    assert (done.version, done.changed, done.sequence) == (1, False, 0)
    assert len(bench.chain.committed) == 1


async def test_changed_area_is_the_next_version_also_while_the_first_waits(bench: Bench) -> None:
    await bench.regions.put("alp", square(0.3))
    bench.restart()
    second = await bench.regions.put("alp", square(0.4))
    assert second.version == 2
    await bench.block()
    assert bench.regions.show("alp").version == 2
    third = await bench.regions.put("alp", square(0.3))
    assert third.version == 3


async def test_put_that_the_chain_refused_is_forgotten(bench: Bench) -> None:
    bench.chain.refuse = {1}
    await bench.regions.put("alp", square(0.3))
    await bench.block()
    again = await bench.regions.put("alp", square(0.3))
    assert (again.version, again.changed) == (1, True)
    await bench.block()
    assert bench.regions.show("alp").version == 1


async def test_bookkeeping_of_a_finished_put_leaves_the_database(bench: Bench) -> None:
    await bench.regions.put("alp", square(0.3))
    assert list(bench.store.scan(b"g/", b"g0"))
    await bench.block()
    assert not list(bench.store.scan(b"g/", b"g0"))


async def test_region_of_another_node_is_refused_before_anything_is_sent(bench: Bench) -> None:
    bench.chain.named["alp"] = StoredRegion(owner=OTHER, version=1, cells=pack_cells([1]))
    with pytest.raises(NotOwnerError):
        await bench.regions.put("alp", square(0.3))
    assert bench.outbox.pending == 0


@pytest.mark.parametrize(
    ("name", "geojson", "refusal"),
    [
        ("Alp!", square(0.3), InvalidValueError),
        ("", square(0.3), InvalidValueError),
        ("alp", {"type": "Point", "coordinates": [1, 2]}, MalformedError),
        ("alp", {}, MalformedError),
        ("alp", square(0.0001), InvalidValueError),
        ("alp", {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]},
         InvalidValueError),
    ],
)  # fmt: skip
async def test_bad_region_is_refused_and_changes_nothing(
    bench: Bench, name: str, geojson: dict[str, Any], refusal: type[Refused]
) -> None:
    with pytest.raises(refusal):
        await bench.regions.put(name, geojson)
    assert bench.outbox.pending == 0


async def test_unknown_region_is_named(bench: Bench) -> None:
    with pytest.raises(UnknownRegionError, match="nowhere"):
        bench.regions.show("nowhere")


async def test_list_follows_the_chain(bench: Bench) -> None:
    assert bench.regions.list().regions == ()
    put = await bench.regions.put("alp", square(0.3))
    await bench.block()
    [entry] = bench.regions.list().regions
    assert (entry.name, entry.version, entry.cells) == ("alp", 1, put.cells)
