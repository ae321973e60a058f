"""Several nodes that keep epoch keys over one chain: what they see comes late, and they crash.

The chain is a real registry application with a hand for an engine; what each node sees of it is one
of its past blocks. Nodes have real outboxes and keepers over stores in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from abci_app import turns
from abci_app.epoch_keeper import EpochKeeper
from abci_app.outbox import Outbox
from abci_app.schema import ChainParameters, EpochStates, Head, Member, SequenceState
from edgistry.adapters import crypto
from edgistry.errors import UnavailableError
from edgistry.kv import Change, MemoryKeyValue
from edgistry.transactions import (
    Body,
    NodeId,
    epoch_check,
    parse_body,
    parse_transaction,
)

from .chain_world import CHAIN, SECOND, Node, World, genesis, started

EPOCH_S = 600
BEAT_US = 10 * SECOND


class CrashError(Exception):
    """The program has ended here."""


class CrashingStore(MemoryKeyValue):
    """Crashes at the write whose number is told, before or after it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.crash_in: int | None = None
        self.crashes_after_writing = False

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash_in = None
                if self.crashes_after_writing:
                    super().write(changes, sync=sync)
                raise CrashError
        super().write(changes, sync=sync)


@dataclass(frozen=True)
class Snapshot:
    """What one block left behind."""

    head: Head
    parameters: ChainParameters
    members: Mapping[NodeId, Member]
    states: EpochStates
    sequences: dict[NodeId, SequenceState]


class Chain:
    """Blocks on demand; every block is remembered as nodes may see it later."""

    def __init__(self, *nodes: Node, epoch_s: int = EPOCH_S) -> None:
        self.nodes = nodes
        self.world: World = started(
            MemoryKeyValue(), genesis(*nodes, epoch_s=epoch_s, lease_s=10_000_000)
        )
        self.mempool: list[bytes] = []
        self.blocks: list[Snapshot] = []
        self.bodies: list[tuple[NodeId, Body, int]] = []
        """Who sent what, and the code it came to."""

    async def block(self, after_us: int = BEAT_US) -> None:
        """A block of all that waits."""
        taken, self.mempool = self.mempool, []
        codes = await self.world.block(*taken, after_us=after_us)
        for data, code in zip(taken, codes, strict=True):
            transaction = parse_transaction(data)
            self.bodies.append((NodeId(transaction.node_id), parse_body(transaction), code))
        reader = self.world.app.reader
        self.blocks.append(
            Snapshot(
                head=reader.head,
                parameters=reader.parameters,
                members=reader.members(),
                states=reader.epochs(),
                sequences={node.id: reader.sequence(node.id) for node in self.nodes},
            )
        )

    def admits(self, data: bytes) -> bool:
        """Whether ``data`` has the next sequence of its sender, as CheckTx would find."""
        transaction = parse_transaction(data)
        waiting = [parse_transaction(each).node_id for each in self.mempool]
        last = self.world.app.reader.sequence(NodeId(transaction.node_id)).last
        return transaction.sequence == last + waiting.count(transaction.node_id) + 1

    @property
    def number(self) -> int:
        return self.world.app.reader.epoch


class EpochNode:
    """One node: a store that survives, and a program that does not."""

    def __init__(self, chain: Chain, node: Node, seed: int = 0) -> None:
        self.chain = chain
        self.node = node
        self.store = CrashingStore()
        self.seen = -1
        """The block it has seen last."""
        self.steady_s = 0.0
        self.is_cut_off = False
        """It neither sees blocks nor sends."""
        self.is_mute = False
        """It sees blocks, but what it sends is lost."""
        self.catches_up = False
        self._random = random.Random(f"{node.name} {seed}")
        self.start()

    def start(self) -> None:
        """The program starts on what the store has."""
        self.store.crash_in = None
        self.outbox = Outbox(
            self.store,
            chain_id=CHAIN,
            node_id=self.node.id,
            sign=self._sign,
            reader=self,
            sink=self,
            clock_s=lambda: self.steady_s,
        )
        self.keeper = EpochKeeper(
            self.store,
            node_id=self.node.id,
            reader=self,
            outbox=self.outbox,
            caught_up=lambda: not self.catches_up,
            clock_us=lambda: self.wall_us,
            draw=self._random.randbytes,
        )

    # --- what a keeper and an outbox ask of it ----------------------------------------------------

    @property
    def _block(self) -> Snapshot:
        return self.chain.blocks[self.seen]

    @property
    def wall_us(self) -> int:
        return self.chain.world.now_us

    @property
    def head(self) -> Head:
        return self._block.head

    @property
    def parameters(self) -> ChainParameters:
        return self._block.parameters

    def members(self) -> Mapping[NodeId, Member]:
        return self._block.members

    def epochs(self) -> EpochStates:
        return self._block.states

    def sequence(self, node_id: NodeId) -> SequenceState:
        if self.seen < 0:
            return SequenceState(last=0)
        return self._block.sequences[node_id]

    async def next_commit(self) -> None:
        raise AssertionError("nodes here are led by hand")

    async def submit(self, transaction: bytes) -> None:
        if self.is_cut_off or self.is_mute:
            raise UnavailableError("cut off")
        if self.chain.admits(transaction):
            self.chain.mempool.append(transaction)

    def _sign(self, message: bytes) -> bytes:
        return crypto.sign(self.node.seed, message)

    # --- what happens to it -----------------------------------------------------------------------

    async def look(self) -> None:
        """It sees the last block and does what follows from it."""
        if not self.is_cut_off:
            self.seen = len(self.chain.blocks) - 1
        self.steady_s += 10.0
        await self.outbox.step()
        await self.keeper.follow()
        await self.outbox.step()

    def secrets(self) -> list[tuple[bytes, bytes]]:
        """All that its keeper has on disk."""
        return list(self.store.scan(b"e/", b"e0"))

    @property
    def has_current(self) -> bool:
        current = self.keeper.keys.current()
        return current is not None and current[0] == self.chain.number


def nodes_of(chain: Chain, seed: int = 0) -> list[EpochNode]:
    """A node for each member."""
    return [EpochNode(chain, node, seed) for node in chain.nodes]


async def rounds(
    chain: Chain,
    nodes: Sequence[EpochNode],
    count: int,
    *,
    after_us: int = BEAT_US,
    until: Callable[[], bool] = lambda: False,
) -> int:
    """``count`` blocks that all ``nodes`` see, or fewer until ``until``; how many were needed."""
    for done in range(count):
        if until():
            return done
        await chain.block(after_us)
        for node in nodes:
            await node.look()
    return count


def check_agreement(chain: Chain, nodes: Iterable[EpochNode]) -> None:
    """Whoever has the key of an epoch has the same one, and it is what the chain says."""
    for node in nodes:
        keys = node.keeper.keys
        states = chain.blocks[node.seen].states if node.seen >= 0 else None
        for number in range(1, chain.number + 2):
            key = keys.of(number)
            if key is None:
                continue
            assert states is not None
            assert states.kept()[number].check == epoch_check(key)


def maker(chain: Chain, nodes: Sequence[EpochNode], rank: int = 0) -> EpochNode:
    """Whose turn it is, of all ``nodes``, to make the key of the next epoch."""
    order = turns.makers(
        [node.node.id for node in nodes],
        chain_id=CHAIN,
        epoch=chain.number + 1,
        given_up=dict(chain.blocks[-1].states.given_up),
    )
    return next(node for node in nodes if node.node.id == order[rank])


def sent_by(chain: Chain, node: Node, kind: type[Body]) -> list[Body]:
    """What ``node`` sent of one kind and the chain took."""
    return [
        body
        for sender, body, code in chain.bodies
        if sender == node.id and isinstance(body, kind) and code == 0
    ]


def members(count: int) -> list[Node]:
    """That many nodes, in the order of their ids."""
    return sorted((Node(f"member-{number}") for number in range(count)), key=lambda node: node.id)
