"""Asking for grants at a node that answers with something else."""

from __future__ import annotations

from typing import Any, cast

import pytest

from edgistry.adapters.crypto import seal
from edgistry.adapters.grant_client import ClientKeys, request_grant
from edgistry.adapters.http import HttpClient, Response
from edgistry.capability_chain import Entry
from edgistry.caveats import Caveat, CaveatType
from edgistry.codec import decode_json, encode_json
from edgistry.errors import BadReplyError
from edgistry.grants_api import (
    GRANT_PURPOSE,
    Grant,
    GrantAnswer,
    GrantBody,
    Granted,
    encode_grant,
    grant_service,
    seal_context,
)
from edgistry.issuer import Issuer
from edgistry.requests_api import to_bytes, to_text
from edgistry.rights import Right

KEYS = ClientKeys.generate()
HANDLE = to_text(b"s" * 73)
SERVICE, OTHER = grant_service(HANDLE), b"o" * 16
ISSUER = Issuer.from_secret(b"d" * 32, epoch=1)


class Answering:
    """A node whose grants are on ``service``, for ``client``."""

    def __init__(self, *, service: bytes = SERVICE, client: bytes = KEYS.id) -> None:
        capability = ISSUER.mint(
            serial=1,
            entries=(Entry(Right.PUT | Right.INVOKE, "valve/read"),),
            caveats=(Caveat(CaveatType.CLIENT, client),),
        )
        granted = Granted(action="read", is_call=True, capability=capability.danger_bytes())
        self.grant = Grant(
            version=1, service=service, type="valve", not_after_us=1, granted=(granted,)
        )

    async def request(self, _method: str, _path: str, *, body: bytes, **_more: Any) -> Response:
        asked = decode_json(body, GrantBody, limit=len(body))
        sealed = seal(
            to_bytes(asked.sealing_key, "key"),
            encode_grant(self.grant),
            purpose=GRANT_PURPOSE,
            context=seal_context(KEYS.tag, SERVICE),
        )
        return Response(
            headers={"Content-Type": "application/json"},
            body=encode_json(GrantAnswer(sealed=to_text(sealed))),
        )


async def asked(node: Answering) -> Grant:
    return await request_grant(cast(HttpClient, node), KEYS, HANDLE)


async def test_grant_for_this_client_and_service_is_taken() -> None:
    node = Answering()
    assert await asked(node) == node.grant


@pytest.mark.parametrize("node", [Answering(service=OTHER), Answering(client=b"somebody")])
async def test_grant_on_another_service_or_for_another_client_is_not_taken(
    node: Answering,
) -> None:
    with pytest.raises(BadReplyError):
        await asked(node)
