"""Which transactions come into the mempool and into a proposal.

Rules kept here (consensus.md, *Transactions* and *ABCI server rules*):

* The mempool takes only the next *pending* sequence of each node: the one after the last it took,
  counted from the committed one. Gaps are refused, since an engine may answer OK and then drop.
  Pending sequences are forgotten at Commit and rebuilt as the engine rechecks what it holds.
* Only the envelope is judged: format, chain, membership, sequence, signature, and that the body is
  shallow enough for a block to consume the sequence. What a body may do depends on the block.
* A proposal leaves out what would be refused at once, and stops where the engine's size limit is.
* Other validators' proposals are always accepted: a bad transaction gets its code when the block
  is executed. Verifying them on arrival leaves less to do then.
* Before genesis nothing can be judged: nothing is proposed, and nothing stops the node.

Not handled here: blocks (``block_execution``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from edgistry.errors import UnavailableError
from edgistry.transactions import NodeId, Transaction

from .abci_framing import proposal_prefix
from .ledger import Ledger
from .reader import RegistryReader
from .registry import REFUSALS
from .signatures import SignatureMemo
from .slices import Slices


class Admission:
    """The mempool's and the proposer's view of the committed state."""

    def __init__(self, ledger: Ledger, reader: RegistryReader, memo: SignatureMemo) -> None:
        self._ledger = ledger
        self._reader = reader
        self._memo = memo
        self._pending: dict[NodeId, int] = {}

    def check(self, data: bytes) -> None:
        """Take the transaction in ``data`` as its node's next pending one.

        Raises:
            UnavailableError: no chain has begun here.
            REFUSALS: it may not come in; nothing has changed.
        """
        if not self._ledger.started:
            raise UnavailableError("this node has not received its chain's genesis yet")
        transaction = self._open(data, self._pending)
        self._pending[NodeId(transaction.node_id)] = transaction.sequence

    def forget_pending(self) -> None:
        """Start again from the committed sequences."""
        self._pending.clear()

    async def propose(self, transactions: Sequence[bytes], max_bytes: int) -> list[bytes]:
        """Those of ``transactions`` that may succeed, in order, in ``max_bytes`` of protobuf."""
        if not self._ledger.started:
            return []
        slices, taken = Slices(), dict[NodeId, int]()
        good: list[bytes] = []
        for data in transactions:
            with contextlib.suppress(*REFUSALS):
                transaction = self._open(data, taken)
                taken[NodeId(transaction.node_id)] = transaction.sequence
                good.append(data)
            await slices.rest()
        return proposal_prefix(good, max_bytes)

    async def foresee(self, transactions: Sequence[bytes]) -> None:
        """Verify the signatures of a proposal, so that they are remembered when it is decided."""
        if not self._ledger.started:
            return
        slices = Slices()
        for data in transactions:
            with contextlib.suppress(*REFUSALS):
                self._memo.open(
                    data,
                    chain_id=self._ledger.parameters.chain_id,
                    member=self._ledger.members.get,
                    last=None,
                )
            await slices.rest()

    def _open(self, data: bytes, taken: dict[NodeId, int]) -> Transaction:
        def last(node_id: NodeId) -> int:
            known = taken.get(node_id)
            if known is None:
                # Remembered although it is committed: a chain has few members, a block many
                # transactions of each.
                known = taken[node_id] = self._reader.sequence(node_id).last
            return known

        return self._memo.open(
            data,
            chain_id=self._ledger.parameters.chain_id,
            member=self._ledger.members.get,
            last=last,
        )
