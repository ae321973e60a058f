"""The durable registry: records, their hash tree, and the head they belong to.

Rules kept here (consensus.md, *Crash rules* and *App hash*):

* One synced write a block carries its records, the bookkeeping and the head. The engine's block
  store is ahead of it or level, never behind.
* The tree lives in memory. It is rebuilt from the records when the database is opened and its
  root must be the hash of the stored head, else the database is corrupt.
* Until the first Commit nothing is on disk: genesis waits in memory, and may come again.
* The state before the last block stays provable until the next one.

Not handled here: what a block changes (``registry``), who applies it (``block_execution``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgistry.errors import (
    ChainMismatchError,
    CorruptDatabaseError,
    DatabaseLayoutError,
    UnavailableError,
)
from edgistry.kv import Change, KeyValue, MemoryKeyValue, prefix_end
from edgistry.membership import MAX_POWER
from edgistry.transactions import NodeId

from . import registry
from .block_state import BlockChanges, BlockState, Committed
from .merkle import EMPTY_ROOT, AbsenceProof, MerkleMap, Proof, Update, Version
from .schema import (
    FORMAT,
    FORMAT_KEY,
    FORMER,
    HEAD_KEY,
    HOMES,
    MEMBERS,
    NO_POWERS,
    PARAMETERS_KEY,
    RECORDS_START,
    RECORDS_STOP,
    ROLL_KEY,
    SERVICES,
    ChainParameters,
    Former,
    GenesisState,
    Head,
    Member,
    Roll,
    genesis_members,
    genesis_parameters,
    pack,
    unpack,
)

NO_HEAD = Head(height=0, block_time_us=0, app_hash=EMPTY_ROOT, previous_app_hash=EMPTY_ROOT)
"""The head of a database in which no chain has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedBlock:
    """An executed block that waits for its Commit."""

    head: Head
    changes: BlockChanges
    update: Update


class Ledger:
    """The registry in ``store``, which is this object's alone to write.

    Raises (on opening):
        CorruptDatabaseError: records and head contradict each other, or do not decode.
        DatabaseLayoutError: another version of this program wrote it.
    """

    def __init__(self, store: KeyValue) -> None:
        self._store = store
        self._genesis: tuple[Change, ...] = ()
        self._earlier: Version | None = None
        self._before: Mapping[bytes, bytes | None] = {}
        self.records: Committed = store
        """What is committed; until the first Commit, what genesis says."""
        self.head = _stored_head(store)
        self.tree = MerkleMap(store.scan(RECORDS_START, RECORDS_STOP))
        if self.head.height:
            self._check()
        elif len(self.tree):
            raise CorruptDatabaseError("records of a chain without its head")
        self._read_chain()

    def _check(self) -> None:
        if self.tree.root != self.head.app_hash:
            raise CorruptDatabaseError(
                f"the records hash to {self.tree.root.hex()}, but the head of height"
                f" {self.head.height} says {self.head.app_hash.hex()}"
            )
        services, homes = _count(self._store, SERVICES), _count(self._store, HOMES)
        if services != homes:
            raise CorruptDatabaseError(f"{services} services, but {homes} in the index of homes")

    def _read_chain(self) -> None:
        data = self.records.get(PARAMETERS_KEY)
        self._parameters = None if data is None else unpack(data, ChainParameters)
        self.members: dict[NodeId, Member] = {
            NodeId(key[len(MEMBERS) :]): unpack(value, Member)
            for key, value in self.records.scan(MEMBERS, prefix_end(MEMBERS))
        }
        self.former: dict[NodeId, Former] = {
            NodeId(key[len(FORMER) :]): unpack(value, Former)
            for key, value in self.records.scan(FORMER, prefix_end(FORMER))
        }
        data = self.records.get(ROLL_KEY)
        self.member_changes = 0 if data is None else unpack(data, Roll).changes

    @property
    def parameters(self) -> ChainParameters:
        """What genesis fixed.

        Raises:
            UnavailableError: no chain has begun here.
        """
        if self._parameters is None:
            raise UnavailableError("this node has not received its chain's genesis yet")
        return self._parameters

    @property
    def started(self) -> bool:
        """Whether genesis is known."""
        return self._parameters is not None

    def begin(
        self,
        chain_id: str,
        state: GenesisState,
        time_us: int,
        *,
        validators: Mapping[bytes, int] = NO_POWERS,
    ) -> bytes:
        """Start the chain from ``state``; the app hash of genesis. Repeatable until a Commit.

        ``validators`` are the engine's: their powers by key.

        Raises:
            ChainMismatchError: blocks are committed here, ``state`` is for another chain, or its
                members' validator keys are not those of ``validators``, or one has a power that no
                member can have.
        """
        if self.head.height:
            raise ChainMismatchError(
                f"the engine starts chain {chain_id!r} from genesis, but registry.ldb is at height"
                f" {self.head.height} of chain {self.parameters.chain_id!r}; was the engine's data"
                " reset without the registry?"
            )
        if state.chain_id not in {"", chain_id}:
            raise ChainMismatchError(f"genesis says {state.chain_id!r}, the engine {chain_id!r}")
        members = genesis_members(state, validators)
        stated = {member.validator_key for member in members.values() if member.validator_key}
        if stated and stated != validators.keys():
            raise ChainMismatchError(
                "genesis: the validator keys of the members are not those of the validators"
            )
        for member in members.values():
            if member.power > MAX_POWER:
                raise ChainMismatchError(
                    f"genesis: the validator of member {member.name} has power {member.power}; a"
                    f" member's is at most {MAX_POWER}"
                )
        block = BlockState(MemoryKeyValue())
        parameters = genesis_parameters(chain_id, state)
        registry.genesis(block, parameters, members, time_us)
        for _ in block.settle():
            pass
        self._genesis = block.changes.records
        records = MemoryKeyValue()
        records.write(self._genesis, sync=False)
        self.records = records
        self.tree = MerkleMap(records.scan(RECORDS_START, RECORDS_STOP))
        self.head = Head(
            height=0,
            block_time_us=time_us,
            app_hash=self.tree.root,
            previous_app_hash=self.tree.root,
        )
        self._read_chain()
        return self.tree.root

    def commit(self, staged: StagedBlock) -> None:
        """Make ``staged`` durable, and the committed state."""
        changes = staged.changes
        self._store.write(
            (
                *self._genesis,
                *changes.records,
                *changes.bookkeeping,
                (HEAD_KEY, pack(staged.head)),
                (FORMAT_KEY, pack_format()),
            ),
            sync=True,
        )
        self._genesis = ()
        self.records = self._store
        self._earlier = self.tree.adopt(staged.update)
        self._before = changes.before
        self.head = staged.head
        if any(key.startswith((FORMER, MEMBERS, PARAMETERS_KEY)) for key in changes.before):
            self._read_chain()

    def keeps(self, height: int) -> bool:
        """Whether the state after block ``height`` can be proven."""
        if height == self.head.height - 1:
            # After a restart the state before the last block is known only if it is the same.
            same = self.head.previous_app_hash == self.head.app_hash
            return self._earlier is not None or same
        return height == self.head.height

    def prove(self, key: bytes, *, height: int) -> tuple[bytes | None, Proof | AbsenceProof]:
        """The value of ``key`` after block ``height``, and its proof.

        The proof leads to the app hash in the header of the block after ``height``. Only the last
        height and the one before are kept.

        Raises:
            UnavailableError: another height.
        """
        if not self.started or not self.keeps(height):
            raise UnavailableError(
                f"no proof for height {height}: only the last block's state ({self.head.height})"
                " and, while the node runs, the one before are kept"
            )
        if height == self.head.height or self._earlier is None:
            return self.records.get(key), self.tree.prove(key)
        value = self._before[key] if key in self._before else self.records.get(key)
        return value, self._earlier.prove(key)


def pack_format() -> bytes:
    """The stored number of the database layout."""
    return FORMAT.to_bytes(2, "big")


def _stored_head(store: KeyValue) -> Head:
    data = store.get(HEAD_KEY)
    if data is None:
        return NO_HEAD
    found = store.get(FORMAT_KEY)
    if found != pack_format():
        number = int.from_bytes(found or b"", "big")
        raise DatabaseLayoutError(
            f"registry.ldb has layout {number}, and this program reads {FORMAT}"
        )
    return unpack(data, Head)


def _count(store: KeyValue, prefix: bytes) -> int:
    return sum(1 for _ in store.scan(prefix, prefix_end(prefix)))
