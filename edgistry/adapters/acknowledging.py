"""Telling a node which outcomes are known here, without a request for each of them.

Rules kept here:

* What is to be told goes with the next call, which the caller makes anyway; when there is none for
  ``LINGER_S``, or the connections are about to be closed, it goes by itself.
* What did not arrive is told again with the next call. At the end each gets one last try: a node
  that is not told keeps the outcome, for a day.

Not handled here: whether an outcome has been proven, which comes first (``service_caller``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from ..errors import Refused
from ..requests_api import FETCH_KEY_HEADER, MAX_ACKNOWLEDGED, KnownOutcome
from .http import HttpClient

LINGER_S: Final = 0.5
"""How long an acknowledgement waits for a call that takes it along."""
_AT_ONCE: Final = 16
_TIMEOUT_S: Final = 15.0


class Acknowledger:
    """Acknowledges outcomes of one node's requests over ``http``, before that is closed."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._known: dict[str, KnownOutcome] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None
        http.before_close(self.tell_all)

    def __len__(self) -> int:
        """How many are still to be told."""
        return len(self._known)

    def add(self, known: KnownOutcome) -> None:
        """The outcome of a request is known; to be told soon. Called in an event loop."""
        self._known[known.id] = known
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._start_telling)

    def take(self) -> tuple[KnownOutcome, ...]:
        """What the next call takes along: ``told`` says that it has arrived."""
        return tuple(self._known.values())[:MAX_ACKNOWLEDGED]

    def told(self, taken: Sequence[KnownOutcome]) -> None:
        """The node has these."""
        for each in taken:
            self._known.pop(each.id, None)
        if not self._known and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def tell_all(self) -> None:
        """Tell all that is to be told, once more; what the node does not hear is left to it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._telling is not None:
            await self._telling
        await self._tell_known()

    async def _tell_known(self) -> None:
        waiting = list(self._known.values())
        for start in range(0, len(waiting), _AT_ONCE):
            some = waiting[start : start + _AT_ONCE]
            await asyncio.gather(*(self._tell(each) for each in some))

    async def _tell(self, known: KnownOutcome) -> None:
        with contextlib.suppress(Refused):
            await self._http.request(
                "POST",
                f"/v1/requests/{known.id}/ack",
                headers={FETCH_KEY_HEADER: known.fetch_key},
                timeout_s=_TIMEOUT_S,
            )
            self.told([known])

    def _start_telling(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        if self._telling is None or self._telling.done():
            self._telling = loop.create_task(self._tell_known())
        else:
            # One at a time: at the end somebody waits for it.
            self._timer = loop.call_later(LINGER_S, self._start_telling)
