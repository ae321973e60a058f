"""Dead letters of handlers: invocations that have failed for good, each with its reason.

Rules kept here:

* Burying ends the invocation, keeps all that is needed to run it again, and appends a summary to
  the WooF ``dead-letters/handlers``, in one write. The summary has neither the element nor what
  the handler printed: who may read that WooF need not be allowed to read these.
* A letter has the number of its summary. The newest ``MAX_LETTERS`` are kept, as many as the WooF
  shows.
* Replayed, the invocation is due again as if it were new. Puts that it has made are not made
  again. Purged, nothing is left but the summary.

| key | value |
|---|---|
| ``Fd`` number | ``LetterRecord`` |

Not handled here: what is dead (``faas.py``), and transactions that the chain refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Final

from .codec import Meta, Wire, decode, encode, encode_json
from .errors import CorruptDatabaseError, NotFoundError, Refused
from .faas_outcome import Failure
from .kv import KeyValue, prefix_end
from .woof import MAX_ELEMENT_BYTES, WoofId
from .woof_keys import NUMBER_BYTES, number_bytes, read_number
from .woof_staging import Staging
from .woof_triggers import Trigger

LETTERS_NAMESPACE: Final = "dead-letters"
LETTERS_WOOF: Final = "dead-letters/handlers"
MAX_LETTERS: Final = 10_000
MAX_OUTPUT_BYTES: Final = 4096
"""Kept of what an isolated handler printed: the end."""

_LETTERS: Final = b"Fd"
_RECORD_LIMIT: Final = MAX_ELEMENT_BYTES + MAX_OUTPUT_BYTES + 4096


class LetterRecord(Wire):
    """An invocation that failed for good, with what it was about."""

    handler: str
    woof: str
    woof_id: Annotated[int, Meta(ge=0)]
    number: Annotated[int, Meta(ge=1)]
    element: bytes
    attempts: Annotated[int, Meta(ge=0)]
    died_us: Annotated[int, Meta(ge=0)]
    reason: str
    output: Annotated[bytes, Meta(max_length=MAX_OUTPUT_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter and its number."""

    number: int
    record: LetterRecord

    @property
    def trigger(self) -> Trigger:
        """The invocation. Its place in the order of arrival is gone."""
        record = self.record
        return Trigger(
            handler=record.handler,
            arrival=0,
            woof=record.woof,
            woof_id=WoofId(record.woof_id),
            number=record.number,
            element=record.element,
        )


class HandlerLetters:
    """The dead letters in ``store``. What is staged is decided with the WooFs' lock held."""

    def __init__(self, store: KeyValue) -> None:
        self._store = store
        self._leaving: set[int] = set()
        """Letters whose replay or purge is staged: nobody can replay one twice."""

    # --- reading --------------------------------------------------------------------------------

    def get(self, number: int) -> Letter:
        """The letter called ``number``.

        Raises:
            NotFoundError: there is none: never, or it was replayed or purged, or is too old.
        """
        value = self._store.get(_key(number)) if 0 < number < 1 << 64 else None
        if value is None:
            raise NotFoundError(f"there is no dead letter {number} of a handler")
        return _letter(number, value)

    def newest(self, limit: int, *, before: int | None = None) -> list[Letter]:
        """Up to ``limit`` letters with numbers below ``before``, newest first."""
        return list(islice(self._backwards(before), limit))

    def count(self) -> int:
        """How many there are."""
        return sum(1 for _ in self._store.scan(_LETTERS, prefix_end(_LETTERS)))

    def numbers(self) -> list[int]:
        """The numbers of all of them, oldest first."""
        entries = self._store.scan(_LETTERS, prefix_end(_LETTERS))
        return [read_number(key[-NUMBER_BYTES:]) for key, _ in entries]

    def _backwards(self, before: int | None) -> Iterator[Letter]:
        stop = prefix_end(_LETTERS) if before is None else _key(max(before, 0))
        for key, value in self._store.scan(_LETTERS, stop, reverse=True):
            yield _letter(read_number(key[-NUMBER_BYTES:]), value)

    # --- deciding -------------------------------------------------------------------------------

    def prepare(self, staging: Staging) -> None:
        """Make sure that the WooF for summaries exists."""
        staging.create_namespace(LETTERS_NAMESPACE)
        staging.create(LETTERS_WOOF, history=MAX_LETTERS)

    def bury(
        self, staging: Staging, trigger: Trigger, failure: Failure, *, attempts: int, now_us: int
    ) -> int:
        """End the invocation as a dead letter; the letter's number.

        Raises:
            TriggerSettledError: it has ended before.
        """
        staging.finish(trigger, keep_effects=True)
        number = staging.put(LETTERS_WOOF, _summary(trigger, failure, attempts, now_us))
        record = LetterRecord(
            handler=trigger.handler,
            woof=trigger.woof,
            woof_id=trigger.woof_id,
            number=trigger.number,
            element=trigger.element,
            attempts=attempts,
            died_us=now_us,
            reason=failure.reason,
            output=failure.output[-MAX_OUTPUT_BYTES:],
        )
        staging.add([(_key(number), encode(record))])
        self._drop(staging, number - MAX_LETTERS)
        return number

    def replay(self, staging: Staging, number: int) -> Trigger:
        """Let the invocation of letter ``number`` be due again; the letter is gone.

        Raises:
            NotFoundError: there is no such letter.
        """
        letter = self._leave(number)
        staging.add([(_key(number), None)])
        return staging.rearm(letter.trigger)

    def purge(self, staging: Staging, number: int) -> None:
        """Forget letter ``number``, and what its invocation has put (not the puts).

        Raises:
            NotFoundError: there is no such letter.
        """
        letter = self._leave(number)
        staging.add([(_key(number), None)])
        staging.forget_effects(letter.trigger)

    def settled(self, number: int) -> None:
        """A replay or purge of letter ``number`` has been written, or was given up."""
        self._leaving.discard(number)

    def _leave(self, number: int) -> Letter:
        if number in self._leaving:
            raise NotFoundError(f"dead letter {number} was just replayed or purged")
        letter = self.get(number)
        self._leaving.add(number)
        return letter

    def _drop(self, staging: Staging, number: int) -> None:
        """Let the oldest letter go when there are too many."""
        if number < 1 or number in self._leaving or self._store.get(_key(number)) is None:
            return
        self.purge(staging, number)


def _letter(number: int, value: bytes) -> Letter:
    try:
        record = decode(value, LetterRecord, limit=_RECORD_LIMIT)
    except Refused as error:
        raise CorruptDatabaseError(f"stored dead letter {number}: {error}") from None
    return Letter(number=number, record=record)


def _key(number: int) -> bytes:
    return _LETTERS + number_bytes(number)


def _summary(trigger: Trigger, failure: Failure, attempts: int, now_us: int) -> bytes:
    return encode_json(
        {
            "handler": trigger.handler,
            "woof": trigger.woof,
            "seq": trigger.number,
            "attempts": attempts,
            "died_us": now_us,
            "reason": failure.reason,
        }
    )
