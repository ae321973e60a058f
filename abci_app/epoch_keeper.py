"""Keeping the keys of privacy epochs: follows the blocks, and does what ``epochs`` says is next.

Rules kept here:

* Durable, then sent: a private key is in the same write as the transaction that publishes its
  public half, a key in the same write as the transaction that begins its epoch.
* One transaction of these is on its way at a time; what became of it is read from the state.
* A key is taken only when its check stands on the chain. Secrets are neither logged nor shown.
* Nothing is done while the node catches up: it would act on a state that is long past.

Not handled here: what to do (``epochs``), how it is kept (``epoch_store``), who uses the keys
(``epoch_keys``).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edgistry.adapters import crypto
from edgistry.adapters.in_thread import in_thread
from edgistry.adapters.log import get_logger
from edgistry.errors import InvalidValueError, SealError, UnavailableError
from edgistry.kv import Change, KeyValue
from edgistry.transactions import (
    EPOCH_KINDS,
    Body,
    EpochKey,
    EpochShare,
    Kind,
    MemberKey,
    NodeId,
    epoch_check,
)

from .epoch_keys import EpochKeys
from .epoch_store import EpochSecrets, forget, keep_key, keep_made, keep_private
from .epochs import Adopt, Ask, Forget, Give, Make, Open, Planner, Situation, Step
from .schema import ChainParameters, EpochStates, Head, Member

KEY_BYTES = 32
LOOK_EVERY_S = 2.0
"""Also without a block: the engine may have caught up, and a key may have grown too old."""
_PURPOSE = b"epoch key"

logger = get_logger("edgistry.node.epochs")


class EpochReader(Protocol):
    """What the keeper needs of the registry."""

    @property
    def head(self) -> Head: ...
    @property
    def parameters(self) -> ChainParameters: ...
    def members(self) -> Mapping[NodeId, Member]: ...
    def epochs(self) -> EpochStates: ...
    async def next_commit(self) -> None: ...


class EpochOutbox(Protocol):
    """What it needs of the outbox."""

    @property
    def pending(self) -> int: ...
    @property
    def settled_through(self) -> int: ...
    def has_pending(self, kind: Kind) -> bool: ...
    def is_ahead(self, sequence: int) -> bool: ...
    async def append(
        self, bodies: Sequence[Body], *, also: Callable[[int], list[Change]] | None = None
    ) -> int: ...


class EpochKeeper:
    """Keeps the epoch keys of node ``node_id`` in ``store``.

    ``caught_up`` says whether ``reader`` has all blocks, as far as is known; ``clock_us`` is the
    wall clock; ``draw`` gives that many random bytes.

    Raises (when made):
        CorruptDatabaseError: ``store`` holds no such keys.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        node_id: NodeId,
        reader: EpochReader,
        outbox: EpochOutbox,
        caught_up: Callable[[], bool],
        clock_us: Callable[[], int],
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.keys = EpochKeys()
        self._store = store
        self._node_id = node_id
        self._reader = reader
        self._outbox = outbox
        self._caught_up = caught_up
        self._clock_us = clock_us
        self._draw = draw
        self._secrets = EpochSecrets(store)
        self._planner = Planner(node_id)
        # What was on its way when the node stopped may still be: it is waited for.
        on_its_way = any(map(outbox.has_pending, sorted(EPOCH_KINDS)))
        self._sent = outbox.settled_through + outbox.pending if on_its_way else 0

    async def run(self) -> None:
        """Keep the keys until cancelled, from the first block on."""
        while self._reader.head.height == 0:
            await self._reader.next_commit()
        while True:
            await self.follow()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._reader.next_commit()

    async def follow(self) -> None:
        """Do all that the last block asks for; afterwards ``keys`` are those of this moment."""
        while self._caught_up():
            now = self._situation()
            self._secrets.forget_useless(now.states)
            # A number that is ahead of a chain that was set back is nobody's when nothing waits.
            may_send = not (self._outbox.pending and self._outbox.is_ahead(self._sent))
            step = self._planner.next_step(now, self._secrets.held(), may_send=may_send)
            if step is None:
                break
            try:
                await self._do(step)
            except UnavailableError as error:
                logger.warning("an epoch key has to wait", reason=str(error))
                break
        self._show()

    def _show(self) -> None:
        states = self._reader.epochs()
        known = states.kept()
        keys = {
            number: key
            for number, key in self._secrets.keys.items()
            if (epoch := known.get(number)) is not None and epoch.check == epoch_check(key)
        }
        self.keys.put(keys, states, epoch_us=self._reader.parameters.epoch_us)

    def _situation(self) -> Situation:
        head = self._reader.head
        return Situation(
            chain_id=self._reader.parameters.chain_id,
            states=self._reader.epochs(),
            members=frozenset(self._reader.members()),
            now_us=head.block_time_us,
            latest_us=max(head.block_time_us, self._clock_us()),
            epoch_us=self._reader.parameters.epoch_us,
        )

    # --- the steps ------------------------------------------------------------------------------

    async def _do(self, step: Step) -> None:
        match step:
            case Ask():
                await self._ask(step.epoch)
            case Open():
                await self._open(step)
            case Adopt():
                await self._take(step.epoch, self._secrets.made(step.epoch, step.check))
            case Make():
                await self._make(step)
            case Give():
                await self._give(step)
            case Forget():
                await self._write(forget(step))

    async def _ask(self, epoch: int) -> None:
        private = self._draw(KEY_BYTES)
        public = crypto.sealing_public_key_of(private)
        await self._send(
            MemberKey(epoch=epoch, public=public), keep_private(epoch, public, private)
        )

    async def _open(self, step: Open) -> None:
        private = self._secrets.private(step.epoch, step.public)
        context = self._context(step.epoch, self._node_id)
        try:
            key = crypto.open_sealed(private, step.sealed, purpose=_PURPOSE, context=context)
        except SealError:
            key = b""
        if len(key) != KEY_BYTES or epoch_check(key) != step.check:
            logger.warning(
                "what a member gave this node is not the key of the epoch; asking again",
                epoch=step.epoch,
            )
            self._secrets.useless.add(step.sealed)
            return
        await self._take(step.epoch, key)

    async def _take(self, epoch: int, key: bytes) -> None:
        # The private keys go with the next step: none of them is needed once the key is here.
        await self._write(keep_key(epoch, key))
        logger.info("the key of a privacy epoch is here", epoch=epoch)

    async def _make(self, step: Make) -> None:
        key = self._draw(KEY_BYTES)
        sealed = self._sealed(step.epoch, key, step.members)
        if sealed:
            body = EpochKey(epoch=step.epoch, check=epoch_check(key), sealed=sealed)
            await self._send(body, keep_made(step.epoch, key))

    async def _give(self, step: Give) -> None:
        sealed = self._sealed(step.epoch, self._secrets.keys[step.epoch], step.members)
        if sealed:
            await self._send(EpochShare(epoch=step.epoch, sealed=sealed), [])

    def _sealed(
        self, epoch: int, key: bytes, members: tuple[tuple[bytes, bytes], ...]
    ) -> tuple[tuple[bytes, bytes], ...]:
        found = []
        for node, public in members:
            context = self._context(epoch, node)
            try:
                found.append((node, crypto.seal(public, key, purpose=_PURPOSE, context=context)))
            except InvalidValueError:
                logger.warning("a member published a key that is none", member=node.hex())
                self._secrets.useless.add(public)
        return tuple(sorted(found))

    def _context(self, epoch: int, node: bytes) -> bytes:
        return epoch.to_bytes(4, "big") + node + self._reader.parameters.chain_id.encode()

    # --- durable, then sent ---------------------------------------------------------------------

    async def _send(self, body: Body, changes: list[Change]) -> None:
        def beside(sequence: int) -> list[Change]:
            self._sent = sequence
            return changes

        await self._outbox.append([body], also=beside)
        self._secrets.written(changes)

    async def _write(self, changes: list[Change]) -> None:
        await in_thread(self._store.write, changes, sync=True)
        self._secrets.written(changes)
