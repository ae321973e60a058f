"""What privacy costs: pages with handles, a choice among 10 000 members, a change of epochs."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from _clusters import new_directory
from edgistry_abci_app import abci_pb2 as pb
from edgistry_abci_app.any_desk import AnycastDesk
from edgistry_abci_app.any_grants import AnyGrants
from edgistry_abci_app.application import RegistryApplication
from edgistry_abci_app.choices import Choices
from edgistry_abci_app.discover_service import Discoverer
from edgistry_abci_app.discovery import ServiceIndex
from edgistry_abci_app.epoch_keys import ARITHMETIC, EpochKeys
from edgistry_abci_app.memberships import Memberships
from edgistry_abci_app.profiles import Listed, Profile
from edgistry_abci_app.schema import (
    EpochStates,
    GenesisMember,
    GenesisState,
    StoredService,
    genesis_bytes,
)
from measure import alternate, report
from rotation import rotations

from edgistry.adapters.crypto import generate_signing_key, public_key_of, sign
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.anycast_api import AnyGrantBody
from edgistry.api import DiscoverQuery, NearArea
from edgistry.codec import encode_json
from edgistry.handles import Arithmetic, HandleKey
from edgistry.region import cover_cell, published_cell
from edgistry.signed_request import Client
from edgistry.transactions import (
    MAX_BATCH_RECORDS,
    Body,
    NodeId,
    ServiceRecord,
    ServicesPut,
    node_id_of,
    sign_transaction,
)

RECORDS, MEMBERS, PAGE = 100_000, 10_000, 20
IN_ONE_CELL = 100_000
CHAIN, START_US, SECOND = "bench", 1_750_000_000_000_000, 1_000_000
CENTRE = (37.77, -122.42)


@dataclass
class Chain:
    """The application of one node with its registry on disk, and a hand for an engine."""

    app: RegistryApplication
    seed: bytes = field(default_factory=generate_signing_key, repr=False)
    now_us: int = START_US
    sequence: int = 0

    @property
    def node(self) -> NodeId:
        return node_id_of(public_key_of(self.seed))

    def begin(self) -> None:
        member = GenesisMember(name="bench", public_key=public_key_of(self.seed).hex())
        state = GenesisState(members=(member,), lease_s=86_400, epoch_s=3600)
        self.app.init_chain(
            pb.RequestInitChain(
                time=_timestamp(START_US),
                chain_id=CHAIN,
                app_state_bytes=genesis_bytes(state),
                initial_height=1,
            )
        )

    async def block(self, *bodies: Body, after_us: int = SECOND) -> None:
        """One block with these transactions."""
        self.now_us += after_us
        transactions = []
        for body in bodies:
            self.sequence += 1
            transactions.append(
                sign_transaction(
                    chain_id=CHAIN,
                    node_id=self.node,
                    sequence=self.sequence,
                    body=body,
                    sign=lambda message: sign(self.seed, message),
                )
            )
        answer = await self.app.finalize_block(
            pb.RequestFinalizeBlock(
                txs=transactions,
                height=self.app.reader.head.height + 1,
                time=_timestamp(self.now_us),
            )
        )
        if any(result.code for result in answer.tx_results):
            raise SystemExit(f"bench: a block was refused: {answer.tx_results}")
        self.app.commit(pb.RequestCommit())

    async def fill(self, count: int) -> None:
        """So many services around one place, a third of which want a crowd of ten owners."""
        draw = random.Random(5)
        for begin in range(0, count, MAX_BATCH_RECORDS):
            numbers = range(begin, min(count, begin + MAX_BATCH_RECORDS))
            await self.block(ServicesPut(records=tuple(_record(n, draw) for n in numbers)))


def _timestamp(time_us: int) -> pb.Timestamp:
    return pb.Timestamp(seconds=time_us // SECOND, nanos=time_us % SECOND * 1000)


def _record(number: int, draw: random.Random) -> ServiceRecord:
    wide = 0.4 if number < MEMBERS else 3.0
    place = [centre + draw.uniform(-wide, wide) for centre in CENTRE]
    return ServiceRecord(
        key=hashlib.sha256(b"%d" % number).digest()[:16],
        type="thermometer" if number < MEMBERS else "camera",
        cell=published_cell(place[0], place[1], 7),
        actions=("read",),
        wake=1,
        commitment=hashlib.sha256(b"commitment %d" % number).digest(),
        owner=(draw.randrange(500)).to_bytes(8, "big"),
        crowd=10 if number % 3 == 0 and number >= MEMBERS else 1,
    )


# --- pages --------------------------------------------------------------------------------------


class Plain:
    """What a handle would be sealed with if it told its node and record to anybody."""

    def __init__(self, key: bytes) -> None:
        self._tag = key[:16]

    def seal(self, secret: bytes, context: bytes) -> bytes:
        return self._tag + secret

    def open(self, sealed: bytes, context: bytes) -> bytes:
        return sealed[16:]


PLAIN = Arithmetic(Plain, lambda _, blocks: blocks, lambda _, blocks: blocks)


class OneKey(EpochKeys):
    """The key of epoch 1, for handles that are made with ``arithmetic``."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.put({1: bytes(32)}, EpochStates(1, None, None, None), epoch_us=1)
        self._key = HandleKey(1, bytes(32), arithmetic)

    def handles(self) -> HandleKey:
        return self._key

    def handles_of(self, number: int) -> HandleKey:
        return self._key


def handles(chain: Chain) -> None:
    """A page of 20 whose handles and order are one client's and epoch's, against one where the
    same is done without cryptography; both with all else that a page takes but HTTP."""
    area = DiscoverQuery(area=NearArea(latitude=CENTRE[0], longitude=CENTRE[1], radius_km=20.0))
    client = Client(public_key=bytes(32))

    def page(arithmetic: Arithmetic) -> Callable[[], bytes]:
        discoverer = Discoverer(chain.app.reader, OneKey(arithmetic))

        def made() -> bytes:
            asking = discoverer.discover(area, client)
            try:
                asking.send(None)
            except StopIteration as done:
                return encode_json(done.value)
            raise SystemExit("bench: a small query had to wait")

        return made

    rounds = alternate({"without": page(PLAIN), "with": page(ARITHMETIC)})
    report(
        "privacy",
        f"a page of {PAGE} with unlinkable handles / with plain ones",
        rounds.ratio("with", "without"),
        at_most=2.0,
        plain_us=round(rounds.microseconds("without"), 1),
        unlinkable_us=round(rounds.microseconds("with"), 1),
    )


def large_cell() -> None:
    """A page of 20 among services that are all of one type and in one cell: the index's part."""
    cell = published_cell(*CENTRE, 7)
    stored = StoredService(
        home=bytes(20),
        type="thermometer",
        cell=cell,
        actions=("read",),
        wake=1,
        commitment=bytes(32),
        owner=bytes(8),
        crowd=1,
    )
    index = ServiceIndex()
    keys = (hashlib.sha256(b"%d" % number).digest()[:16] for number in range(IN_ONE_CELL))
    index.rebuild((key, Listed(cell, Profile.of(stored))) for key in keys)
    order = HandleKey(1, bytes(32), ARITHMETIC).order(bytes(16))
    cover, after, times = cover_cell(cell), None, []
    for _ in range(50):
        began = time.perf_counter()
        page = index.search(
            cover, None, limit=PAGE, order=order, after=after, is_visible=lambda _: True
        )
        times.append(time.perf_counter() - began)
        after = page.next
    median_ms = statistics.median(times) * 1000
    report(
        "privacy",
        f"a page of {PAGE} among {IN_ONE_CELL} services of one cell / 50 ms, p50",
        median_ms / 50,
        at_most=1.0,
        p50_ms=round(median_ms, 1),
        worst_ms=round(max(times) * 1000, 1),
    )


# --- anycast ------------------------------------------------------------------------------------


async def anycast(chain: Chain, discoverer: Discoverer, local: AnyGrants | None = None) -> None:
    """Choosing among 10 000 members, each with a look at the registry."""
    reader = chain.app.reader
    keys = EpochKeys()
    keys.put({1: bytes(32)}, EpochStates(1, None, None, None), epoch_us=1)
    choices = Choices()
    memberships = Memberships(discoverer, is_visible=reader.is_visible, seed=bytes(32))
    desk = AnycastDesk(
        memberships,
        choices,
        node_id=chain.node,
        keys=keys,
        find=reader.service,
        is_visible=reader.is_visible,
        local=local,  # type: ignore[arg-type]
        links={},
    )
    query = DiscoverQuery(
        area=NearArea(latitude=CENTRE[0], longitude=CENTRE[1], radius_km=100.0), type="thermometer"
    )
    began = time.perf_counter()
    group = await memberships.of(query, epoch=1)
    frozen_ms = (time.perf_counter() - began) * 1000
    if len(group.members) != MEMBERS:
        raise SystemExit(f"bench: {len(group.members)} members instead of {MEMBERS}")
    body = AnyGrantBody(type="thermometer", sealing_key="", actions=("read",), region="bench")
    times = []
    for number in range(20_000):
        began = time.perf_counter()
        record = desk.choose(group, body, b"client.1", avoid=set(), now_us=number)
        times.append(time.perf_counter() - began)
        if record is not None:
            choices.made(record, b"client.1", alias=b"%d" % number, now_us=number)
    median_ms = statistics.median(times) * 1000
    report(
        "privacy",
        f"a choice among {MEMBERS} members / 0.5 ms, p50",
        median_ms / 0.5,
        at_most=1.0,
        p50_us=round(median_ms * 1000, 1),
        p99_us=round(statistics.quantiles(times, n=100)[98] * 1e6, 1),
        frozen_ms=round(frozen_ms, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    directory = new_directory("privacy")
    store = LevelKeyValue(directory / "registry.ldb")
    try:
        chain = Chain(RegistryApplication(store, allowed_peer_ids=lambda _: False))
        chain.begin()
        asyncio.run(chain.fill(RECORDS))
        discoverer = Discoverer(chain.app.reader, EpochKeys())
        handles(chain)
        large_cell()
        asyncio.run(anycast(chain, discoverer))
    finally:
        store.close()
        shutil.rmtree(directory, ignore_errors=True)
    with tempfile.TemporaryDirectory() as registry:
        asyncio.run(rotations(Path(registry), RECORDS))


if __name__ == "__main__":
    main()
