"""The node's use cases in one place: what HTTP and the admin socket can ask of a node.

Rules kept here:

* Reads come from the last committed block, writes go through the outbox; both go on while the
  node is cut off.
* After each Commit the index, the log of changes, the outbox and the block watch hear of it, in
  this order.

Not handled here: the use cases themselves (``registration``, ``regions``, ``discover_service``,
``leases``, ``epoch_keeper``), transport (``http_server``, ``admin_server``), starting and stopping
(``node``).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Protocol

from edgistry import __version__
from edgistry.adapters.log import get_logger
from edgistry.api import (
    DiscoverAnswer,
    DiscoverQuery,
    ReadyAnswer,
    RegionList,
    StatusAnswer,
    block_time_text,
)
from edgistry.kv import Change, KeyValue
from edgistry.policy import PolicyLimits
from edgistry.signed_request import Client
from edgistry.transactions import NodeId, RecordKey, Sign
from edgistry.watch_api import WatchQuery

from .admin_api import (
    DeviceRow,
    RegisterAnswer,
    SettledAnswer,
    SettledRefusal,
    WithdrawAnswer,
)
from .devices import parse_handle
from .discover_service import Discoverer
from .epoch_keeper import EpochKeeper
from .health import (
    BlockWatch,
    EngineKind,
    KeyWatch,
    Vitals,
    key_warnings,
    reasons_writes_wait,
)
from .leases import LeaseKeeper
from .metrics import NodeMetrics
from .move_keeper import MoveKeeper
from .outbox import Outbox, TransactionSink
from .outbox_queue import Pending
from .reader import RecordChange, RegistryReader
from .regions import Regions
from .registration import NO_LIMITS, Registrar
from .renumbering import Renumbering
from .running import run_together
from .schema import Head
from .watch_service import Watcher

logger = get_logger("edgistry.node")


class EngineView(Protocol):
    """How the consensus engine is doing, as of a moment ago."""

    @property
    def peers(self) -> int:
        """Nodes it is connected to."""

    @property
    def catching_up(self) -> bool:
        """Whether it replays blocks, or does not answer yet."""


class NodeService:
    """The use cases of the node ``node_id`` over its two databases.

    ``owner`` is the tag (8 bytes) of whom its devices belong to.
    ``store`` is ``queues.ldb``; ``sink`` and ``view`` are the engine's. Times: ``clock_us`` is
    the wall clock in microseconds since 1970, ``steady_s`` seconds that never jump. ``warnings``
    gives what the operator has to know of other parts; everybody may read it. ``limits`` bound what
    the policies of devices may show.

    Raises (when made):
        ChainMismatchError: ``store`` belongs to another chain or node.
    """

    def __init__(
        self,
        *,
        name: str,
        engine: EngineKind,
        chain_id: str,
        node_id: NodeId,
        owner: bytes,
        sign: Sign,
        store: KeyValue,
        reader: RegistryReader,
        sink: TransactionSink,
        view: Callable[[], EngineView],
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        steady_s: Callable[[], float] = time.monotonic,
        warnings: Callable[[], list[str]] = list,
        limits: PolicyLimits = NO_LIMITS,
    ) -> None:
        self._name = name
        self._further_warnings = warnings
        self._engine: EngineKind = engine
        self._chain_id = chain_id
        self._node_id = node_id
        self._reader = reader
        self._view = view
        self._clock_us = clock_us
        self._steady_s = steady_s
        self._blocks = BlockWatch(steady_s())
        self._key_watch = KeyWatch()
        self.outbox = Outbox(
            store,
            chain_id=chain_id,
            node_id=node_id,
            sign=sign,
            reader=reader,
            sink=sink,
            caught_up=lambda: not view().catching_up,
            clock_s=steady_s,
        )
        self.registrar = Registrar(
            store, node_id=node_id, owner=owner, reader=reader, outbox=self.outbox, limits=limits
        )
        self.moves = MoveKeeper(
            store,
            registrar=self.registrar,
            reader=reader,
            caught_up=lambda: not view().catching_up,
        )
        self.named_regions = Regions(store, node_id=node_id, reader=reader, outbox=self.outbox)
        self.leases = LeaseKeeper(
            reader=reader, outbox=self.outbox, is_member=lambda: reader.is_member(node_id)
        )
        self._was_member = reader.is_member(node_id)
        self.outbox.on_settled = self._settled
        self.outbox.on_renumbered = self._renumbered
        self._unpublished: set[RecordKey] = set()
        if engine == "solo":
            # Counting is cheaper than comparing, and mostly tells that nothing is missing.
            if self.outbox.follow_shortened_chain() or self.registrar.lacks_records():
                self._unpublished = self.registrar.unpublished()
            for warning in self._warnings():
                logger.warning(warning)
        self.epochs = EpochKeeper(
            store,
            node_id=node_id,
            reader=reader,
            outbox=self.outbox,
            caught_up=lambda: not view().catching_up,
            clock_us=clock_us,
        )
        self.discoverer = Discoverer(reader, self.epochs.keys)
        self.watcher = Watcher(reader, self.discoverer, self.epochs.keys)
        reader.subscribe(self._committed)

    async def run(self) -> None:
        """Send, confirm and renew until cancelled; raises what must stop the node."""
        parts = (
            self.outbox.run(),
            self.leases.run(),
            self.epochs.run(),
            self.moves.run(),
            self.discoverer.run(),
        )
        await run_together(*parts)

    # --- reads ----------------------------------------------------------------------------------

    async def discover(self, query: DiscoverQuery, client: Client | None) -> DiscoverAnswer:
        """As ``Discoverer.discover``."""
        return await self.discoverer.discover(query, client)

    async def watch(self, query: WatchQuery, client: Client) -> AsyncGenerator[bytes, None]:
        """As ``Watcher.watch``."""
        return await self.watcher.watch(query, client)

    def regions(self) -> RegionList:
        """All regions of the last committed block."""
        return self.named_regions.list()

    def status(self) -> StatusAnswer:
        """What the node says about itself."""
        head, view = self._reader.head, self._view()
        return StatusAnswer(
            node=self._name,
            version=__version__,
            engine=self._engine,
            chain_id=self._chain_id,
            height=head.height,
            app_hash=head.app_hash.hex(),
            block_time=block_time_text(head.block_time_us),
            members=len(self._reader.members()),
            peers=view.peers,
            catching_up=view.catching_up,
            services=len(self.discoverer.index),
            regions=len(self.named_regions.list().regions),
            outbox=self.outbox.pending,
            epoch=self._reader.epoch,
        )

    def ready(self) -> tuple[bool, ReadyAnswer]:
        """Whether reads can be served, and whether writes get through."""
        reasons = reasons_writes_wait(self._vitals())
        can_read = self._reader.head.height > 0
        answer = ReadyAnswer(
            ready=can_read,
            writes=not reasons,
            reasons=tuple(reasons),
            warnings=(*self._warnings(), *self._key_warnings()),
        )
        return can_read, answer

    def watch_metrics(self, metrics: NodeMetrics) -> None:
        """Show in ``metrics`` who watches the registry, and the epoch that handles are made in."""
        text = "Streams of registry changes that are being read."
        metrics.watch("watch_streams", text, lambda: self.watcher.open)
        text = "Number of the privacy epoch whose key this node makes handles with; 0 without one."
        metrics.watch("epoch_key", text, lambda: self.epochs.keys.number)

    # --- the operator's part --------------------------------------------------------------------

    async def register(self, rows: Sequence[DeviceRow]) -> RegisterAnswer:
        """Accept the good ones of up to 512 rows, durably.

        Raises:
            UnavailableError: the outbox is full; nothing was accepted.
        """
        outcomes = await self.registrar.register(rows)
        return RegisterAnswer(outcomes=tuple(outcomes), height=self._reader.head.height)

    async def withdraw(self, handles: Sequence[str], *, forget: bool = False) -> WithdrawAnswer:
        """Begin to withdraw devices, all or none; as ``Registrar.withdraw``, raises as that."""
        withdrawn, sequence = await self.registrar.withdraw(handles, forget=forget)
        self._unpublished.difference_update(map(parse_handle, handles))
        return WithdrawAnswer(
            withdrawn=withdrawn, sequence=sequence, height=self._reader.head.height
        )

    async def settled(self, *, first: int, last: int, timeout_s: float) -> SettledAnswer:
        """How far the outbox is, as soon as it reached ``last`` or ``timeout_s`` ran out.

        ``refused`` has the refused transactions from ``first`` to ``last``.
        """
        await self.outbox.wait_until(last, timeout_s)
        letters = self.outbox.dead_letters.between(first, last)
        return SettledAnswer(
            through=self.outbox.settled_through,
            height=self._reader.head.height,
            refused=tuple(
                SettledRefusal(sequence=letter.sequence, reason=letter.reason) for letter in letters
            ),
        )

    # --- what happens by itself -----------------------------------------------------------------

    def _committed(self, head: Head, changes: Sequence[RecordChange]) -> None:
        self.outbox.notify()
        self._blocks.committed(self._steady_s())
        self._key_missing_s()
        self._look_at_membership(head)
        if self._unpublished:
            self._unpublished.difference_update(each.key for each in changes if each.is_stored)

    def _look_at_membership(self, head: Head) -> None:
        is_member = self._reader.is_member(self._node_id)
        if is_member and not self._was_member:
            logger.info("this node is a member of the chain", height=head.height)
        elif self._was_member and not is_member:
            logger.error(
                "this node is a member of the chain no more: it left, or was removed; nothing that"
                " it sends is taken, and its devices are listed no more",
                height=head.height,
            )
        self._was_member = is_member

    def _settled(self, entry: Pending, transaction: bytes) -> Iterable[Change]:
        return [*self.registrar.settled(entry, transaction), *self.named_regions.settled(entry)]

    def _renumbered(self, renumbering: Renumbering) -> Iterable[Change]:
        return [
            *self.registrar.renumbered(renumbering),
            *self.named_regions.renumbered(renumbering),
        ]

    def _warnings(self) -> list[str]:
        """What the operator has to do something about although writes get through."""
        further = self._further_warnings()
        if not self._unpublished:
            return further
        return [
            *further,
            f"{len(self._unpublished)} devices of this node are not in its registry: registry.ldb "
            "was wiped or restored from an older copy, and a solo node has no blocks to rebuild it "
            "from; import them again, and put named regions again",
        ]

    def _key_warnings(self) -> list[str]:
        keys, epoch = self.epochs.keys, self._reader.epochs().number
        return key_warnings(epoch, own_epoch=keys.number, missing_s=self._key_missing_s())

    def _key_missing_s(self) -> float:
        keys, epoch = self.epochs.keys, self._reader.epochs().number
        is_here = keys.of(epoch or keys.number) is not None
        return self._key_watch.looked(is_here=is_here, now_s=self._steady_s())

    def _vitals(self) -> Vitals:
        head, view, now_s = self._reader.head, self._view(), self._steady_s()
        members = self._reader.members()
        former = self._reader.former().get(self._node_id)
        return Vitals(
            engine=self._engine,
            height=head.height,
            members=len(members),
            is_member=self._node_id in members,
            left="" if former is None else block_time_text(former.left_us),
            peers=view.peers,
            catching_up=view.catching_up,
            silence_s=self._blocks.silence_s(now_s),
            steady_blocks=self._blocks.steady_blocks,
            block_age_s=(self._clock_us() - head.block_time_us) / 1_000_000,
            outbox_gap=self.outbox.gap,
        )
