"""``BaseApplication``: what an application answers when it says nothing else.

Rules kept here:

* Every default is one that keeps a chain alive: proposals are accepted, never answered UNKNOWN
  (the engine panics on that), every transaction gets exactly one result, a proposal stays within
  ``max_tx_bytes`` counted as protobuf counts it.
* A method takes the request message and returns the response message, or an awaitable of it when
  the work is long. While one connection waits for an awaitable, the others go on: CheckTx is
  never held up by a slow FinalizeBlock. So state may change between two awaits only in ways that
  CheckTx and Query may see.
* A bad transaction or query is answered with a code. ``Refused`` raised from ``check_tx`` or
  ``query`` becomes that code; any other exception, and ``Refused`` from any other method, stops
  the node.

The method names and request shapes are those of ABCI 2.0. Not handled here: sockets and order
(``abci_server``), Echo and Flush (the server answers those itself), what a transaction means.
"""

from __future__ import annotations

from . import abci_pb2 as pb
from .abci_framing import proposal_prefix


class BaseApplication:
    """All methods of ABCI 2.0 with defaults; override what your application decides."""

    # --- query connection

    def info(self, request: pb.RequestInfo) -> pb.ResponseInfo:
        """Height and app hash of the last durable Commit; the engine replays what is missing."""
        return pb.ResponseInfo()

    def query(self, request: pb.RequestQuery) -> pb.ResponseQuery:
        """Read the last committed state. The engine has no timeout here: bound the work."""
        return pb.ResponseQuery(height=request.height)

    # --- mempool connection

    def check_tx(self, request: pb.RequestCheckTx) -> pb.ResponseCheckTx:
        """Code 0 lets the transaction into this node's mempool; it promises nothing more."""
        return pb.ResponseCheckTx()

    # --- consensus connection

    def init_chain(self, request: pb.RequestInitChain) -> pb.ResponseInitChain:
        """Genesis. May be repeated until the first Commit."""
        return pb.ResponseInitChain()

    def prepare_proposal(self, request: pb.RequestPrepareProposal) -> pb.ResponsePrepareProposal:
        """The transactions to propose, at most ``max_tx_bytes`` together."""
        return pb.ResponsePrepareProposal(txs=proposal_prefix(request.txs, request.max_tx_bytes))

    def process_proposal(self, request: pb.RequestProcessProposal) -> pb.ResponseProcessProposal:
        """Whether another validator's proposal may be voted for; ACCEPT or REJECT, never UNKNOWN.

        Rejecting needs agreement of all correct validators about why, or the chain stalls.
        """
        return pb.ResponseProcessProposal(status=pb.ResponseProcessProposal.ACCEPT)

    def extend_vote(self, request: pb.RequestExtendVote) -> pb.ResponseExtendVote:
        """Called only when the chain's parameters enable vote extensions."""
        return pb.ResponseExtendVote()

    def verify_vote_extension(
        self, request: pb.RequestVerifyVoteExtension
    ) -> pb.ResponseVerifyVoteExtension:
        """Called only when the chain's parameters enable vote extensions."""
        return pb.ResponseVerifyVoteExtension(status=pb.ResponseVerifyVoteExtension.ACCEPT)

    def finalize_block(self, request: pb.RequestFinalizeBlock) -> pb.ResponseFinalizeBlock:
        """Stage a decided block: one result per transaction, and the new app hash.

        May come twice for one height (the engine died in between): stage afresh each time.
        """
        return pb.ResponseFinalizeBlock(tx_results=[pb.ExecTxResult() for _ in request.txs])

    def commit(self, request: pb.RequestCommit) -> pb.ResponseCommit:
        """Make the staged block durable before answering."""
        return pb.ResponseCommit()

    # --- snapshot connection

    def list_snapshots(self, request: pb.RequestListSnapshots) -> pb.ResponseListSnapshots:
        """Snapshots that a new node may fetch from here; none by default."""
        return pb.ResponseListSnapshots()

    def offer_snapshot(self, request: pb.RequestOfferSnapshot) -> pb.ResponseOfferSnapshot:
        """Whether to restore this snapshot; refused by default, as nothing could apply it."""
        return pb.ResponseOfferSnapshot(result=pb.ResponseOfferSnapshot.REJECT)

    def load_snapshot_chunk(
        self, request: pb.RequestLoadSnapshotChunk
    ) -> pb.ResponseLoadSnapshotChunk:
        """One chunk of a listed snapshot; empty by default."""
        return pb.ResponseLoadSnapshotChunk()

    def apply_snapshot_chunk(
        self, request: pb.RequestApplySnapshotChunk
    ) -> pb.ResponseApplySnapshotChunk:
        """Restore one chunk; abandoned by default."""
        return pb.ResponseApplySnapshotChunk(result=pb.ResponseApplySnapshotChunk.ABORT)

    # --- not a message

    def engine_left(self) -> None:
        """Called when the last connection has closed and nothing is running any more.

        Drop what was staged: an engine that returns asks ``info`` and sends the block again.
        """
