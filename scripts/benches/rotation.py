"""A privacy epoch begins over 100 000 services, half of which want a crowd, and all move: how long
readers wait."""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from measure import report

from abci_app import abci_pb2 as pb
from abci_app.discover_service import Discoverer
from abci_app.epoch_keys import EpochKeys
from abci_app.schema import EpochStates
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.api import DiscoverQuery, NearArea
from edgistry.region import published_cell
from edgistry.signed_request import Client
from edgistry.transactions import (
    MAX_BATCH_RECORDS,
    EpochKey,
    MemberKey,
    ServiceRecord,
    ServicesPut,
)
from tests.abci_app.chain_world import ANN, SECOND, World, genesis, started

TARGET_MS = 50.0
EPOCHS = 2
CLIENT = Client(public_key=bytes(32))
QUERY = DiscoverQuery(area=NearArea(latitude=46.0, longitude=8.0, radius_km=20.0))


def record(source: random.Random, key: bytes) -> ServiceRecord:
    """A service of one of four owners, somewhere; every other one wants to be one of two."""
    return ServiceRecord(
        key=key,
        type=source.choice(("valve", "thermometer", "camera")),
        cell=published_cell(source.uniform(45, 47), source.uniform(7, 9), 7),
        actions=("read",),
        wake=1,
        commitment=bytes(32),
        owner=source.choice((b"a", b"b", b"c", b"d")) * 8,
        crowd=1 + key[0] % 2,
    )


class Reader:
    """Asks again and again; knows how long the loop was held by others in between.

    In processor time, so that other programs of the machine do not count.
    """

    def __init__(self, discoverer: Discoverer) -> None:
        self._discoverer = discoverer
        self.waits_s: list[float] = []

    async def run(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self.waits_s.append(time.thread_time() - before)
            await self._discoverer.discover(QUERY, CLIENT)

    def take_longest_ms(self) -> float:
        longest, self.waits_s = max(self.waits_s, default=0.0), []
        return longest * 1000


async def put_all(world: World, count: int, seed: int) -> None:
    """Publish all services, or move them."""
    source, keys = random.Random(seed), random.Random(1)
    for at in range(0, count, MAX_BATCH_RECORDS):
        size = min(MAX_BATCH_RECORDS, count - at)
        records = tuple(record(source, keys.randbytes(16)) for _ in range(size))
        await world.do(ANN, ServicesPut(records=records))


async def begin_epoch(world: World, keys: EpochKeys, number: int) -> None:
    """All that a node does in the block: execute, write, tell, and take the key."""
    await world.do(ANN, MemberKey(epoch=number, public=bytes(32)))
    body = EpochKey(epoch=number, check=bytes(16), sealed=((ANN.id, bytes(80)),))
    world.now_us += 4000 * SECOND
    await world.finalize(world.next(ANN, body))
    world.app.commit(pb.RequestCommit())
    put_key(keys, number)


def put_key(keys: EpochKeys, number: int) -> None:
    """The key of an epoch is here, and that of the one before still."""
    known = {each: each.to_bytes(32, "big") for each in (number - 1, number) if each}
    keys.put(known, EpochStates(number, None, None, None), epoch_us=1)


async def rotations(directory: Path, count: int) -> None:
    store = LevelKeyValue(directory / "registry.ldb")
    world = started(store, genesis(epoch_s=3600, lease_s=10_000_000))
    keys = EpochKeys()
    put_key(keys, 1)
    discoverer = Discoverer(world.app.reader, keys, min_height_wait_s=600.0)
    reader = Reader(discoverer)
    following = asyncio.create_task(discoverer.run())
    await put_all(world, count, seed=0)
    await begin_epoch(world, keys, 1)
    reading = asyncio.create_task(reader.run())
    waits_ms = []
    for number in range(2, EPOCHS + 2):
        await put_all(world, count, seed=number)
        reader.take_longest_ms()
        await begin_epoch(world, keys, number)
        await discoverer.reach(world.app.reader.head.height)
        waits_ms.append(reader.take_longest_ms())
    if reading.done():
        reading.result()
    reading.cancel()
    following.cancel()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report(
        "rotation",
        "longest wait of a reader over the target",
        max(waits_ms) / TARGET_MS,
        at_most=1.0,
        waits_ms=[round(each, 1) for each in waits_ms],
        services=count,
        listed=len(discoverer.index),
        peak_mib=round(peak_mib),
    )
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(rotations(Path(directory), arguments.services))


if __name__ == "__main__":
    main()
