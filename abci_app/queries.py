"""What the engine and light clients may ask: ABCI queries.

* ``/proof``, data = a database key (``schema``): its value and the Merkle proof of it, as two
  ``simple:v`` operators with key path ``/bucket/key``, which stock verifiers accept. A missing
  key is answered with no value and one operator of our own, ``edgistry:absent``, whose data are
  the neighbours. The proof for height H verifies against the header of H + 1. Height 0 asks for
  the newest state whose header exists; that is the one before the last block.
* ``/p2p/filter/id/ID``: whether that peer may connect. Code 0 for peers of members, and for those
  that are configured unless they were a member's who is one no more: a node that catches up does
  not know all members yet.
* ``/p2p/filter/addr/…``: code 0 always; addresses are no identity.

Bounded: a proof reads one record and hashes one bucket. Not handled here: search (HTTP does that).
"""

from __future__ import annotations

from collections.abc import Callable

from edgistry.codec import encode
from edgistry.errors import InvalidValueError, NotFoundError, PermissionRefusedError

from . import abci_pb2 as pb
from .ledger import Ledger
from .merkle import AbsenceProof, Path, Proof
from .schema import RECORDS_START, RECORDS_STOP

_VALUE = "simple:v"
_ABSENT = "edgistry:absent"
_FILTER_ID = "/p2p/filter/id/"
_FILTER_ADDRESS = "/p2p/filter/addr/"
_MAX_KEY_BYTES = 100


class Queries:
    """Answers ABCI queries from ``ledger``; ``allowed`` says which peer ids are configured."""

    def __init__(self, ledger: Ledger, allowed: Callable[[str], bool]) -> None:
        self._ledger = ledger
        self._allowed = allowed

    def answer(self, request: pb.RequestQuery) -> pb.ResponseQuery:
        """The answer to ``request``.

        Raises:
            NotFoundError: no such path.
            InvalidValueError: not the key of a record.
            PermissionRefusedError: a peer that may not connect.
            UnavailableError: no state of that height is kept.
        """
        path = request.path
        if path == "/proof":
            return self._proof(request.data, request.height)
        if path.startswith(_FILTER_ID):
            if not self._may_connect(path[len(_FILTER_ID) :]):
                raise PermissionRefusedError("this peer is no member's")
            return pb.ResponseQuery()
        if path.startswith(_FILTER_ADDRESS):
            return pb.ResponseQuery()
        raise NotFoundError(f"no query {path[:100]!r}; there are /proof and /p2p/filter/…")

    def _may_connect(self, peer_id: str) -> bool:
        ledger = self._ledger
        # Members of a chain without engines have no peer id, and so has a question without one.
        if peer_id and any(member.peer_id.hex() == peer_id for member in ledger.members.values()):
            return True
        return self._allowed(peer_id) and not any(
            former.peer_id.hex() == peer_id for former in ledger.former.values()
        )

    def _proof(self, key: bytes, height: int) -> pb.ResponseQuery:
        if not RECORDS_START <= key < RECORDS_STOP or len(key) > _MAX_KEY_BYTES:
            raise InvalidValueError("data is not the key of a record")
        last = self._ledger.head.height
        if height == 0:
            height = self._newest_with_header(last)
        value, proof = self._ledger.prove(key, height=height)
        operators = _present(proof) if isinstance(proof, Proof) else _absent(proof)
        return pb.ResponseQuery(
            key=key, value=value or b"", height=height, proof_ops=pb.ProofOps(ops=operators)
        )

    def _newest_with_header(self, last: int) -> int:
        # The first block has no state before it that a proof could name, and after a restart the
        # one before the last is known only if the last block changed nothing.
        if last > 1 and self._ledger.keeps(last - 1):
            return last - 1
        return last


def _present(proof: Proof) -> list[pb.ProofOp]:
    return [
        _operator(_VALUE, proof.key, proof.inner),
        _operator(_VALUE, proof.bucket_key, proof.outer),
    ]


def _absent(proof: AbsenceProof) -> list[pb.ProofOp]:
    neighbours = [
        None if side is None else [side[0], *_path_parts(side[1])]
        for side in (proof.left, proof.right)
    ]
    return [
        pb.ProofOp(type=_ABSENT, key=proof.key, data=encode(neighbours)),
        _operator(_VALUE, proof.bucket_key, proof.outer),
    ]


def _path_parts(path: Path) -> list[object]:
    return [path.total, path.index, path.leaf_hash, list(path.aunts)]


def _operator(kind: str, key: bytes, path: Path) -> pb.ProofOp:
    proof = pb.Proof(total=path.total, index=path.index, leaf_hash=path.leaf_hash, aunts=path.aunts)
    operator = pb.ValueOp(key=key, proof=proof)
    return pb.ProofOp(type=kind, key=key, data=operator.SerializeToString())
