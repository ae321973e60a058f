"""Dead letters: transactions that the chain refused, kept with the reason.

Rules kept here:

* A refused transaction is never dropped silently: it is kept whole, with the code of the refusal,
  so that a person can see what was lost and why.
* The log is bounded: the newest ``MAX_DEAD_LETTERS`` are kept.
* Sequences rise with the numbers of the log, except where a chain that lost blocks was followed:
  who asks for sequences means those given since.

Not handled here: what to do about one. Device rows are published again by the next import, since
the registry says that they are not on the chain.
"""

from __future__ import annotations

from typing import Annotated

from edgistry.codec import Meta, Wire, decode, encode
from edgistry.errors import Refused, every_refusal
from edgistry.journal import Journal
from edgistry.kv import Change, KeyValue
from edgistry.transactions import MAX_TRANSACTION_BYTES

MAX_DEAD_LETTERS = 1000
_ELEMENT_LIMIT = MAX_TRANSACTION_BYTES + 64
_EARLIER_KEY = b"o/earlier-letters"
"""The number of the last letter from before sequences were given anew."""


class DeadLetter(Wire):
    """One refused transaction."""

    sequence: Annotated[int, Meta(ge=1)]
    code: Annotated[int, Meta(ge=0)]
    """The result code of the block, ``Refused.number``."""
    transaction: bytes
    """The signed bytes, as they were sent."""

    @property
    def reason(self) -> str:
        """The refusal in words."""
        return reason_of(self.code)


def reason_of(number: int) -> str:
    """What the result code ``number`` means, in words and with its stable name."""
    kind = _KINDS.get(number)
    if kind is None:
        return f"refused by the chain (code {number})"
    meaning = (kind.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return f"refused by the chain: {meaning[:1].lower()}{meaning[1:]} ({kind.code})"


_KINDS: dict[int, type[Refused]] = {kind.number: kind for kind in every_refusal()}


class DeadLetters:
    """The dead-letter log of the outbox, in the node's own database."""

    def __init__(self, store: KeyValue) -> None:
        self._store = store
        self._log = Journal(store, "node/dead-letters", element_limit=_ELEMENT_LIMIT)

    def __len__(self) -> int:
        return self._log.latest() - self._log.earliest() + 1

    def add(self, letters: list[DeadLetter]) -> list[Change]:
        """The changes that append ``letters`` and let the oldest go when there are too many."""
        appended = self._log.append([encode(letter) for letter in letters])
        # Only what is already written can be trimmed, so the log may briefly hold a few more.
        return [*appended.changes, *self._log.trim(appended.last - MAX_DEAD_LETTERS)]

    def begin_anew(self) -> list[Change]:
        """The changes after which the letters of now are not found by their sequences."""
        return [(_EARLIER_KEY, self._log.latest().to_bytes(8, "big"))]

    def newest(self, count: int) -> list[DeadLetter]:
        """The newest ``count`` letters, newest first."""
        return [_letter(element) for _, element in self._log.tail(count)]

    def newest_numbered(self, count: int) -> list[tuple[int, DeadLetter]]:
        """As ``newest``, each with its own number, which no other letter ever has."""
        return [(number, _letter(element)) for number, element in self._log.tail(count)]

    def get(self, number: int) -> DeadLetter:
        """The letter with that number of its own.

        Raises:
            NotFoundError: there is none: never, or no longer.
        """
        return _letter(self._log.get(number))

    def forget_all(self) -> list[Change]:
        """The changes that forget all letters of now."""
        return self._log.trim(self._log.latest())

    def between(self, first: int, last: int) -> list[DeadLetter]:
        """The letters with ``first`` <= sequence <= ``last`` among those kept, newest first.

        Reads from the newest backwards and stops at ``first``: sequences rise with the numbers.
        """
        found = []
        earlier = int.from_bytes(self._store.get(_EARLIER_KEY) or b"", "big")
        begin = max(self._log.earliest(), earlier + 1)
        for number in range(self._log.latest(), begin - 1, -1):
            letter = _letter(self._log.get(number))
            if letter.sequence < first:
                break
            if letter.sequence <= last:
                found.append(letter)
        return found


def _letter(element: bytes) -> DeadLetter:
    return decode(element, DeadLetter, limit=_ELEMENT_LIMIT)
