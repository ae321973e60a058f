"""Triggers: handlers that are still to run, each with the element that fired it.

Rules kept here:

* A trigger is written with its element, in one batch, and stays until it is finished. It carries a
  copy of the element, so that the WooF's history may move on, or the WooF be deleted, meanwhile.
* Each handler has its own order, that of arrival: one that is stuck hides none of another's. While
  a program runs it gives an arrival once, whatever has ended meanwhile.
* What an invocation has put is remembered under its element until the invocation is forgotten, so
  that trying again makes no put twice, however much later.

Not handled here: running, retrying and giving up: the runtime decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .codec import encode
from .errors import TriggerSettledError
from .kv import KeyValue, prefix_end
from .woof import WoofId, check_handler
from .woof_batch import Batch
from .woof_keys import (
    ATTEMPTS,
    NUMBER_BYTES,
    TRIGGERS,
    AttemptRecord,
    TriggerRecord,
    effects_of,
    handler_key,
    read_number,
    read_record,
)

MAX_REASON: Final = 500
"""Characters of the reason kept with a failed attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One invocation that is due.

    ``woof_id`` and ``number`` name it for ever: derive from these what must happen only once. A
    name alone may be that of another WooF by now.
    """

    handler: str
    arrival: int
    """Orders the triggers of one handler."""
    woof: str
    """Name of the WooF when the element was put."""
    woof_id: WoofId
    number: int
    """Number of the element."""
    element: bytes
    attempts: int = 0
    """Tries that failed, as far as that was recorded."""
    interruptions: int = 0
    """Tries that ended with the program, as far as that was recorded."""
    not_before_us: int = 0
    """Do not try before this time, µs since 1970."""
    reason: str = ""
    """Why it failed last."""

    @property
    def key(self) -> bytes:
        """Where it rests."""
        return handler_key(TRIGGERS, check_handler(self.handler), self.arrival)

    @property
    def attempts_key(self) -> bytes:
        """Where its attempts rest."""
        return handler_key(ATTEMPTS, check_handler(self.handler), self.arrival)


def triggers_of(store: KeyValue, handler: str, *, after: int = 0) -> Iterator[Trigger]:
    """The written triggers of ``handler`` that arrived after number ``after``, in that order.

    Raises:
        CorruptDatabaseError: one does not decode.
    """
    name = check_handler(handler)
    start = handler_key(TRIGGERS, name, after + 1)
    stop = prefix_end(start[:-NUMBER_BYTES])
    for key, value in store.scan(start, stop):
        record = read_record(key, value, TriggerRecord)
        arrival = read_number(key[-NUMBER_BYTES:])
        attempts_key = handler_key(ATTEMPTS, name, arrival)
        tried = store.get(attempts_key)
        attempts = None if tried is None else read_record(attempts_key, tried, AttemptRecord)
        yield Trigger(
            handler=handler,
            arrival=arrival,
            woof=record.woof,
            woof_id=WoofId(record.woof_id),
            number=record.number,
            element=record.element,
            attempts=attempts.attempts if attempts else 0,
            interruptions=attempts.interruptions if attempts else 0,
            not_before_us=attempts.not_before_us if attempts else 0,
            reason=attempts.reason if attempts else "",
        )


def handlers_waiting(store: KeyValue) -> list[str]:
    """Handlers that have written triggers; one look into the store for each."""
    found: list[str] = []
    start = TRIGGERS
    stop = prefix_end(TRIGGERS)
    while True:
        key = next((key for key, _ in store.scan(start, stop)), None)
        if key is None:
            return found
        found.append(handler_in(key).decode("utf-8", "replace"))
        after = prefix_end(key[:-NUMBER_BYTES])
        if after is None:
            return found
        start = after


class TriggerStaging(Batch):
    """The part of a batch that is about triggers."""

    triggers: tuple[Trigger, ...] = ()
    """Handlers to run once the batch is written."""

    def finish(self, trigger: Trigger, *, keep_effects: bool = False) -> None:
        """The invocation has ended for good. Nothing can be put in its name from now on.

        With ``keep_effects`` it is still remembered what it has put, so that ``rearm`` does not
        make these puts again; until ``forget_effects``.

        Raises:
            TriggerSettledError: it has ended before.
        """
        self._require_pending(trigger)
        # Known from now on: with the newest trigger gone its arrival would be given again, and
        # whoever has seen that arrival in this program would take the new trigger for the old one.
        self._last_arrival(check_handler(trigger.handler))
        self._set(trigger.key, None)
        if self._state.peek(trigger.attempts_key) is not None:
            self._set(trigger.attempts_key, None)
        if keep_effects:
            self._drop_effects(effects_of(trigger.woof_id, trigger.number))
        else:
            self.forget_effects(trigger)

    def retry(
        self,
        trigger: Trigger,
        *,
        attempts: int,
        interruptions: int = 0,
        not_before_us: int,
        reason: str,
    ) -> None:
        """Record how the invocation has fared, and when it may be tried again.

        Raises:
            TriggerSettledError: it has ended.
        """
        self._require_pending(trigger)
        record = AttemptRecord(
            attempts=attempts,
            interruptions=interruptions,
            not_before_us=not_before_us,
            reason=reason[:MAX_REASON],
        )
        self._set(trigger.attempts_key, encode(record))

    def rearm(self, trigger: Trigger) -> Trigger:
        """Let an invocation that ended be due again, as a new arrival with no attempts."""
        return self._fire(
            trigger.handler, trigger.woof, trigger.woof_id, trigger.number, trigger.element
        )

    def forget_effects(self, trigger: Trigger) -> None:
        """Forget what the invocation has put (not the puts)."""
        prefix = effects_of(trigger.woof_id, trigger.number)
        written = {key for key, _ in self._state.store.scan(prefix, prefix_end(prefix))}
        for key in sorted(written | self._drop_effects(prefix)):
            self._set(key, None)

    def _drop_effects(self, prefix: bytes) -> set[bytes]:
        """Let memory forget the keys that were staged; these keys."""
        effects = self._state.effects
        staged = effects.pop(prefix, None)
        if staged is None:
            return set()
        self._can_undo(lambda: effects.update({prefix: staged}))
        return staged

    def _require_pending(self, trigger: Trigger) -> None:
        if self._state.peek(trigger.key) is None:
            raise TriggerSettledError(
                f"handler {trigger.handler!r} on element {trigger.number} of {trigger.woof!r} "
                "has ended"
            )

    def _last_arrival(self, name: bytes) -> int:
        """The last arrival that was given to a trigger of the handler called ``name``."""
        arrivals = self._state.arrivals
        last = arrivals.get(name)
        if last is None:
            last = arrivals[name] = last_arrival(self._state.store, name)
        return last

    def _fire(
        self, handler: str, woof: str, woof_id: WoofId, number: int, element: bytes
    ) -> Trigger:
        name = check_handler(handler)
        arrival = self._last_arrival(name) + 1
        self._state.arrivals[name] = arrival
        trigger = Trigger(
            handler=handler,
            arrival=arrival,
            woof=woof,
            woof_id=woof_id,
            number=number,
            element=element,
        )
        record = TriggerRecord(woof=woof, woof_id=woof_id, number=number, element=element)
        self._set(trigger.key, encode(record))
        self.triggers = (*self.triggers, trigger)
        return trigger

    def _add_effect(self, trigger: Trigger, key: bytes, value: bytes) -> None:
        prefix = effects_of(trigger.woof_id, trigger.number)
        self._state.effects.setdefault(prefix, set()).add(key)
        self._set(key, value)

    def take_back(self) -> None:
        super().take_back()
        self.triggers = ()


def handler_in(key: bytes) -> bytes:
    """The handler that ``key``, of a trigger, belongs to."""
    return key[len(TRIGGERS) + 1 : -NUMBER_BYTES]


def last_arrival(store: KeyValue, handler: bytes) -> int:
    """The arrival of the newest written trigger of ``handler``; 0 when there is none."""
    start = handler_key(TRIGGERS, handler, 0)
    for key, _ in store.scan(start, prefix_end(start[:-NUMBER_BYTES]), reverse=True):
        return read_number(key[-NUMBER_BYTES:])
    return 0
