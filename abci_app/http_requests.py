"""The part of the public API that is about devices: clients' requests, and devices' exchanges.

Rules kept here:

* What is not documented in ``edgistry.routes`` is refused; a node holds an answer back for at most
  ``MAX_WAIT_S``.
* A request that was taken is never answered like one that was not, whatever goes wrong while its
  end is waited for.

Not handled here: authority and queues (whoever implements the two protocols), sockets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from edgistry.adapters.http import Handler, Request, Response, json_response
from edgistry.api import ENVELOPE_CONTENT_TYPE
from edgistry.codec import decode_json
from edgistry.envelope import decode_envelope
from edgistry.errors import InvalidValueError, MalformedError, Refused, UnknownRequestError
from edgistry.requests_api import (
    FETCH_KEY_HEADER,
    MAX_SUBMIT_BYTES,
    MAX_WAIT_S,
    KnownOutcome,
    RequestAnswer,
    SubmitBody,
    to_bytes,
)

from .admin_requests import parameters_of, seconds
from .asked import Asked, FetchHash
from .handle_opening import KeyWait, OpeningKeys, alias_in, service_of_request
from .mailbox_states import State

_ID_BYTES: Final = 16
_HASH_BYTES: Final = 32


class PublicRequests(Protocol):
    """Requests to services, wherever their devices are. ``RequestDesk`` is one."""

    async def submit(self, asked: Asked) -> tuple[RequestAnswer, bool]:
        """How the request is doing, and whether it is new."""

    async def fetch(
        self,
        request: bytes,
        fetch_key: bytes | FetchHash,
        *,
        wait_s: float = 0,
        known: str | None = None,
    ) -> RequestAnswer: ...

    async def acknowledge(self, request: bytes, fetch_key: bytes) -> RequestAnswer: ...

    async def cancel(self, request: bytes, fetch_key: bytes) -> RequestAnswer: ...


class PublicExchange(Protocol):
    """The devices' side. ``ExchangeDesk`` is one."""

    async def answer(self, data: bytes, *, wait_s: float = 0) -> bytes:
        """The reply to the exchange in ``data``, whatever these bytes are."""


def device_handlers(
    requests: PublicRequests, exchange: PublicExchange, keys: OpeningKeys
) -> Mapping[str, Handler]:
    """The operations on requests, by their names in ``edgistry.routes``.

    ``keys`` open the handles that requests name services by.
    """
    clients = _Clients(requests, keys)

    async def poll(request: Request) -> Response:
        reply = await exchange.answer(request.body, wait_s=_wait_s(request, "wait"))
        return Response(headers={"Content-Type": ENVELOPE_CONTENT_TYPE}, body=reply)

    return {
        "exchange": poll,
        "request_submit": clients.submit,
        "request_fetch": clients.fetch,
        "request_cancel": clients.cancel,
        "request_acknowledge": clients.acknowledge,
    }


class _Clients:
    """From requests to use cases."""

    def __init__(self, requests: PublicRequests, keys: OpeningKeys) -> None:
        self._requests = requests
        self._keys = keys
        self._arrivals = KeyWait(keys)

    async def submit(self, request: Request) -> Response:
        wait_s = _wait_s(request, "wait")
        body = decode_json(request.body, SubmitBody, limit=MAX_SUBMIT_BYTES)
        fetch_hash = to_bytes(body.fetch_hash, "fetch_hash")
        if len(fetch_hash) != _HASH_BYTES:
            raise InvalidValueError(f"fetch_hash: a SHA-256 hash has {_HASH_BYTES} bytes")
        envelope = to_bytes(body.envelope, "envelope")
        client = decode_envelope(envelope).client
        await self._arrivals.until_here(body.handle)
        asked = Asked(
            service=service_of_request(self._keys, body.handle, client),
            envelope=envelope,
            idempotency_key=to_bytes(body.idempotency_key, "idempotency_key"),
            fetch_hash=fetch_hash,
            priority=body.priority,
            not_before_us=body.not_before_us,
            max_age_s=body.max_age_s,
            alias=alias_in(body.handle),
            acknowledged=_known_in(body.acknowledged),
        )
        answer, is_new = await self._requests.submit(asked)
        if wait_s and not answer.final:
            with contextlib.suppress(Refused):
                answer = await self._requests.fetch(
                    to_bytes(answer.id, "id"), FetchHash(fetch_hash), wait_s=wait_s
                )
        return json_response(answer, status=202 if is_new else 200)

    async def fetch(self, request: Request) -> Response:
        wait_s = _wait_s(request, "wait", "known")
        known = request.query.get("known")
        if known is not None and known not in State.__members__:
            raise InvalidValueError(f"known: {known[:40]!r} is no state of a request")
        where = _seen(request)
        return json_response(await self._requests.fetch(*where, wait_s=wait_s, known=known))

    async def acknowledge(self, request: Request) -> Response:
        parameters_of(request)
        return json_response(await self._requests.acknowledge(*_seen(request)))

    async def cancel(self, request: Request) -> Response:
        parameters_of(request)
        return json_response(await self._requests.cancel(*_seen(request)))


def _wait_s(request: Request, *known: str) -> float:
    return seconds(parameters_of(request, *known), "wait", default=0.0, high=MAX_WAIT_S)


def _known_in(given: Sequence[KnownOutcome]) -> tuple[tuple[bytes, bytes], ...]:
    """Ids and fetch keys; what is neither names no outcome that is here, and is skipped."""
    found = []
    for each in given:
        with contextlib.suppress(MalformedError):
            found.append((to_bytes(each.id, "id"), to_bytes(each.fetch_key, "fetch_key")))
    return tuple(found)


def _seen(request: Request) -> tuple[bytes, bytes]:
    """Id and fetch key; what is neither is answered like an unknown request."""
    try:
        number = to_bytes(request.match["id"], "id")
        key = to_bytes(request.headers.get(FETCH_KEY_HEADER, ""), FETCH_KEY_HEADER)
    except MalformedError:
        number = key = b""
    if len(number) != _ID_BYTES or not key:
        raise UnknownRequestError("there is no request with this id and fetch key")
    return number, key
