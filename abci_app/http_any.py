"""The part of the public API that is about any service of a type in an area.

Rules kept here:

* What a request is about that follows a choice is found out on its way: the choice counts until
  the request has ended.

Not handled here: choosing (whoever implements ``PublicAny``), sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edgistry.adapters.http import Handler, Request, Response, json_response
from edgistry.anycast_api import AnyGrantAnswer
from edgistry.requests_api import RequestAnswer, to_bytes
from edgistry.signed_request import SignedRequest

from .admin_requests import parameters_of
from .asked import Asked, FetchHash
from .choices import Choices
from .http_requests import PublicRequests
from .http_signed import signed_request


class PublicAny(Protocol):
    """Grants on any service. ``AnycastDesk`` is one."""

    async def any_grant(self, request: SignedRequest) -> AnyGrantAnswer:
        """An alias of a service, and capabilities sealed to the client who signed ``request``."""


def any_handlers(choosing: PublicAny) -> Mapping[str, Handler]:
    """The operations on any service, by their names in ``edgistry.routes``."""

    async def any_grant(request: Request) -> Response:
        parameters_of(request)
        return json_response(await choosing.any_grant(signed_request(request)))

    return {"any_grant": any_grant}


class ChosenRequests:
    """Implements ``PublicRequests``: ``requests``, and tells ``choices`` what became of them."""

    def __init__(self, requests: PublicRequests, choices: Choices) -> None:
        self._requests = requests
        self._choices = choices

    async def submit(self, asked: Asked) -> tuple[RequestAnswer, bool]:
        """As ``requests`` does."""
        answer, is_new = await self._requests.submit(asked)
        if asked.alias:
            number = to_bytes(answer.id, "id")
            self._choices.submitted(asked.alias, number, until_us=answer.deadline_us)
        return self._seen(answer), is_new

    async def fetch(
        self,
        request: bytes,
        fetch_key: bytes | FetchHash,
        *,
        wait_s: float = 0,
        known: str | None = None,
    ) -> RequestAnswer:
        """As ``requests`` does."""
        return self._seen(
            await self._requests.fetch(request, fetch_key, wait_s=wait_s, known=known)
        )

    async def acknowledge(self, request: bytes, fetch_key: bytes) -> RequestAnswer:
        """As ``requests`` does."""
        return self._seen(await self._requests.acknowledge(request, fetch_key))

    async def cancel(self, request: bytes, fetch_key: bytes) -> RequestAnswer:
        """As ``requests`` does."""
        return self._seen(await self._requests.cancel(request, fetch_key))

    def _seen(self, answer: RequestAnswer) -> RequestAnswer:
        if answer.final:
            self._choices.ended(to_bytes(answer.id, "id"))
        return answer
