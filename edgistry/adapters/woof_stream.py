"""Streams of new elements: each in a reply of its own, for as long as authority lasts.

Rules kept here:

* An event's data is a reply to the envelope that opened the stream, base64 (RFC 4648 §4): so every
  element is proven like that of a get. ``begin`` comes first, ACCEPTED, with the number of the
  first element and the WooF's id; then the elements, each with its number as the event's id, none
  left out and none twice; at last ``gone`` (the history has moved on, ``result`` says to where) or
  ``end``.
* A silent stream gets a comment every ``keep_alive_s``, so that both sides notice a broken one.
* A stream ends when its capability does: by its caveats, revocation, or a new epoch.
* What a reader has not taken is bounded: the next element is fetched when the last one is sent.

Not handled here: who may open one (``woof_service.py``), HTTP.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

from ..envelope import Status, decode_reply
from ..errors import ElementEvictedError, Refused
from ..event_stream import KEEP_ALIVE, encode_event
from ..issuer import Issuer
from ..verifier import Checked
from ..woof import WoofId
from ..woof_service import WoofService, refusal_reply
from .durable_woofs import DurableWoofs

KEEP_ALIVE_S: Final = 15.0


class WoofStreams:
    """The streams of one server; ``open`` is how many there are."""

    def __init__(
        self,
        woofs: DurableWoofs,
        service: WoofService,
        *,
        clock_us: Callable[[], int],
        keep_alive_s: float,
    ) -> None:
        self.open = 0
        self._woofs = woofs
        self._service = service
        self._clock_us = clock_us
        self._keep_alive_s = keep_alive_s

    async def events(
        self, checked: Checked, issuer: Issuer, begin: bytes
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of the stream that the reply ``begin`` (of ``begin_stream``) announces."""
        self.open += 1
        elements: AsyncIterator[tuple[int, bytes]] | None = None
        pending: asyncio.Task[tuple[int, bytes]] | None = None
        try:
            yield _event("begin", begin)
            told = decode_reply(begin)
            woof_id = WoofId(int.from_bytes(told.payload, "big"))
            name = checked.envelope.target
            elements = self._woofs.follow(name, told.result, woof_id=woof_id)
            while True:
                if pending is None:
                    pending = asyncio.create_task(_next(elements))
                await asyncio.wait({pending}, timeout=self._pause_s(checked))
                self._service.check_still_allowed(checked, issuer, now_us=self._clock_us())
                if not pending.done():
                    yield KEEP_ALIVE
                    continue
                number, element = pending.result()
                pending = None
                reply = checked.reply(Status.OK, result=number, payload=element)
                yield _event("", reply, number)
        except Refused as error:
            is_gone = isinstance(error, ElementEvictedError)
            yield _event("gone" if is_gone else "end", refusal_reply(checked, error))
        finally:
            self.open -= 1
            if pending is not None:
                pending.cancel()
                await asyncio.gather(pending, return_exceptions=True)
            if isinstance(elements, AsyncGenerator):
                await elements.aclose()

    def _pause_s(self, checked: Checked) -> float:
        """How long to wait for an element: until the next comment, or the end of authority."""
        ends_us = min(chain.not_after_us for chain in checked.chains)
        left_s = (ends_us - self._clock_us()) / 1_000_000 + 0.001
        return max(0.0, min(self._keep_alive_s, left_s))


async def _next(elements: AsyncIterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    return await anext(elements)


def _event(name: str, reply: bytes, number: int | None = None) -> bytes:
    data = base64.b64encode(reply).decode()
    return encode_event(data, name=name, event_id="" if number is None else str(number))
