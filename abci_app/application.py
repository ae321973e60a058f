"""The registry as an ABCI 2.0 application.

Rules kept here (consensus.md, *ABCI server rules*):

* FinalizeBlock only stages; Commit writes once, synced, and then tells the readers. A block may
  be finalized twice, genesis may come again until the first Commit.
* CheckTx never waits for a block that is being staged: it looks at committed state alone.
* A refused transaction or query is a code. Anything else that is raised stops the node.
* No clock, no randomness: block time and height are the engine's.

Not handled here: the socket (``abci_server``), the rules (``registry``), durability (``ledger``);
snapshots, which keep the defaults of ``BaseApplication``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgistry.adapters import sodium
from edgistry.errors import ChainMismatchError, Refused
from edgistry.kv import KeyValue
from edgistry.transactions import Verify

from . import abci_pb2 as pb
from .abci_application import BaseApplication
from .admission import Admission
from .block_execution import BlockExecutor, ExecutedBlock
from .ledger import Ledger
from .queries import Queries
from .reader import RegistryReader
from .schema import parse_genesis
from .signatures import SignatureMemo

APP_VERSION = 4
"""Version of the rules; goes into every block header."""
CODESPACE = "edgistry"


class RegistryApplication(BaseApplication):
    """The replicated registry over ``store``.

    ``allowed_peer_ids`` says whether the engine may connect to a peer of that id.

    Raises (when made):
        CorruptDatabaseError: what ``store`` holds contradicts itself.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        allowed_peer_ids: Callable[[str], bool],
        verify: Verify = sodium.verify,
    ) -> None:
        self._ledger = Ledger(store)
        self._memo = SignatureMemo(verify)
        self.reader = RegistryReader(self._ledger)
        self._admission = Admission(self._ledger, self.reader, self._memo)
        self._executor = BlockExecutor(self._ledger, self._memo, verify)
        self._queries = Queries(self._ledger, allowed_peer_ids)
        self._executed: ExecutedBlock | None = None
        self._round = 0

    # --- query connection

    def info(self, request: pb.RequestInfo) -> pb.ResponseInfo:
        head = self._ledger.head
        return pb.ResponseInfo(
            data="edgistry",
            version=str(APP_VERSION),
            app_version=APP_VERSION,
            last_block_height=head.height,
            last_block_app_hash=head.app_hash if head.height else b"",
        )

    def query(self, request: pb.RequestQuery) -> pb.ResponseQuery:
        try:
            return self._queries.answer(request)
        except Refused as refusal:
            return pb.ResponseQuery(
                code=refusal.number,
                codespace=CODESPACE,
                log=_text(refusal),
                key=request.data[:100],
                height=self._ledger.head.height,
            )

    # --- mempool connection

    def check_tx(self, request: pb.RequestCheckTx) -> pb.ResponseCheckTx:
        try:
            self._admission.check(request.tx)
        except Refused as refusal:
            return pb.ResponseCheckTx(code=refusal.number, codespace=CODESPACE, log=_text(refusal))
        return pb.ResponseCheckTx()

    # --- consensus connection

    def init_chain(self, request: pb.RequestInitChain) -> pb.ResponseInitChain:
        state = parse_genesis(request.app_state_bytes)
        app_hash = self._ledger.begin(
            request.chain_id,
            state,
            microseconds(request.time),
            validators={each.pub_key.ed25519: each.power for each in request.validators},
        )
        self._executed = None
        self._admission.forget_pending()
        self.reader.refresh()
        return pb.ResponseInitChain(app_hash=app_hash)

    async def prepare_proposal(
        self, request: pb.RequestPrepareProposal
    ) -> pb.ResponsePrepareProposal:
        chosen = await self._admission.propose(request.txs, request.max_tx_bytes)
        return pb.ResponsePrepareProposal(txs=chosen)

    async def process_proposal(
        self, request: pb.RequestProcessProposal
    ) -> pb.ResponseProcessProposal:
        await self._admission.foresee(request.txs)
        return pb.ResponseProcessProposal(status=pb.ResponseProcessProposal.ACCEPT)

    async def finalize_block(self, request: pb.RequestFinalizeBlock) -> pb.ResponseFinalizeBlock:
        self._executed = None
        self._round += 1
        mine = self._round
        executed = await self._executor.execute(
            height=request.height, time_us=microseconds(request.time), transactions=request.txs
        )
        # An engine that was lost while this was going on may have come back and sent it again.
        if mine == self._round:
            self._executed = executed
        return pb.ResponseFinalizeBlock(
            tx_results=[_result(refusal) for refusal in executed.results],
            app_hash=executed.staged.head.app_hash,
            validator_updates=[
                pb.ValidatorUpdate(pub_key=pb.PublicKey(ed25519=key), power=power)
                for key, power in executed.validator_updates
            ],
        )

    def commit(self, request: pb.RequestCommit) -> pb.ResponseCommit:
        executed = self._executed
        if executed is None:
            raise ChainMismatchError("the engine asks for Commit, but no block is staged")
        self._executed = None
        self._ledger.commit(executed.staged)
        self._admission.forget_pending()
        self.reader.announce(executed.staged.changes.before, executed.record_changes)
        return pb.ResponseCommit()

    # --- not a message

    def engine_left(self) -> None:
        self._executed = None
        self._round += 1
        self._admission.forget_pending()


class Timestamp(Protocol):
    """Protobuf's time: seconds since 1970 and nanoseconds."""

    seconds: int
    nanos: int


def microseconds(time: Timestamp) -> int:
    """Protobuf time as whole microseconds since 1970; an earlier one (Go's zero time) is 0."""
    return max(0, time.seconds * 1_000_000 + time.nanos // 1000)


def _result(refusal: Refused | None) -> pb.ExecTxResult:
    if refusal is None:
        return pb.ExecTxResult()
    return pb.ExecTxResult(code=refusal.number, codespace=CODESPACE, log=_text(refusal))


def _text(refusal: Refused) -> str:
    return f"{refusal.code}: {refusal.detail}"
