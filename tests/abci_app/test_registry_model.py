"""The registry against a model of a few lines, over random blocks.

The model knows owners, sequences and refusals; the app hash is compared with the records as they
lie in the store, hashed by an independent reading of RFC 6962.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.schema import RECORDS_START, RECORDS_STOP
from edgistry.errors import (
    DuplicateError,
    NotOwnerError,
    WrongSequenceError,
    WrongVersionError,
)
from edgistry.kv import MemoryKeyValue
from edgistry.transactions import Body, RegionPut, ServicesPut, ServicesWithdraw

from . import rfc6962
from .chain_world import ANN, BOB, Node, World, key, put, region, started, withdraw

NAMES = st.lists(st.integers(0, 5), min_size=1, max_size=4)
BODIES = (
    NAMES.map(lambda names: put(*names))
    | NAMES.map(lambda names: withdraw(*names))
    | st.builds(region, st.sampled_from(["bay", "alp"]), st.integers(1, 3))
)
STEPS = st.tuples(st.sampled_from([ANN, BOB]), BODIES, st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2]))
BLOCKS = st.lists(st.lists(STEPS, max_size=6), max_size=6)


@dataclass
class Model:
    owners: dict[bytes, bytes] = field(default_factory=dict)
    regions: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    last: dict[bytes, int] = field(default_factory=dict)
    refused: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)

    def apply(self, node: Node, sequence: int, body: Body) -> int:
        """The code of a transaction, and what it does."""
        if sequence != self.last.get(node.id, 0) + 1:
            return WrongSequenceError.number
        self.last[node.id] = sequence
        code = self._body(node, body)
        if code:
            self.refused.setdefault(node.id, []).append((sequence, code))
        return code

    def _body(self, node: Node, body: Body) -> int:
        if isinstance(body, RegionPut):
            owner, version = self.regions.get(body.name, (node.id, 0))
            if owner != node.id:
                return NotOwnerError.number
            if body.version != version + 1:
                return WrongVersionError.number
            self.regions[body.name] = (node.id, body.version)
            return 0
        if isinstance(body, ServicesPut):
            keys = [record.key for record in body.records]
        else:
            assert isinstance(body, ServicesWithdraw)
            keys = list(body.keys)
        if len(keys) != len(set(keys)):
            return DuplicateError.number
        if any(self.owners.get(found, node.id) != node.id for found in keys):
            return NotOwnerError.number
        for found in keys:
            self.owners.pop(found, None)
            if isinstance(body, ServicesPut):
                self.owners[found] = node.id
        return 0


def check_same(world: World, model: Model) -> None:
    reader = world.app.reader
    assert {found: service.home for found, service in reader.services()} == model.owners
    assert {name: (r.owner, r.version) for name, r in reader.regions()} == model.regions
    for node in (ANN, BOB):
        state = reader.sequence(node.id)
        assert state.last == model.last.get(node.id, 0)
        assert list(state.refused) == model.refused.get(node.id, [])[-16:]


@settings(deadline=None, max_examples=40)
@given(blocks=BLOCKS)
def test_random_blocks_do_what_the_model_does(blocks: list[list[tuple[Node, Body, int]]]) -> None:
    async def run() -> None:
        world, model = started(MemoryKeyValue()), Model()
        for block in blocks:
            transactions, expected = [], []
            for node, body, step in block:
                sequence = max(1, model.last.get(node.id, 0) + step)
                transactions.append(node.sign(sequence, body))
                expected.append(model.apply(node, sequence, body))
            assert await world.block(*transactions) == expected
            check_same(world, model)

    asyncio.run(run())


@settings(deadline=None, max_examples=10)
@given(blocks=BLOCKS)
def test_the_app_hash_is_that_of_the_stored_records(
    blocks: list[list[tuple[Node, Body, int]]],
) -> None:
    async def run() -> None:
        store = MemoryKeyValue()
        world = started(store)
        await world.block()
        for block in blocks:
            await world.block(*(world.next(node, body) for node, body, _ in block))
            records = dict(store.scan(RECORDS_START, RECORDS_STOP))
            assert world.app_hash == rfc6962.two_level_root(records)

    asyncio.run(run())


def test_the_model_knows_an_owner() -> None:
    model = Model()
    assert model.apply(ANN, 1, put("a")) == 0
    assert model.apply(BOB, 1, withdraw("a")) == NotOwnerError.number
    assert model.owners == {key("a"): ANN.id}
