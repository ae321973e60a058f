"""What this node has chosen each service for: the loads that anycast looks at.

Rules kept here:

* Pure; time is an argument. A choice counts from when it was made until the request that was made
  with it has ended, as far as this node sees; one that no request follows, for ``UNUSED_US``.
* Whose client asks elsewhere how it is doing, or never again, is not seen to end. So none counts
  for longer than ``COUNTED_US``, whatever deadline its client chose.
* Bounded: of more choices than there is room for, the oldest count no longer.

Not handled here: choosing (``anycast``), and requests themselves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

UNUSED_US: Final = 60_000_000
COUNTED_US: Final = 3_600_000_000
MAX_CHOICES: Final = 50_000


@dataclass(slots=True)
class _Choice:
    record: bytes
    client: bytes
    alias: bytes
    until_us: int
    request: bytes = b""


class Choices:
    """The choices of this node that have not ended; at most ``most``."""

    def __init__(self, *, most: int = MAX_CHOICES) -> None:
        self._most = most
        self._all: OrderedDict[int, _Choice] = OrderedDict()
        self._of: dict[bytes, set[int]] = {}
        self._own: dict[bytes, dict[bytes, set[int]]] = {}
        """By client, and by service."""
        self._by_alias: dict[bytes, int] = {}
        self._by_request: dict[bytes, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._all)

    def made(self, record: bytes, client: bytes, *, alias: bytes, now_us: int) -> None:
        """That client was given the service ``record``, under the alias with that tag."""
        if len(self._all) >= self._most:
            self._forget(next(iter(self._all)))
        number, self._next = self._next, self._next + 1
        self._all[number] = _Choice(record, client, alias, now_us + UNUSED_US)
        self._by_alias[alias] = number
        self._of.setdefault(record, set()).add(number)
        self._own.setdefault(client, {}).setdefault(record, set()).add(number)

    def submitted(self, alias: bytes, request: bytes, *, until_us: int) -> None:
        """``request`` was made by ``alias``, and ends by ``until_us``; only the first counts."""
        number = self._by_alias.get(alias)
        if number is None or self._all[number].request or request in self._by_request:
            return
        choice = self._all[number]
        choice.request = request
        choice.until_us = min(until_us, choice.until_us - UNUSED_US + COUNTED_US)
        self._by_request[request] = number

    def ended(self, request: bytes) -> None:
        """``request`` has ended."""
        number = self._by_request.get(request)
        if number is not None:
            self._forget(number)

    def loaded_by(self, client: bytes) -> list[bytes]:
        """The services with choices for ``client`` that have not ended."""
        return list(self._own.get(client, ()))

    def own_load(self, record: bytes, client: bytes, *, now_us: int) -> int:
        """How many choices of ``record`` for ``client`` have not ended."""
        return self._live(self._own.get(client, {}).get(record, ()), now_us, self._most)

    def is_loaded(self, record: bytes, load: int, *, now_us: int) -> bool:
        """Whether at least ``load`` choices of ``record``, for anybody, have not ended."""
        return self._live(self._of.get(record, ()), now_us, load) >= load

    def _live(self, numbers: Iterable[int], now_us: int, most: int) -> int:
        """How many of these have not ended, as far as ``most``; ended ones are forgotten."""
        live, over = 0, []
        for number in numbers:
            if self._all[number].until_us <= now_us:
                over.append(number)
            else:
                live += 1
                if live >= most:
                    break
        for number in over:
            self._forget(number)
        return live

    def _forget(self, number: int) -> None:
        choice = self._all.pop(number)
        self._by_alias.pop(choice.alias, None)
        self._by_request.pop(choice.request, None)
        own = self._own[choice.client]
        for of in (self._of, own):
            numbers = of[choice.record]
            numbers.discard(number)
            if not numbers:
                del of[choice.record]
        if not own:
            del self._own[choice.client]
