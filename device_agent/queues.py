"""What a device owes its nodes: requests it has taken on, and results they do not have yet.

Keys, after "device/"; ``n`` is a u64, big-endian::

    p n n handler        → TakenOn     a request whose handler has not ended; WooF id, number
    r home request_id    → Finished    a result; home is the node's id, 20 bytes

Rules kept here:

* What is taken on is written with the element it put, in one batch; a result with the end of its
  handler, in one batch. So a crash loses neither, and none is there without the other.
* A result stays until the node it belongs to says that it may go.

Not handled here: deciding (``executor.py``); the write is the caller's.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple, TypeVar

from edgistry.codec import Meta, Wire, decode, encode
from edgistry.errors import CorruptDatabaseError, MalformedError, TooLargeError
from edgistry.kv import Change, KeyValue, prefix_end
from edgistry.messages import MAX_QUEUED_ENVELOPE_BYTES, MAX_QUEUED_REPLY_BYTES, ResultKind
from edgistry.woof_triggers import Trigger

T = TypeVar("T")

HOME_BYTES: Final = 20

MAX_ASKERS: Final = 64
"""Ids under which one envelope may be waited for."""

_TAKEN_ON: Final = b"device/p"
_RESULTS: Final = b"device/r"
_LIMIT: Final = 2 * MAX_QUEUED_ENVELOPE_BYTES

_Home = Annotated[bytes, Meta(min_length=HOME_BYTES, max_length=HOME_BYTES)]
_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Asker(NamedTuple):
    """Who waits for a result: the node, and the id under which it knows the request."""

    home: bytes
    request_id: bytes


class TakenOn(Wire):
    """A request that was executed but for its handler."""

    envelope: Annotated[bytes, Meta(max_length=MAX_QUEUED_ENVELOPE_BYTES)]
    askers: Annotated[tuple[tuple[_Home, _Id], ...], Meta(max_length=MAX_ASKERS)]
    """One, unless the same envelope came under several ids."""


class Finished(Wire):
    """A result that its node does not have yet, as far as is known."""

    kind: Annotated[int, Meta(ge=int(ResultKind.RESPONDED), le=int(ResultKind.REJECTED))]
    reply: Annotated[bytes, Meta(max_length=MAX_QUEUED_REPLY_BYTES)]


class DeviceQueues:
    """The queues in ``store``: reads them, and says what to write."""

    def __init__(self, store: KeyValue) -> None:
        self._store = store

    # --- requests taken on ----------------------------------------------------------------------

    def taken_on(self) -> dict[bytes, TakenOn]:
        """All requests whose handlers have not ended, by ``place_of`` their triggers."""
        return {
            key[len(_TAKEN_ON) :]: _read(key, value, TakenOn)
            for key, value in self._store.scan(_TAKEN_ON, prefix_end(_TAKEN_ON))
        }

    def take_on(self, place: bytes, taken: TakenOn) -> Change:
        """Remembers a request until its handler has ended."""
        return _TAKEN_ON + place, encode(taken)

    def let_go(self, place: bytes) -> Change:
        """Its handler has ended."""
        return _TAKEN_ON + place, None

    # --- results --------------------------------------------------------------------------------

    def results(self) -> list[Asker]:
        """Who waits for a result that is there."""
        start = len(_RESULTS)
        return [
            Asker(key[start : start + HOME_BYTES], key[start + HOME_BYTES :])
            for key, _ in self._store.scan(_RESULTS, prefix_end(_RESULTS))
        ]

    def result(self, asker: Asker) -> Finished | None:
        """The result of this request, if it is there."""
        key = _result_key(asker)
        value = self._store.get(key)
        return None if value is None else _read(key, value, Finished)

    def finish(self, asker: Asker, kind: ResultKind, reply: bytes) -> Change:
        """Remembers a result until the node has it."""
        return _result_key(asker), encode(Finished(kind=int(kind), reply=reply))

    def forget(self, asker: Asker) -> Change:
        """The node has the result, or nobody needs it."""
        return _result_key(asker), None


def place_of(trigger: Trigger) -> bytes:
    """What tells the invocation of one handler on one element from all others."""
    fixed = trigger.woof_id.to_bytes(8, "big") + trigger.number.to_bytes(8, "big")
    return fixed + trigger.handler.encode("utf-8", "replace")


def handler_of(place: bytes) -> str:
    """The handler in what ``place_of`` gave."""
    return place[16:].decode("utf-8", "replace")


def _result_key(asker: Asker) -> bytes:
    return _RESULTS + asker.home + asker.request_id


def _read(key: bytes, value: bytes, kind: type[T]) -> T:
    try:
        return decode(value, kind, limit=_LIMIT)
    except (MalformedError, TooLargeError) as error:
        raise CorruptDatabaseError(f"the device's queue has no {key[:40]!r}: {error}") from None
