"""What other nodes ask of this one over the link: requests and grants for its devices' services.

Rules kept here:

* Only a node that has proved over TLS to be a member is heard, while it is one.
* It is answered about a request as the request's client would be: it shows the hash of the fetch
  key, which it has from the request itself. It gets nothing that the client would not get.
* All checks of a client's request are made here, whatever the entry node says.

Not handled here: the use cases (``request_desk``, ``grants``), sockets (``link_server``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edgistry.adapters.http import Handler, Request, Response, Route, json_response
from edgistry.codec import Wire, decode
from edgistry.errors import (
    InvalidValueError,
    MalformedError,
    PermissionRefusedError,
    UnknownRequestError,
)
from edgistry.requests_api import RequestAnswer, to_text
from edgistry.signed_request import SignedRequest
from edgistry.transactions import NodeId

from .any_grants import AnyGrants
from .asked import Asked, FetchHash
from .http_grants import PublicGrants
from .mailbox_states import State
from .peer_api import (
    ACKNOWLEDGE_PATH,
    ANY_GRANT_PATH,
    CANCEL_PATH,
    GRANT_PATH,
    LOOK_PATH,
    MAX_OUTCOME_BYTES,
    MAX_PEER_BODY_BYTES,
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
from .request_desk import RequestDesk

T = TypeVar("T", bound=Wire)


def peer_routes(
    requests: RequestDesk,
    grants: PublicGrants,
    any_grants: AnyGrants,
    *,
    is_member: Callable[[NodeId], bool] = lambda _: True,
) -> list[Route]:
    """The operations between nodes; for the server of the link.

    ``is_member`` says of a node that has proved who it is whether it is a member now.
    """
    peers = _Peers(requests, grants, any_grants)

    def heard(handler: Handler) -> Handler:
        async def hear(request: Request) -> Response:
            # A connection may be older than the removal of who made it.
            if request.peer_node is not None and not is_member(request.peer_node):
                raise PermissionRefusedError("this node is no member of the chain any more")
            return await handler(request)

        return hear

    return [
        Route(method="POST", template=path, handler=heard(handler))
        for path, handler in (
            (PASS_PATH, peers.take),
            (LOOK_PATH, peers.look),
            (ACKNOWLEDGE_PATH, peers.acknowledge),
            (CANCEL_PATH, peers.cancel),
            (OUTCOMES_PATH, peers.which_ended),
            (GRANT_PATH, peers.grant),
            (ANY_GRANT_PATH, peers.any_grant),
        )
    ]


class _Peers:
    """From requests of nodes to use cases."""

    def __init__(self, requests: RequestDesk, grants: PublicGrants, any_grants: AnyGrants) -> None:
        self._requests = requests
        self._grants = grants
        self._any_grants = any_grants

    async def take(self, request: Request) -> Response:
        passed = _read(request, PassedRequest)
        asked = Asked(
            service=passed.service,
            envelope=passed.envelope,
            idempotency_key=passed.idempotency_key,
            fetch_hash=passed.fetch_hash,
            priority=passed.priority,
            not_before_us=passed.not_before_us,
            max_age_s=passed.max_age_s,
            recalled=passed.recalled,
        )
        answer, is_new = await self._requests.submit(asked)
        return json_response(PassedAnswer(request=answer, is_new=is_new))

    async def look(self, request: Request) -> Response:
        look = _read(request, Look)
        if look.known and look.known not in State.__members__:
            raise InvalidValueError("known: no state of a request")
        answer = await self._requests.fetch(
            *_seen(look.request), wait_s=look.wait_ms / 1000, known=look.known or None
        )
        return json_response(answer)

    async def acknowledge(self, request: Request) -> Response:
        seen = _seen(_read(request, Reference))
        return json_response(await self._requests.acknowledge(*seen))

    async def cancel(self, request: Request) -> Response:
        seen = _seen(_read(request, Reference))
        return json_response(await self._requests.cancel(*seen))

    async def which_ended(self, request: Request) -> Response:
        ended: list[RequestAnswer] = []
        unknown: list[str] = []
        size = 0
        for reference in _read(request, WhichEnded).requests:
            try:
                answer = await self._requests.fetch(*_seen(reference))
            except UnknownRequestError:
                unknown.append(to_text(reference.id))
                continue
            if answer.final:
                ended.append(answer)
                size += len(answer.reply or "")
            if size >= MAX_OUTCOME_BYTES:
                break
        more = size >= MAX_OUTCOME_BYTES
        return json_response(EndedAnswer(ended=tuple(ended), unknown=tuple(unknown), more=more))

    async def grant(self, request: Request) -> Response:
        return json_response(await self._grants.grant(_read(request, SignedRequest)))

    async def any_grant(self, request: Request) -> Response:
        passed = _read(request, PassedAnyGrant)
        return json_response(await self._any_grants.any_grant(passed))


def _read(request: Request, kind: type[T]) -> T:
    if request.peer_node is None:
        raise PermissionRefusedError("only other nodes of the chain are heard here")
    if request.query:
        raise MalformedError("this path takes no query parameters")
    return decode(request.body, kind, limit=MAX_PEER_BODY_BYTES)


def _seen(reference: Reference) -> tuple[bytes, FetchHash]:
    return reference.id, FetchHash(digest=reference.fetch_hash)
