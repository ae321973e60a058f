"""Executing a decided block: from its transactions to a staged state and one result each.

Rules kept here:

* Nothing committed changes; the outcome waits in a ``StagedBlock``. It is a function of the
  committed state, the block's height, time and transactions, and of nothing else.
* Exactly one result a transaction, in order. A refused transaction gets its error's number and
  the block goes on; any other exception leaves here and stops the node.
* The number is part of consensus. How deep a transaction may nest before it does not parse differs
  between interpreters, so one that is refused for anything else is measured first: too deep is
  malformed everywhere, whatever else is wrong with it.
* The work is done in slices, so that a block of 2 MB does not hold up those who read.

Not handled here: durability (``ledger``), the rules (``registry``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgistry.errors import ChainMismatchError, MalformedError, Refused, TooLargeError
from edgistry.transactions import Verify

from . import registry
from .block_state import Block, BlockChanges, BlockState
from .ledger import Ledger, StagedBlock
from .membership import validator_updates
from .merkle import Update
from .nesting import check_nesting
from .placing import Placing
from .reader import RecordChange
from .registry import REFUSALS
from .schema import Head, Member, member_key
from .signatures import SignatureMemo
from .slices import Slices

_STEP = 256
"""Changes handled between two looks at the slice: less than a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedBlock:
    """A staged block, what each transaction came to, and what subscribers will hear."""

    staged: StagedBlock
    results: tuple[Refused | None, ...]
    """For each transaction: ``None`` applied, else why not."""
    record_changes: Sequence[RecordChange]
    validator_updates: tuple[tuple[bytes, int], ...]
    """(validator key, power) for the engine; a power of 0 takes the validator out."""


class BlockExecutor:
    """Executes blocks on top of what ``ledger`` has committed."""

    def __init__(self, ledger: Ledger, memo: SignatureMemo, verify: Verify) -> None:
        self._ledger = ledger
        self._memo = memo
        self._verify = verify

    async def execute(
        self, *, height: int, time_us: int, transactions: Sequence[bytes]
    ) -> ExecutedBlock:
        """Stage the block of ``height``, whose time is ``time_us`` microseconds.

        Raises:
            ChainMismatchError: not the block after the committed one.
        """
        ledger, slices = self._ledger, Slices()
        self._check_height(height)
        state = BlockState(ledger.records)
        block = registry.begin_block(
            state,
            ledger.parameters,
            ledger.members,
            previous_us=ledger.head.block_time_us,
            block_us=time_us,
            verify=self._verify,
        )
        results = []
        for data in transactions:
            refusal, block = self._apply(state, block, data)
            results.append(refusal)
            await slices.rest()
        for _ in state.settle():
            await slices.rest()
        placing = Placing(ledger.records, state.changes, slices)
        await placing.run()
        changes = state.changes.beside(placing.bookkeeping)
        update = await self._hash(changes, slices)
        head = Head(
            height=height,
            block_time_us=time_us,
            app_hash=update.root,
            previous_app_hash=ledger.tree.root,
        )
        return ExecutedBlock(
            staged=StagedBlock(head=head, changes=changes, update=update),
            results=tuple(results),
            record_changes=placing.record_changes,
            validator_updates=validator_updates(changes.before, changes.values),
        )

    def _check_height(self, height: int) -> None:
        if not self._ledger.started:
            raise ChainMismatchError(
                f"the engine sends block {height}, but registry.ldb holds no chain; was the"
                " registry reset without the engine, or never begun?"
            )
        last = self._ledger.head.height
        # A chain may begin at any height: the first block is whatever the engine says it is.
        if last and height != last + 1:
            raise ChainMismatchError(f"the engine sends block {height}; registry.ldb is at {last}")

    def _apply(self, state: BlockState, block: Block, data: bytes) -> tuple[Refused | None, Block]:
        try:
            transaction = self._memo.open(
                data,
                chain_id=block.parameters.chain_id,
                member=lambda node_id: state.get(member_key(node_id), Member),
                last=lambda node_id: registry.sequence_of(state, node_id).last,
            )
        except REFUSALS as refusal:
            return _envelope_refusal(refusal, data), block
        try:
            return None, registry.execute(state, block, transaction)
        except REFUSALS as refusal:
            return refusal, block

    async def _hash(self, changes: BlockChanges, slices: Slices) -> Update:
        update = self._ledger.tree.update()
        for start in range(0, len(changes.records), _STEP):
            update.put(changes.records[start : start + _STEP])
            await slices.rest()
        for _ in update.settle():
            await slices.rest()
        return update


def _envelope_refusal(refusal: Refused, data: bytes) -> Refused:
    if isinstance(refusal, (MalformedError, TooLargeError)):
        return refusal
    try:
        check_nesting(data)
    except MalformedError as malformed:
        return malformed
    return refusal
