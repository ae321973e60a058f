"""Opening a transaction: its bytes become a transaction whose sender is proven.

Rules kept here:

* Cheap checks come first: format, chain, membership, sequence, and only then the signature, so
  that a replayed or foreign transaction costs no arithmetic.
* Verify once: a transaction that verified is remembered by its SHA-256, so that CheckTx,
  ProcessProposal and FinalizeBlock together pay for one verification (it costs twenty times all
  the rest). Only what verified is remembered; membership and sequence are asked every time.
* A body too deep to be judged is refused here, once for each transaction: a block would not consume
  its sequence, so that it would be proposed for ever.
* Bounded: the oldest is forgotten first, and so are large ones' parsed forms. What is forgotten is
  verified again: the memo changes speed, never an outcome.

Pure. Not handled here: what bodies mean (``registry``).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from edgistry.errors import BadSignatureError, NotAMemberError, WrongChainError
from edgistry.transactions import NodeId, Transaction, Verify, parse_transaction, signing_bytes

from .registry import check_depth, check_sequence
from .schema import Member

MAX_REMEMBERED = 6000
"""Three times the transactions that the mempool of our configuration holds."""
MAX_KEPT_PARSED = 1024
"""Bytes. A one-record transaction has 240, and 6000 of those stay below 6 MB."""
MAX_LARGE_BYTES = 16_000_000
"""Larger ones are kept parsed up to this sum, which is all that a mempool of ours holds."""


class SignatureMemo:
    """Opens transactions; ``verify`` does the arithmetic."""

    def __init__(self, verify: Verify, *, limit: int = MAX_REMEMBERED) -> None:
        self._verify = verify
        self._limit = limit
        # A plain dict finds its oldest entry by walking over all that were deleted before it.
        self._verified: OrderedDict[bytes, Transaction | None] = OrderedDict()
        self._large: OrderedDict[bytes, Transaction] = OrderedDict()
        self._large_bytes = 0

    def open(
        self,
        data: bytes,
        *,
        chain_id: str,
        member: Callable[[NodeId], Member | None],
        last: Callable[[NodeId], int] | None,
    ) -> Transaction:
        """The transaction in ``data``, proven to be its sender's and next in order.

        ``last`` gives the sequence that a node has reached; ``None`` leaves order unchecked.

        Raises:
            MalformedError, TooLargeError: not a transaction, or a body that nests too deep.
            WrongChainError, NotAMemberError, WrongSequenceError, BadSignatureError.
        """
        digest = hashlib.sha256(data).digest()
        transaction = self._verified.get(digest) or self._large.get(digest)
        if transaction is None:
            transaction = parse_transaction(data)
        if transaction.chain_id != chain_id:
            raise WrongChainError(f"signed for {transaction.chain_id!r}; this is {chain_id!r}")
        node_id = NodeId(transaction.node_id)
        sender = member(node_id)
        if sender is None:
            raise NotAMemberError(f"node {node_id.hex()} is not a member of this chain")
        if last is not None:
            check_sequence(transaction, last=last(node_id))
        if digest not in self._verified:
            message = signing_bytes(transaction)
            if not self._verify(sender.public_key, message, transaction.signature):
                raise BadSignatureError(f"the signature of node {node_id.hex()} does not verify")
            check_depth(transaction)
            self._remember(digest, transaction, len(data))
        return transaction

    def _remember(self, digest: bytes, transaction: Transaction, size: int) -> None:
        while len(self._verified) >= self._limit:
            self._forget_large(self._verified.popitem(last=False)[0])
        if size <= MAX_KEPT_PARSED:
            self._verified[digest] = transaction
            return
        self._verified[digest] = None
        self._large[digest] = transaction
        self._large_bytes += _size(transaction)
        while self._large_bytes > MAX_LARGE_BYTES:
            self._forget_large(next(iter(self._large)))

    def _forget_large(self, digest: bytes) -> None:
        transaction = self._large.pop(digest, None)
        if transaction is not None:
            self._large_bytes -= _size(transaction)


def _size(transaction: Transaction) -> int:
    return len(bytes(transaction.body)) + MAX_KEPT_PARSED
