"""A chain without an engine: members with keys, records, and blocks by a hand-wound clock.

Everything is derived from names, so runs repeat exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from abci_app import abci_pb2 as pb
from abci_app.application import RegistryApplication
from abci_app.schema import GenesisMember, GenesisState, genesis_bytes
from edgistry.adapters import crypto
from edgistry.cell import parse_cell
from edgistry.kv import KeyValue
from edgistry.transactions import (
    Body,
    NodeId,
    NodeLease,
    RecordKey,
    RegionPut,
    ServiceRecord,
    ServicesPut,
    ServicesWithdraw,
    node_id_of,
    owner_tag,
    pack_cells,
    sign_transaction,
)

CHAIN = "test-chain"
START_US = 1_700_000_000_000_000
SECOND = 1_000_000
DAY = 86_400 * SECOND
CELL = parse_cell("872830828ffffff")
LEASE_US = 600 * SECOND


@dataclass(frozen=True)
class Node:
    """A member, or one who would like to be."""

    name: str

    @cached_property
    def seed(self) -> bytes:
        return hashlib.sha256(b"node " + self.name.encode()).digest()

    @cached_property
    def public_key(self) -> bytes:
        return crypto.public_key_of(self.seed)

    @cached_property
    def id(self) -> NodeId:
        return node_id_of(self.public_key)

    @cached_property
    def validator_key(self) -> bytes:
        return hashlib.sha256(b"validator " + self.name.encode()).digest()

    @cached_property
    def peer_id(self) -> bytes:
        return hashlib.sha256(b"peer " + self.name.encode()).digest()[:20]

    def sign(
        self, sequence: int, body: Body, *, chain_id: str = CHAIN, seed: bytes | None = None
    ) -> bytes:
        return sign_transaction(
            chain_id=chain_id,
            node_id=self.id,
            sequence=sequence,
            body=body,
            sign=crypto.signer(seed or self.seed),
        )


ANN, BOB, EVE = Node("ann"), Node("bob"), Node("eve")
"""Ann and Bob are members; Eve is not."""


def genesis(
    *members: Node,
    lease_s: int = LEASE_US // SECOND,
    delete_after_s: int = 7 * 86_400,
    outage_gap_s: int = 60,
    epoch_s: int = 86_400,
    validating: bool = False,
) -> GenesisState:
    return GenesisState(
        members=tuple(
            GenesisMember(
                name=member.name,
                public_key=member.public_key.hex(),
                validator_key=member.validator_key.hex() if validating else "",
                peer_id=member.peer_id.hex() if validating else "",
            )
            for member in members or (ANN, BOB)
        ),
        lease_s=lease_s,
        delete_after_s=delete_after_s,
        outage_gap_s=outage_gap_s,
        epoch_s=epoch_s,
    )


def key(name: str | int) -> RecordKey:
    return RecordKey(hashlib.sha256(f"key {name}".encode()).digest()[:16])


def record(
    name: str | int,
    *,
    cell: int = CELL,
    type_name: str = "thermometer",
    owner: str = "owner",
    crowd: int = 1,
) -> ServiceRecord:
    return ServiceRecord(
        key=key(name),
        type=type_name,
        cell=cell,
        actions=("read",),
        wake=1,
        commitment=hashlib.sha256(f"commitment {name}".encode()).digest(),
        owner=owner_tag(owner.encode()),
        crowd=crowd,
    )


def put(*names: str | int) -> ServicesPut:
    return ServicesPut(records=tuple(record(name) for name in names))


def withdraw(*names: str | int) -> ServicesWithdraw:
    return ServicesWithdraw(keys=tuple(key(name) for name in names))


def region(name: str, version: int = 1, cells: Iterable[int] = (CELL,)) -> RegionPut:
    return RegionPut(name=name, version=version, cells=pack_cells(list(cells)))


LEASE = NodeLease()


def timestamp(time_us: int) -> pb.Timestamp:
    return pb.Timestamp(seconds=time_us // SECOND, nanos=time_us % SECOND * 1000)


class World:
    """A registry application with a hand for an engine."""

    def __init__(self, store: KeyValue, state: GenesisState | None = None) -> None:
        self.app = RegistryApplication(store, allowed_peer_ids={"friend"}.__contains__)
        self.now_us = START_US
        self.genesis = state or genesis()
        self._sequences: dict[NodeId, int] = {}

    def started_anew(self) -> World:
        """The same chain, of which a new program knows what is stored."""
        again = World(self.app._ledger._store, self.genesis)
        again.now_us, again._sequences = self.now_us, self._sequences
        return again

    def begin(self) -> bytes:
        """InitChain; the app hash."""
        answer = self.app.init_chain(
            pb.RequestInitChain(
                time=timestamp(START_US),
                chain_id=CHAIN,
                app_state_bytes=genesis_bytes(self.genesis),
                validators=[
                    pb.ValidatorUpdate(
                        pub_key=pb.PublicKey(ed25519=bytes.fromhex(member.validator_key)), power=10
                    )
                    for member in self.genesis.members
                    if member.validator_key
                ],
                initial_height=1,
            )
        )
        return bytes(answer.app_hash)

    async def finalize(
        self, *transactions: bytes, height: int | None = None
    ) -> pb.ResponseFinalizeBlock:
        """FinalizeBlock at the present time."""
        return await self.app.finalize_block(
            pb.RequestFinalizeBlock(
                txs=transactions,
                height=self.app.reader.head.height + 1 if height is None else height,
                time=timestamp(self.now_us),
            )
        )

    async def block(self, *transactions: bytes, after_us: int = SECOND) -> list[int]:
        """A block of ``transactions``, ``after_us`` after the last; the result codes."""
        self.now_us += after_us
        answer = await self.finalize(*transactions)
        self.app.commit(pb.RequestCommit())
        return [result.code for result in answer.tx_results]

    def next(self, node: Node, body: Body) -> bytes:
        """``body`` signed by ``node`` with the sequence after the last one made here."""
        sequence = self._sequences.get(node.id, 0) + 1
        self._sequences[node.id] = sequence
        return node.sign(sequence, body)

    async def do(self, node: Node, body: Body, *, after_us: int = SECOND) -> int:
        """One block with one transaction; its code."""
        (code,) = await self.block(self.next(node, body), after_us=after_us)
        return code

    def check(self, transaction: bytes, *, recheck: bool = False) -> int:
        """CheckTx; the code."""
        kind = pb.RECHECK if recheck else pb.NEW
        return int(self.app.check_tx(pb.RequestCheckTx(tx=transaction, type=kind)).code)

    @property
    def app_hash(self) -> bytes:
        return self.app.reader.head.app_hash


def started(store: KeyValue, state: GenesisState | None = None) -> World:
    """A world whose chain has begun, without a block yet."""
    world = World(store, state)
    world.begin()
    return world
