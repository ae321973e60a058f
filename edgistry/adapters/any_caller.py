"""Calls of any service of a type in an area: chosen by the node, answered once (privacy.md).

Rules kept here:

* What a node answers counts only if it is sealed for this client and the handle that came with it.
* There is one answer, and one deadline for all that is tried. Whatever nodes do, the caller hears
  within ``OVERTIME_S`` after the time that it waits.
* Waiting, tickets and news are as for any call (``service_caller``).

Not handled here: who is chosen, when a call goes to another (``any_search``), keeping tickets.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Unpack

from ..anycast_api import (
    ANY_GRANT_PATH,
    ANY_GRANT_PURPOSE,
    AnyGrantAnswer,
    AnyGrantBody,
    alias_name,
    open_any_grant,
)
from ..api import JSON_CONTENT_TYPE, PROBLEM_CONTENT_TYPE
from ..calls import CallResult
from ..capability import Capability
from ..codec import encode_json
from ..errors import (
    BadReplyError,
    UnexpectedAnswerError,
)
from ..grants_api import seal_context
from ..requests_api import to_bytes, to_text
from .acknowledging import Acknowledger
from .any_search import ASK_S, MAX_TRIED, Attempt, Chosen, Search
from .clock import wall_us
from .crypto import open_sealed, sealing_public_key_of
from .grant_client import ClientKeys
from .http import HttpClient
from .problems import content_type_of, decode_answer, refusal_in
from .service_caller import (
    DEFAULT_TTL_S,
    DEFAULT_WAIT_S,
    CallOptions,
    Keep,
    News,
    ServiceCaller,
)

OVERTIME_S: Final = 15.0
"""How long a node that does not answer can make a caller wait beyond the time that it chose."""
_MIN_GRANT_S: Final = 60


async def request_any_grant(
    http: HttpClient,
    keys: ClientKeys,
    action: str,
    *,
    type: str,
    ttl_s: int,
    avoid: Sequence[str] = (),
    timeout_s: float = ASK_S,
    **area: Any,
) -> Chosen:
    """Any service of ``type`` in ``area`` (as for discover) that this client may call.

    Raises:
        CannotReachError, TimedOutError: the node does not answer.
        NoMemberError, MembersBusyError, GrantRefusedError, Refused: why there is none.
        BadReplyError, SealError: what came back is not for this client.
    """
    body = encode_json(
        AnyGrantBody(
            type=type,
            sealing_key=to_text(sealing_public_key_of(keys.sealing)),
            actions=(action,),
            ttl_s=ttl_s,
            avoid=tuple(avoid),
            **area,
        )
    )
    headers = {
        "Content-Type": JSON_CONTENT_TYPE,
        **keys.signed_headers("POST", ANY_GRANT_PATH, body),
    }
    response = await http.request(
        "POST", ANY_GRANT_PATH, body=body, headers=headers, timeout_s=timeout_s
    )
    if content_type_of(response) == PROBLEM_CONTENT_TYPE:
        raise refusal_in(response)
    if response.status != 200:
        raise UnexpectedAnswerError(f"status {response.status} without a problem document")
    answer = decode_answer(response, AnyGrantAnswer)
    data = open_sealed(
        keys.sealing,
        to_bytes(answer.sealed, "sealed"),
        purpose=ANY_GRANT_PURPOSE,
        context=seal_context(keys.tag, alias_name(answer.handle)),
    )
    grant, reads = open_any_grant(data, handle=answer.handle, client_id=keys.id)
    for each in grant.granted:
        if each.is_call and each.action == action and grant.type == type:
            return Chosen(
                handle=answer.handle,
                capability=Capability.from_bytes(each.capability),
                is_read=action in reads,
            )
    raise BadReplyError("a grant that does not allow what was asked for")


class AnyCaller:
    """Calls any service, as the client with these ``keys``."""

    def __init__(
        self,
        http: HttpClient,
        keys: ClientKeys,
        *,
        clock_us: Callable[[], int] = wall_us,
        acknowledger: Acknowledger | None = None,
    ) -> None:
        self._http = http
        self._acknowledger = acknowledger or Acknowledger(http)
        self._keys = keys
        self._clock_us = clock_us

    async def call(
        self,
        action: str,
        data: bytes = b"",
        *,
        type: str,
        area: dict[str, Any],
        wait_s: float = DEFAULT_WAIT_S,
        patience_s: float | None = None,
        keep: Keep = lambda ticket: None,
        news: News | None = None,
        acknowledge: bool = True,
        **how: Unpack[CallOptions],
    ) -> CallResult:
        """Have a service of ``type`` in ``area`` carry out ``action``; its answer.

        One that has not answered within ``patience_s`` (by default a third of ``wait_s``) is given
        up for another, if it may be. The other arguments are those of ``ServiceCaller.call``.

        Raises:
            NoMemberError, MembersBusyError, GrantRefusedError: nobody there can be called.
            CallPendingError: no outcome within ``wait_s`` seconds; the last call goes on.
            CannotReachError, TimedOutError: the node does not answer.
            CallEndedError, Refused: it was not done, for this reason.
        """
        began_s = time.monotonic()
        ttl_s = how.get("ttl_s", DEFAULT_TTL_S)

        async def choose(tried: Sequence[str], timeout_s: float) -> Chosen:
            return await request_any_grant(
                self._http,
                self._keys,
                action,
                type=type,
                ttl_s=max(_MIN_GRANT_S, math.ceil(ttl_s)),
                avoid=tried,
                timeout_s=timeout_s,
                **area,
            )

        async def make(
            chosen: Chosen, attempt: Attempt, wait_s: float, left_s: float
        ) -> CallResult:
            caller = ServiceCaller(
                self._http,
                chosen.capability,
                client=self._keys.id,
                clock_us=self._clock_us,
                acknowledger=self._acknowledger,
            )
            how["ttl_s"] = max(0.001, ttl_s - (time.monotonic() - began_s))
            return await caller.call(
                chosen.handle,
                action,
                data,
                wait_s=wait_s,
                submit_s=left_s,
                keep=attempt.keep,
                news=attempt.news,
                acknowledge=False,
                **how,
            )

        search = Search(
            choose,
            make,
            begin=lambda: Attempt(self._http, keep, news, self._acknowledger),
            until_s=began_s + wait_s,
            patience_s=wait_s / MAX_TRIED if patience_s is None else patience_s,
            acknowledge=acknowledge,
        )
        try:
            async with asyncio.timeout(max(wait_s, 0.0) + OVERTIME_S):
                return await search.result()
        except TimeoutError:
            raise search.no_word(f"{self._http.target} does not answer") from None
