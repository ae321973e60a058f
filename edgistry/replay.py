"""Executing an authorised request at most once, and answering it always.

Rules kept here:

* One window (``replay_window.py``) per (issuer, header serial, client), so that the misuse of one
  grant never locks out another. The client counts only where a ``client`` caveat proves it. At
  most 16 windows per serial; then the next client is told BUSY: a live window is never given up.
* Strike, remembered reply and the caller's own changes are ONE durable write. Before it nothing
  has happened, after it the request is done: a crash at any point loses neither.
* The identical envelope gets the identical reply again. While it is being executed its duplicates
  wait for that reply; different requests run beside each other.

Not handled here: authority (``verifier.py`` comes first), how windows rest (``replay_records.py``),
and what a request does.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from .errors import AuthorityError, Refused, TooManyClientsError, UnavailableError
from .kv import Change, KeyValue
from .replay_records import Number, ReplayRecords, number_of
from .replay_window import Window
from .verifier import Checked

MAX_CLIENTS: Final = 16
"""Windows per grant."""

MAX_CACHED: Final = 4096
"""Windows kept in memory; the others are read again when they are needed."""

_ANYBODY: Final = bytes(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What executing a request came to: its reply, and the changes that must go with it."""

    status: int = 0
    result: int = 0
    payload: bytes = b""
    flat: bytes = b""
    changes: Iterable[Change] = ()
    """Written in one batch with the strike and the reply."""


Execute = Callable[[Checked], Outcome]


class _State:
    """A window in memory."""

    __slots__ = ("durable", "leftover", "pending", "where", "window")

    def __init__(self, where: bytes, window: Window, *, durable: bool) -> None:
        self.where = where
        self.window = window
        self.leftover: list[Number] = []
        """To delete with the next strike."""
        self.durable = durable
        """Whether the store knows that it exists."""
        self.pending: dict[Number, Future[bytes]] = {}
        """Sequences whose requests are being executed now."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The request was executed before: this was its reply."""

    reply: bytes


@dataclass(frozen=True, slots=True)
class Running:
    """The same request is being executed.

    ``reply`` will hold its reply, or ``UnavailableError`` when it was abandoned
    (``asyncio.wrap_future`` waits for it without a thread).
    """

    reply: Future[bytes]


class Ticket:
    """The right to execute one request, once. Exactly one of ``done`` and ``abandon`` ends it."""

    __slots__ = ("_forgotten", "_future", "_guard", "_state", "checked")

    def __init__(
        self, guard: ReplayGuard, state: _State, checked: Checked, forgotten: list[Number]
    ) -> None:
        self.checked = checked
        self._guard = guard
        self._state = state
        self._forgotten = forgotten
        self._future: Future[bytes] = Future()

    def changes(self, reply: bytes) -> list[Change]:
        """What to write, durably and in one batch with the request's own changes."""
        return self._guard._strike(self._state, self.checked, self._forgotten, reply)

    def done(self, reply: bytes) -> None:
        """The batch is durable: from now on duplicates get ``reply``."""
        self._guard._end(self._state, self.checked, durable=True)
        self._future.set_result(reply)

    def abandon(self) -> None:
        """Nothing was written: the sequence is free again, and waiting duplicates are told so."""
        self._guard._end(self._state, self.checked, durable=False)
        self._future.set_exception(UnavailableError("the request was not executed; send it again"))


class ReplayGuard:
    """All replay windows of one store. Safe to use from many threads.

    One guard per store and prefix: it relies on being the only writer there.
    """

    def __init__(self, store: KeyValue, *, prefix: bytes = b"replay/") -> None:
        self._records = ReplayRecords(store, prefix)
        self._lock = threading.Lock()
        self._states: OrderedDict[bytes, _State] = OrderedDict()

    # --- executing ----------------------------------------------------------------------------

    def once(self, checked: Checked, execute: Execute, *, now_us: int) -> bytes:
        """The reply to ``checked``, executing it unless that has happened before.

        ``execute`` runs in this thread. A ``Refused`` that it raises becomes a reply like any
        other: it is remembered, and no other change is written. Any other exception passes
        through; then nothing was written, and the request may be sent again.

        Raises:
            StaleError, ExpiredError, FutureError, TooManyClientsError: not fresh; with ``reply``.
        """
        admission = self.admit(checked, now_us=now_us)
        if isinstance(admission, Remembered):
            return admission.reply
        if isinstance(admission, Running):
            try:
                return admission.reply.result()
            except UnavailableError as error:
                return checked.refusal(error)
        return self._execute(admission, execute)

    def _execute(self, ticket: Ticket, execute: Execute) -> bytes:
        checked = ticket.checked
        try:
            try:
                outcome = execute(checked)
                reply = checked.reply(
                    outcome.status,
                    result=outcome.result,
                    payload=outcome.payload,
                    flat=outcome.flat,
                )
                changes = [*outcome.changes, *ticket.changes(reply)]
            except Refused as error:
                reply = checked.refusal(error)
                changes = ticket.changes(reply)
            self._records.store.write(changes, sync=True)
        except BaseException:
            ticket.abandon()
            raise
        ticket.done(reply)
        return reply

    def admit(self, checked: Checked, *, now_us: int) -> Ticket | Remembered | Running:
        """Let ``checked`` in to be executed, or say what became of it.

        For callers that write the batch themselves; a ``Ticket`` must be ended. ``now_us`` is the
        issuer's now, µs since 1970.

        Raises:
            StaleError, ExpiredError, FutureError, TooManyClientsError: not fresh. The error
                carries the ``reply`` to send; nothing was changed.
        """
        try:
            with self._lock:
                return self._admit(checked, now_us)
        except AuthorityError as error:
            error.reply = checked.refusal(error)
            raise

    def _admit(self, checked: Checked, now_us: int) -> Ticket | Remembered | Running:
        envelope = checked.envelope
        where = where_of(checked)
        state = self._load(where)
        if state is not None and state.window.knows(envelope):
            pending = state.pending.get(number_of(envelope))
            if pending is not None:
                return Running(pending)
            reply = self._records.reply(where, number_of(envelope))
            if reply is not None:
                return Remembered(reply)
        window = self._new_window(where) if state is None else state.window
        window.check(envelope, now_us=now_us)
        if state is None:
            # Only a fresh request takes one of the grant's 16 windows.
            state = self._open(where, window, now_us)
        epoch = envelope.sequence_epoch
        forgotten = [Number(epoch, sequence) for sequence in window.accept(envelope)]
        ticket = Ticket(self, state, checked, forgotten + state.leftover)
        state.leftover = []
        state.pending[number_of(envelope)] = ticket._future
        return ticket

    def _strike(
        self, state: _State, checked: Checked, forgotten: list[Number], reply: bytes
    ) -> list[Change]:
        records, where, envelope = self._records, state.where, checked.envelope
        changes = records.forgotten(where, forgotten)
        changes.append(records.remembered(where, envelope, reply))
        with self._lock:
            changes.append(records.strike(where, envelope, state.window))
            if not state.durable:
                changes.append(records.head(where))
        return changes

    def _end(self, state: _State, checked: Checked, *, durable: bool) -> None:
        envelope = checked.envelope
        with self._lock:
            state.pending.pop(number_of(envelope), None)
            if durable:
                state.durable = True
                return
            state.window.release(envelope)
            unused = not state.durable and not state.pending and not state.window.sequence_epoch
            if unused:
                self._states.pop(state.where, None)

    def final_reply(self, checked: Checked, reply: bytes) -> list[Change]:
        """Changes that make ``reply`` the remembered one: the final answer after an ACCEPTED.

        Empty when the request is not remembered any more.
        """
        where = where_of(checked)
        with self._lock:
            state = self._load(where)
            if state is None or not state.window.knows(checked.envelope):
                return []
        return [self._records.remembered(where, checked.envelope, reply)]

    # --- upkeep -------------------------------------------------------------------------------

    def fix(
        self, *, label: bytes, serial: int, client: bytes, floor: int, now_us: int
    ) -> list[Change]:
        """Let a client continue above ``floor`` in a new sequence epoch: the changes to write.

        It is in force at once. Should the write fail, it stays so until the next start, which
        refuses more than it must and nothing less.

        Raises:
            InvalidValueError: a floor outside 64 bits, or no further sequence epoch.
            TooManyClientsError: the client has no window, and the grant has 16 others.
        """
        where = _where(label, serial, client)
        with self._lock:
            state = self._load(where) or self._open(where, self._new_window(where), now_us)
            state.window.fix(floor)
            return self._records.fixed(where, state.window)

    def sweep(self, *, now_us: int, limit: int = 4096) -> int:
        """Drop up to ``limit`` windows whose envelopes have all expired; how many it were.

        Requests are let in meanwhile: windows that live are neither locked nor loaded.
        """
        dropped = 0
        for where in self._records.windows():
            if self._records.newest_deadline(where) >= now_us:
                continue
            with self._lock:
                dropped += self._drop_if_over(where, now_us)
            if dropped >= limit:
                break
        return dropped

    def _drop_if_over(self, where: bytes, now_us: int) -> bool:
        state = self._load(where)
        if state is None or state.pending or not state.window.may_be_dropped(now_us=now_us):
            return False
        # Not synced: should a crash bring the window back, it refuses more, not less.
        self._records.store.write(self._records.dropped(where, state.window), sync=False)
        self._states.pop(where, None)
        return True

    def _new_window(self, where: bytes) -> Window:
        return Window(horizon=self._records.horizon(where))

    def _open(self, where: bytes, window: Window, now_us: int) -> _State:
        """A further window of a grant, if it may have one; those that are over make room."""
        grant = where[:-8]
        known = set(self._records.windows(grant))
        known.update(other for other in self._states if other[:-8] == grant)
        if len(known) >= MAX_CLIENTS:
            dropped = sum(self._drop_if_over(other, now_us) for other in sorted(known))
            if not dropped:
                raise TooManyClientsError(f"{MAX_CLIENTS} clients use this grant already")
            window.horizon = self._records.horizon(where)
        state = _State(where, window, durable=False)
        self._cache(state)
        return state

    def _load(self, where: bytes) -> _State | None:
        state = self._states.get(where)
        if state is not None:
            self._states.move_to_end(where)
            return state
        found = self._records.read(where)
        if found is None:
            return None
        window, leftover = found
        state = _State(where, window, durable=True)
        state.leftover = leftover
        self._cache(state)
        return state

    def _cache(self, state: _State) -> None:
        self._states[state.where] = state
        if len(self._states) > MAX_CACHED:
            idle = (
                where
                for where, other in self._states.items()
                if other.durable and not other.pending and other is not state
            )
            oldest = next(idle, None)
            if oldest is not None:
                del self._states[oldest]


def where_of(checked: Checked) -> bytes:
    """The key of the window that ``checked`` belongs to."""
    chain = checked.chain
    clients = chain.clients
    return _where(checked.label, chain.serial, clients[0] if clients else _ANYBODY)


def _where(label: bytes, serial: int, client: bytes) -> bytes:
    return bytes((len(label),)) + label + serial.to_bytes(4, "big") + client
