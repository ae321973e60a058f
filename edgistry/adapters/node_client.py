"""A client of a node's HTTP API, for applications and for the command line.

Rules kept here:

* Arguments are checked before anything is sent, by the checks that the node itself uses.
* A refusal of the node comes back as the class it left as (``UnknownRegionError``, say), so that
  programs catch the same errors on both sides of the wire.
* What a node answers is as untrusted as any input: an answer of another form is refused.

Not handled here: choosing among nodes, WooFs (``woof_client.py``), retrying what is not a WooF's.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack

from ..api import (
    JSON_CONTENT_TYPE,
    PROBLEM_CONTENT_TYPE,
    DiscoverAnswer,
    DiscoverBody,
    DiscoverQuery,
    ReadyAnswer,
    RegionList,
    ServiceEntry,
    StatusAnswer,
)
from ..calls import CallResult
from ..capability import Capability
from ..codec import Answer
from ..discover_query import check_discover_body, discover_body, discover_parameters
from ..errors import (
    EpochEndedError,
    InvalidValueError,
    UnexpectedAnswerError,
    UnknownCursorError,
)
from ..watch_api import ServiceChange, WatchBody, WatchQuery, check_watch_body
from .acknowledging import Acknowledger
from .any_caller import AnyCaller
from .clock import wall_us
from .grant_client import ClientKeys
from .http import HttpClient, Response
from .problems import MAX_ANSWER_BYTES, content_type_of, decode_answer, refusal_in
from .service_caller import DEFAULT_WAIT_S, CallOptions, Keep, News, ServiceCaller
from .watching import Watching
from .woof_blocking import BlockingWoofs
from .woof_caller import PATIENCE_S, WoofCaller
from .woof_client import WoofClient

T = TypeVar("T", bound=Answer)

DISCOVER_PATH = "/v1/discover"
DEFAULT_NODE = "http://127.0.0.1:27000"


class WatchArguments(TypedDict, total=False):
    """What to look for: exactly one of region, cell, near, polygon; the rest narrows it."""

    region: str
    """Name of a region."""
    cell: str
    """H3 cell, 15 hex digits, resolution 7 or coarser."""
    near: tuple[float, float]
    """Latitude and longitude in degrees; needs ``radius_km``."""
    radius_km: float
    """At most 500."""
    polygon: dict[str, Any]
    """GeoJSON Polygon or MultiPolygon, alone or as a Feature."""
    type: str | None
    """Only services of this type."""


class DiscoverArguments(WatchArguments, total=False):
    """What to look for, and how much of it at a time."""

    limit: int
    """Services in one answer, 1 to 1000; 20 if not given."""
    cursor: str | None
    """``next`` of the answer before."""
    min_height: int | None
    """Answer only from this height on; the node waits up to 5 s for it."""


StartOver = Callable[[], None]
"""What was listed so far is to be forgotten: the listing begins again."""
MAX_STARTS: Final = 4
"""Of one listing. Behind one address nodes may be in two epochs for a minute; with more of them
each page could lead back to the first."""


class _Listing:
    """Where a listing of all pages is."""

    def __init__(self, what: DiscoverArguments, start_over: StartOver | None) -> None:
        self.what = what
        self.more = True
        self._begin = what.get("cursor")
        self._start_over = start_over
        self._starts = 1
        self._pages = 0

    def go_on(self, page: DiscoverAnswer) -> None:
        """Behind ``page``."""
        self._pages += 1
        self.more = page.next is not None
        self.what["cursor"] = page.next

    def lost_cursor(self, error: UnknownCursorError) -> None:
        """From the first page; raises ``error`` when the caller's own cursor leads nowhere."""
        if not self._pages:
            raise error
        is_last = self._starts == MAX_STARTS
        if self._start_over is None or self._begin is not None or is_last:
            raise EpochEndedError(
                f"the privacy epoch ended behind page {self._pages} of this listing"
            ) from None
        self._start_over()
        self._starts += 1
        self._pages = 0
        self.what["cursor"] = None


class NodeClient(WoofClient):
    """An asynchronous client of the node at ``node`` (``http://host:port``).

    Finding services needs no capability, but somebody whose handles they are: ``keys``, or else
    some that are made for this object and nobody else ever has. WooFs and calls need a
    ``capability``, with those ``beside`` it that it requires. ``client`` is the caller's 8-byte id;
    by default the one the capability names, or else whose handle is called. A node that does not
    answer is tried for ``patience_s``, which a program that must not lose a put
    raises up to ``timeout_s``: an element is put once, however often it is sent.

    Use it from one event loop, and close it (``async with`` does). All methods may raise
    ``CannotReachError``, ``TimedOutError``, ``UnexpectedAnswerError``, and what the node refuses.

    Raises (when made):
        InvalidValueError: ``node`` is not such an address.
    """

    def __init__(
        self,
        node: str = DEFAULT_NODE,
        capability: Capability | None = None,
        *,
        beside: Sequence[Capability] = (),
        client: bytes | None = None,
        keys: ClientKeys | None = None,
        timeout_s: float = 30.0,
        patience_s: float = PATIENCE_S,
        clock_us: Callable[[], int] = wall_us,
    ) -> None:
        self.node = node
        self.keys = ClientKeys.generate() if keys is None else keys
        self._patience_s = patience_s
        self._clock_us = clock_us
        self._http = HttpClient(node, timeout_s=timeout_s, response_limit=MAX_ANSWER_BYTES)
        self._acknowledger = Acknowledger(self._http)
        caller = None
        if capability is not None:
            caller = WoofCaller(
                self._http,
                capability,
                beside=beside,
                client=client,
                timeout_s=timeout_s,
                patience_s=patience_s,
                clock_us=clock_us,
            )
        super().__init__(caller)
        self._services = None
        if capability is not None:
            self._services = ServiceCaller(
                self._http,
                capability,
                beside=beside,
                client=client,
                clock_us=clock_us,
                acknowledger=self._acknowledger,
            )

    async def discover(self, **what: Unpack[DiscoverArguments]) -> DiscoverAnswer:
        """One page of the services in an area, by their cells, under this client's handles.

        Raises:
            MalformedError, InvalidValueError, LimitExceededError: the arguments.
            UnknownRegionError: no such region. NotYetError: ``min_height`` is not reached.
            UnknownCursorError: ``cursor`` is of another client or epoch.
            NoEpochKeyError: the node has no handles to give yet.
        """
        return await self.answer_query(check_discover_body(DiscoverBody(**what)))

    async def browse(self, **what: Unpack[DiscoverArguments]) -> DiscoverAnswer:
        """How many services there are of each type in each cell of an area, asked by nobody.

        The answer has ``counts``, page after page as ``discover`` has services; raises as it does.
        """
        return await self.browse_query(check_discover_body(DiscoverBody(**what)))

    async def services(
        self, *, start_over: StartOver | None = None, **what: Unpack[DiscoverArguments]
    ) -> AsyncIterator[ServiceEntry]:
        """All services in an area, page after page (``limit`` is the size of a page).

        Pages may come from different heights: a service that is registered or withdrawn in
        between may be missed or seen, one that moves to another cell also twice.

        All services have new handles when a privacy epoch ends, and nobody can tell which is which.
        If that happens between two pages, ``start_over`` is called, if there is one: forget what
        was told so far, since all services follow, from the first. Without, the listing ends with
        an error, so that handles of two epochs never come from one loop unnoticed.

        Raises:
            EpochEndedError: the epoch ended between two pages, and there is no ``start_over``, or
                the listing began behind a ``cursor``, or ``MAX_STARTS`` times already.
            Refused: as ``discover``.
        """
        listing = _Listing(what, start_over)
        while listing.more:
            try:
                page = await self.discover(**listing.what)
            except UnknownCursorError as error:
                listing.lost_cursor(error)
                continue
            for service in page.services:
                yield service
            listing.go_on(page)

    async def answer_query(self, query: DiscoverQuery) -> DiscoverAnswer:
        """As ``discover``, for a query that was checked already."""
        # In a body: how a query of a URL is spelt is for many programs on the way to say.
        body = discover_body(query)
        return await self._discover(body, self.keys.signed_headers("POST", DISCOVER_PATH, body))

    async def browse_query(self, query: DiscoverQuery) -> DiscoverAnswer:
        """As ``browse``, for a query that was checked already."""
        parameters = discover_parameters(query)
        if parameters is not None:
            return await self._get(DISCOVER_PATH, DiscoverAnswer, parameters)
        return await self._discover(discover_body(query), {})

    async def _discover(self, body: bytes, headers: Mapping[str, str]) -> DiscoverAnswer:
        response = await self._http.request(
            "POST",
            DISCOVER_PATH,
            body=body,
            headers={"Content-Type": JSON_CONTENT_TYPE, **headers},
        )
        return _read(response, DiscoverAnswer)

    def watch(
        self, *, since: int | None = None, **what: Unpack[WatchArguments]
    ) -> AsyncGenerator[ServiceChange, None]:
        """All services in an area, as appeared, then each change to them, for ever.

        With ``since``, only changes behind that height; if the node cannot tell them any more, all
        that is there. Connections that break are made anew, for up to ``patience_s``. When a
        privacy epoch begins, a change ``epoch`` says that no handle of before is told any more, and
        all that is there follows, as appeared.

        Raises (when made, or when the first change is asked for):
            As ``discover``.
        """
        return self.watch_query(check_watch_body(WatchBody(since=since, **what)))

    def watch_query(self, query: WatchQuery) -> AsyncGenerator[ServiceChange, None]:
        """As ``watch``, for a query that was checked already."""
        watching = Watching(
            self._http,
            self.answer_query,
            query,
            sign=self.keys.signed_headers,
            patience_s=self._patience_s,
        )
        return watching.changes()

    async def regions(self) -> RegionList:
        """The named regions of the chain."""
        return await self._get("/v1/regions", RegionList)

    async def call(
        self,
        handle: str,
        action: str,
        data: bytes = b"",
        *,
        wait_s: float = DEFAULT_WAIT_S,
        keep: Keep = lambda ticket: None,
        news: News | None = None,
        acknowledge: bool = True,
        **how: Unpack[CallOptions],
    ) -> CallResult:
        """Have the service with this ``handle`` carry out ``action``, and wait for its answer.

        A device may sleep for long. What has no outcome after ``wait_s`` goes on by itself until
        its time to live is over; with the ticket that ``keep`` gets, ``CallTracker`` follows it.
        Repeating a call with the same ``idempotency_key`` from the same ticket is safe.

        Raises:
            CallPendingError: no outcome yet.
            CallEndedError: it ended without an answer of the device's handler.
            UnknownRouteError, NotFoundError, AuthorityError, MailboxFullError: not accepted.
        """
        if self._services is None:
            raise InvalidValueError("calls need a capability: NodeClient(node, capability)")
        return await self._services.call(
            handle,
            action,
            data,
            wait_s=wait_s,
            keep=keep,
            news=news,
            acknowledge=acknowledge,
            **how,
        )

    async def call_any(
        self,
        action: str,
        data: bytes = b"",
        *,
        type: str,
        keys: ClientKeys | None = None,
        wait_s: float = DEFAULT_WAIT_S,
        patience_s: float | None = None,
        keep: Keep = lambda ticket: None,
        news: News | None = None,
        acknowledge: bool = True,
        region: str | None = None,
        cell: str | None = None,
        near: tuple[float, float] | None = None,
        radius_km: float | None = None,
        polygon: dict[str, Any] | None = None,
        **how: Unpack[CallOptions],
    ) -> CallResult:
        """Have any one service of ``type`` in an area carry out ``action``; its answer.

        The area is given as for ``discover``. The node chooses, and its service's home node grants
        what the call needs to ``keys``, by default the client's. One that has
        not answered after ``patience_s`` (a third of ``wait_s``) is given up for another, if the
        first certainly does not carry the call out or the action only reads. There is one answer.

        Raises:
            NoMemberError, MembersBusyError, GrantRefusedError: nobody there can be called.
            CallPendingError, CallEndedError, Refused: as ``call``.
        """
        area = {
            "region": region,
            "cell": cell,
            "near": near,
            "radius_km": radius_km,
            "polygon": polygon,
        }
        caller = AnyCaller(
            self._http,
            keys or self.keys,
            clock_us=self._clock_us,
            acknowledger=self._acknowledger,
        )
        return await caller.call(
            action,
            data,
            type=type,
            area={name: value for name, value in area.items() if value is not None},
            wait_s=wait_s,
            patience_s=patience_s,
            keep=keep,
            news=news,
            acknowledge=acknowledge,
            **how,
        )

    async def status(self) -> StatusAnswer:
        """How the node is doing."""
        return await self._get("/v1/status", StatusAnswer)

    async def ready(self) -> ReadyAnswer:
        """Whether the node can serve reads, and whether its writes get through."""
        response = await self._http.request("GET", "/readyz")
        if response.status == 503 and content_type_of(response) == JSON_CONTENT_TYPE:
            return decode_answer(response, ReadyAnswer)
        return _read(response, ReadyAnswer)

    async def close(self) -> None:
        """Close the connections. Closing twice is safe."""
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _get(
        self, path: str, kind: type[T], parameters: Mapping[str, str] | None = None
    ) -> T:
        return _read(await self._http.request("GET", path, query=parameters), kind)


class BlockingNodeClient(BlockingWoofs):
    """``NodeClient`` for code without an event loop. The same methods, results and errors."""

    def __init__(
        self,
        node: str = DEFAULT_NODE,
        capability: Capability | None = None,
        *,
        beside: Sequence[Capability] = (),
        client: bytes | None = None,
        keys: ClientKeys | None = None,
        timeout_s: float = 30.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._client = NodeClient(
            node,
            capability,
            beside=beside,
            client=client,
            keys=keys,
            timeout_s=timeout_s,
            patience_s=patience_s,
        )
        super().__init__(self._client, asyncio.Runner())

    def discover(self, **what: Unpack[DiscoverArguments]) -> DiscoverAnswer:
        """See ``NodeClient.discover``."""
        return self._runner.run(self._client.discover(**what))

    def browse(self, **what: Unpack[DiscoverArguments]) -> DiscoverAnswer:
        """See ``NodeClient.browse``."""
        return self._runner.run(self._client.browse(**what))

    def services(
        self, *, start_over: StartOver | None = None, **what: Unpack[DiscoverArguments]
    ) -> Iterator[ServiceEntry]:
        """See ``NodeClient.services``."""
        listing = _Listing(what, start_over)
        while listing.more:
            try:
                page = self.discover(**listing.what)
            except UnknownCursorError as error:
                listing.lost_cursor(error)
                continue
            yield from page.services
            listing.go_on(page)

    def watch(
        self, *, since: int | None = None, **what: Unpack[WatchArguments]
    ) -> Generator[ServiceChange, None, None]:
        """See ``NodeClient.watch``. Blocks until there is a next change."""
        return self._each(self._client.watch(since=since, **what))

    def regions(self) -> RegionList:
        """See ``NodeClient.regions``."""
        return self._runner.run(self._client.regions())

    def call(
        self,
        handle: str,
        action: str,
        data: bytes = b"",
        *,
        wait_s: float = DEFAULT_WAIT_S,
        keep: Keep = lambda ticket: None,
        news: News | None = None,
        acknowledge: bool = True,
        **how: Unpack[CallOptions],
    ) -> CallResult:
        """See ``NodeClient.call``."""
        return self._runner.run(
            self._client.call(
                handle,
                action,
                data,
                wait_s=wait_s,
                keep=keep,
                news=news,
                acknowledge=acknowledge,
                **how,
            )
        )

    def call_any(self, action: str, data: bytes = b"", **how: Any) -> CallResult:
        """See ``NodeClient.call_any``."""
        return self._runner.run(self._client.call_any(action, data, **how))

    def status(self) -> StatusAnswer:
        """See ``NodeClient.status``."""
        return self._runner.run(self._client.status())

    def ready(self) -> ReadyAnswer:
        """See ``NodeClient.ready``."""
        return self._runner.run(self._client.ready())

    def close(self) -> None:
        """Close the connections. Closing twice is safe."""
        if not self._closed:
            self._closed = True
            self._runner.run(self._client.close())
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _read(response: Response, kind: type[T]) -> T:
    """The answer in ``response``, or the refusal in it, raised."""
    if content_type_of(response) == PROBLEM_CONTENT_TYPE:
        raise refusal_in(response)
    if response.status != 200:
        raise UnexpectedAnswerError(f"status {response.status} without a problem document")
    return decode_answer(response, kind)
