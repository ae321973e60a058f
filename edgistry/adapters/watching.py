"""Watching an area over HTTP: what is there, then each change, also when connections break.

Rules kept here:

* A stream that breaks, or falls silent, is opened anew behind the last block that was told
  completely, for up to ``patience_s``. A block's changes are told together.
* When the node cannot tell the changes since then, the area is listed anew, and what differs from
  what was known is told: so nothing that lasts is missed, and nothing is told twice.
* Handles are of one privacy epoch. When the node goes over to another one, that is told, and
  nothing known before counts any more; what is there then is told anew.
* What a node sends is untrusted: it is bounded, and what is no such event is refused.

Not handled here: areas and events as data (``watch_api``), the form of events.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Final, TypeVar

from ..api import JSON_CONTENT_TYPE, MAX_RESULTS, DiscoverAnswer, DiscoverQuery, ServiceEntry
from ..codec import Answer, decode_json
from ..errors import (
    CannotReachError,
    MalformedError,
    NotYetError,
    TimedOutError,
    UnavailableError,
    UnexpectedAnswerError,
    UnknownCursorError,
)
from ..event_stream import EVENT_CONTENT_TYPE, MAX_EVENT_BYTES, Event, EventReader
from ..watch_api import (
    BEGIN,
    CHANGES,
    EPOCH,
    GONE,
    HEIGHT,
    WATCH_PATH,
    ChangeKind,
    ChangesEvent,
    HeightEvent,
    ServiceChange,
    WatchQuery,
    watch_body,
)
from .http import HttpClient, StreamedAnswer
from .problems import content_type_of, refusal_in

T = TypeVar("T", bound=Answer)

SILENCE_S: Final = 45.0
"""A stream is dead when not even three comments in a row arrive."""
FIRST_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 5.0
MAX_LIST_PAUSE_S: Final = 1.0
"""All who watch a node may have to list at once; they begin within this time."""
MAX_BLOCK_SERVICES: Final = 100_000
"""More changes than a block has room for."""

_HEADERS: Final = {"Content-Type": JSON_CONTENT_TYPE, "Accept": EVENT_CONTENT_TYPE}

Discover = Callable[[DiscoverQuery], Awaitable[DiscoverAnswer]]
Sign = Callable[[str, str, bytes], Mapping[str, str]]
"""Method, path and body to the headers of who asks."""


class Watching:
    """Changes to the services that ``query`` asks for.

    ``discover`` asks the same node for the same client, as which ``sign`` signs.
    """

    def __init__(
        self,
        http: HttpClient,
        discover: Discover,
        query: WatchQuery,
        *,
        sign: Sign,
        patience_s: float,
    ) -> None:
        self._sign = sign
        self._epoch: int | None = None
        """The epoch of the handles that were told; ``None``: there were none."""
        self._http = http
        self._discover = discover
        self._query = query
        self._height = query.since
        """All up to this height is told; ``None``: the area has to be listed."""
        self._reached = query.since or 0
        self._known: dict[str, ServiceEntry] = {}
        self._patience_s = patience_s
        self._heard_s = 0.0

    async def changes(self) -> AsyncGenerator[ServiceChange, None]:
        """Each change, for ever; without a ``since``, first all that is there, as appeared.

        Raises:
            CannotReachError, TimedOutError, UnavailableError, NotYetError: no news for
                ``patience_s``.
            UnknownRegionError, MalformedError, InvalidValueError, LimitExceededError: the query.
        """
        self._heard_s = time.monotonic()
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                if self._height is None:
                    for change in await self._list():
                        yield change
                async with aclosing(self._once()) as found:
                    async for change in found:
                        pause_s = FIRST_PAUSE_S
                        yield change
            except (CannotReachError, TimedOutError, UnavailableError, NotYetError):
                if time.monotonic() - self._heard_s > self._patience_s:
                    raise
            lists = self._height is None
            spread_s = MAX_LIST_PAUSE_S * random.random() if lists else 0.0  # noqa: S311
            await asyncio.sleep(max(pause_s, spread_s))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _list(self) -> list[ServiceChange]:
        """What differs from what was known, now that the area is listed anew."""
        query = DiscoverQuery(
            area=self._query.area,
            type=self._query.type,
            limit=MAX_RESULTS,
            min_height=self._reached or None,
        )
        try:
            first, there = await self._pages(query)
        except UnknownCursorError:  # the epoch ended between two pages
            first, there = await self._pages(query)
        # What happens while pages are read is told by the stream, from the first page on.
        self._height = self._reached = first.height
        self._heard_s = time.monotonic()
        told = (first.height, first.block_time)
        begun = self._begin(first.epoch, *told)
        gone = [handle for handle in self._known if handle not in there]
        return [*begun, *self._left(gone, *told), *self._there(there.values(), *told)]

    async def _pages(self, query: DiscoverQuery) -> tuple[DiscoverAnswer, dict[str, ServiceEntry]]:
        page = first = await self._discover(query)
        there = {each.handle: each for each in page.services}
        while page.next is not None:
            page = await self._discover(dataclasses.replace(query, cursor=page.next))
            there |= {each.handle: each for each in page.services}
        return first, there

    def _begin(self, epoch: int, height: int, block_time: str) -> list[ServiceChange]:
        """Handles told from now on are of ``epoch``."""
        was, self._epoch = self._epoch, epoch
        if was in (None, epoch):
            return []
        self._known.clear()
        return [_change("epoch", "", None, height, block_time)]

    async def _once(self) -> AsyncGenerator[ServiceChange, None]:
        """The changes of one stream; returns when it ends."""
        body = watch_body(dataclasses.replace(self._query, since=self._height))
        headers = {**_HEADERS, **self._sign("POST", WATCH_PATH, body)}
        async with self._http.stream(
            "POST", WATCH_PATH, body=body, headers=headers, silence_s=SILENCE_S
        ) as answer:
            if content_type_of(answer) != EVENT_CONTENT_TYPE:
                raise refusal_in(await answer.whole())
            async with aclosing(self._read(answer)) as found:
                async for change in found:
                    yield change

    async def _read(self, answer: StreamedAnswer) -> AsyncGenerator[ServiceChange, None]:
        reader = EventReader()
        block: list[ChangesEvent] = []
        async with aclosing(answer.chunks()) as chunks:
            async for chunk in chunks:
                for event in _events(reader, chunk):
                    self._heard_s = time.monotonic()
                    if event.name in (GONE, EPOCH) or self._is_other_epoch(event):
                        self._height = None
                        return
                    if event.name in (BEGIN, HEIGHT):
                        self._reach(_data(event, HeightEvent).height)
                    if event.name != CHANGES:
                        continue  # one that a newer node knows
                    block.append(_data(event, ChangesEvent))
                    _check_block(block)
                    if not block[-1].more:
                        for change in [each for part in block for each in self._of(part)]:
                            yield change
                        self._reach(block[-1].height)
                        block = []
                self._heard_s = time.monotonic()

    def _is_other_epoch(self, event: Event) -> bool:
        """Whether a stream begins with handles of another epoch than those that were told."""
        if event.name != BEGIN:
            return False
        epoch = _data(event, HeightEvent).epoch
        if self._epoch is None:
            self._epoch = epoch
        return self._epoch != epoch

    def _reach(self, height: int) -> None:
        if height < self._reached:
            raise UnexpectedAnswerError(f"height {height} was told after {self._reached}")
        self._height = self._reached = height

    def _of(self, part: ChangesEvent) -> Iterator[ServiceChange]:
        told = (part.height, part.block_time)
        yield from self._left(part.left, *told)
        yield from self._there((*part.appeared, *part.changed), *told)

    def _left(
        self, handles: Iterable[str], height: int, block_time: str
    ) -> Iterator[ServiceChange]:
        for handle in handles:
            was = self._known.pop(handle, None)
            if was is None and self._query.since is None:
                continue  # it was not there any more when the area was listed
            yield _change("left", handle, was, height, block_time)

    def _there(
        self, services: Iterable[ServiceEntry], height: int, block_time: str
    ) -> Iterator[ServiceChange]:
        for service in services:
            was = self._known.get(service.handle)
            self._known[service.handle] = service
            if was != service:
                kind: ChangeKind = "appeared" if was is None else "changed"
                yield _change(kind, service.handle, service, height, block_time)


def _change(
    kind: ChangeKind, handle: str, service: ServiceEntry | None, height: int, block_time: str
) -> ServiceChange:
    return ServiceChange(
        change=kind, height=height, block_time=block_time, handle=handle, service=service
    )


def _check_block(block: list[ChangesEvent]) -> None:
    size = sum(len(each.appeared) + len(each.changed) + len(each.left) for each in block)
    if size > MAX_BLOCK_SERVICES or block[0].height != block[-1].height:
        raise UnexpectedAnswerError("changes that no block can have")


def _events(reader: EventReader, chunk: bytes) -> list[Event]:
    try:
        return reader.feed(chunk)
    except MalformedError as error:
        raise UnexpectedAnswerError(error.detail) from None


def _data(event: Event, kind: type[T]) -> T:
    try:
        return decode_json(event.data.encode(), kind, limit=MAX_EVENT_BYTES)
    except MalformedError as error:
        raise UnexpectedAnswerError(f"not a {kind.__name__}: {error}") from None
