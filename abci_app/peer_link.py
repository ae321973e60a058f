"""The link to one other node, as the asking side: TLS with both nodes' registry keys.

Rules kept here:

* Nothing is sent to whoever does not prove to be that node.
* What the other node refuses comes back as the refusal that it is. ``is_away`` tells the refusals
  that say nothing about the request: nobody answered, or not as it should.
* After such a failure the node counts as away for ``AWAY_S``: clients do not wait for it.

Not handled here: what is asked when (``entry_desk``, ``entry_courier``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from edgistry.adapters.http import HttpClient, Response
from edgistry.adapters.problems import decode_answer, refusal_of
from edgistry.adapters.tls import client_context
from edgistry.anycast_api import AnyGrantAnswer
from edgistry.api import PROBLEM_CONTENT_TYPE, Problem
from edgistry.codec import Answer, Wire, encode
from edgistry.envelope import MAX_U64
from edgistry.errors import (
    CaveatError,
    NodeProblemError,
    PermissionRefusedError,
    Refused,
    ResynchroniseError,
    UnavailableError,
    UnknownRouteError,
    every_refusal,
)
from edgistry.grants_api import GrantAnswer
from edgistry.requests_api import RequestAnswer
from edgistry.signed_request import SignedRequest
from edgistry.transactions import NodeId

from .peer_api import (
    ACKNOWLEDGE_PATH,
    ANY_GRANT_PATH,
    CANCEL_PATH,
    GRANT_PATH,
    LOOK_PATH,
    MAX_OUTCOME_BYTES,
    OUTCOMES_PATH,
    PASS_PATH,
    EndedAnswer,
    Look,
    PassedAnswer,
    PassedAnyGrant,
    PassedRequest,
    Reference,
    WhichEnded,
)
from .schema import Member

T = TypeVar("T", bound=Answer)

AWAY_S: Final = 2.0
MAX_WAITING: Final = 24
"""Answers of one node that may be waited for at a time: each takes a connection."""
ASK_TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 2 * MAX_OUTCOME_BYTES + 256 * 1024

_RESYNCHRONISE: Final = {
    kind.code: kind for kind in every_refusal() if issubclass(kind, ResynchroniseError)
}


def is_away(error: Refused) -> bool:
    """Whether ``error`` says nothing about the request: it can be sent again as it is."""
    # Older and newer nodes, and those that do not know this one as a member, are as good as away.
    silent = (NodeProblemError, PermissionRefusedError, UnknownRouteError)
    return error.http_status >= 500 or isinstance(error, silent)


class Way(Protocol):
    """The way to one node, and to no other. ``way_to`` gives one."""

    async def request(
        self, method: str, path: str, *, body: bytes, timeout_s: float
    ) -> Response: ...

    async def close(self) -> None: ...


def way_to(url: str, *, public_key: bytes, seed: bytes) -> HttpClient:
    """To the node with registry key ``public_key`` at ``url``, from the node of ``seed``.

    Raises:
        InvalidValueError: no https URL, or a key of the wrong length.
    """
    return HttpClient(
        url, tls=client_context(public_key, seed=seed), response_limit=MAX_ANSWER_BYTES
    )


class MemberWay:
    """To ``node`` at ``url`` while it is one of the ``members``, from the node of ``seed``."""

    def __init__(
        self,
        node: NodeId,
        url: str,
        *,
        seed: bytes,
        members: Callable[[], Mapping[NodeId, Member]],
    ) -> None:
        self._node = node
        self._url = url
        self._seed = seed
        self._members = members
        self._way: HttpClient | None = None

    async def request(self, method: str, path: str, *, body: bytes, timeout_s: float) -> Response:
        member = self._members().get(self._node)
        if member is None:
            await self.close()
            raise UnavailableError(f"node {self._node.hex()} is no member of the chain")
        if self._way is None:
            # Whichever key a member with this id has, it is always the same one.
            self._way = way_to(self._url, public_key=member.public_key, seed=self._seed)
        return await self._way.request(method, path, body=body, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close all connections. Closing twice is safe."""
        way, self._way = self._way, None
        if way is not None:
            await way.close()


class PeerLink:
    """The link to ``node`` over ``way``. Use it from one event loop, and ``close`` it."""

    def __init__(
        self, node: NodeId, way: Way, *, steady_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.node = node
        self._way = way
        self._steady_s = steady_s
        self._away_until_s = 0.0
        self._waiting = 0

    @property
    def seems_up(self) -> bool:
        """Whether it is worth while to let a client wait for an answer."""
        return self._steady_s() >= self._away_until_s

    async def pass_on(
        self, request: PassedRequest, *, timeout_s: float = ASK_TIMEOUT_S
    ) -> tuple[RequestAnswer, bool]:
        """Let the node queue ``request``; how it is doing, and whether it is new there.

        Raises:
            Refused: it is refused there, or ``is_away``: then it may be queued all the same.
        """
        answer = await self._ask(PASS_PATH, request, PassedAnswer, timeout_s=timeout_s)
        return answer.request, answer.is_new

    async def look(
        self, request: Reference, *, wait_s: float = 0.0, known: str | None = None
    ) -> RequestAnswer:
        """How a request is doing, as ``RequestDesk.fetch``; at once if too many wait already.

        Raises:
            Refused: UnknownRequestError, or ``is_away``.
        """
        if self._waiting >= MAX_WAITING:
            wait_s = 0.0
        look = Look(request=request, wait_ms=round(wait_s * 1000), known=known or "")
        waits = wait_s > 0
        self._waiting += waits
        try:
            timeout_s = wait_s + ASK_TIMEOUT_S
            return await self._ask(LOOK_PATH, look, RequestAnswer, timeout_s=timeout_s)
        finally:
            self._waiting -= waits

    async def acknowledge(self, request: Reference) -> RequestAnswer:
        """The client has the outcome. Raises as ``look``, and NotEndedError."""
        return await self._ask(ACKNOWLEDGE_PATH, request, RequestAnswer)

    async def cancel(self, request: Reference) -> RequestAnswer:
        """The client takes it back. Raises as ``look``."""
        return await self._ask(CANCEL_PATH, request, RequestAnswer)

    async def which_ended(self, requests: Sequence[Reference]) -> EndedAnswer:
        """Those of up to 256 requests that have ended. Raises as ``look``."""
        return await self._ask(OUTCOMES_PATH, WhichEnded(requests=tuple(requests)), EndedAnswer)

    async def grant(self, request: SignedRequest) -> GrantAnswer:
        """What the node grants to the client who signed ``request``.

        Raises:
            Refused: it does not, or ``is_away``.
        """
        return await self._ask(GRANT_PATH, request, GrantAnswer)

    async def any_grant(self, passed: PassedAnyGrant) -> AnyGrantAnswer:
        """What the node grants on the service that was chosen. Raises as ``grant``."""
        return await self._ask(ANY_GRANT_PATH, passed, AnyGrantAnswer)

    async def close(self) -> None:
        """Close all connections. Closing twice is safe."""
        await self._way.close()

    async def _ask(
        self, path: str, value: Wire, kind: type[T], *, timeout_s: float = ASK_TIMEOUT_S
    ) -> T:
        try:
            body = encode(value)
            response = await self._way.request("POST", path, body=body, timeout_s=timeout_s)
            answer = _read(response, kind)
        except Refused as error:
            if is_away(error):
                self._away_until_s = self._steady_s() + AWAY_S
            raise
        self._away_until_s = 0.0
        return answer


def _read(response: Response, kind: type[T]) -> T:
    if response.headers.get("Content-Type", "").startswith(PROBLEM_CONTENT_TYPE):
        raise _refusal_in(response)
    return decode_answer(response, kind)


def _refusal_in(response: Response) -> Refused:
    """The refusal in a problem document, of its own class also where that says more."""
    problem = decode_answer(response, Problem)
    if problem.code == CaveatError.code:
        # Which one it is, the detail says; the document does not name it.
        return CaveatError(problem.detail, caveat="")
    if problem.code in _RESYNCHRONISE:
        # Problem documents do not tell the numbers, so neither does who passes them on.
        kind = _RESYNCHRONISE[problem.code]
        return kind(problem.detail, sequence_epoch=0, sequence_floor=MAX_U64)
    return refusal_of(problem, retry_after=response.headers.get("Retry-After"))
