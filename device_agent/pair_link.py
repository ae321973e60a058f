"""Asking a node over its link: to be paired, to leave, and saying where the device is.

Rules kept here:

* Nothing is said to anybody but the node whose key the code, or the pairing, names.
* All is safe to repeat: the node answers the same again.

Not handled here: what is offered, and what is kept of the answer (``pairing``).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from edgistry.adapters.http import HttpClient, check_node_url
from edgistry.adapters.tls import client_context
from edgistry.adapters.woof_caller import reply_in
from edgistry.codec import encode
from edgistry.envelope import Envelope, Operation, Reply, Status
from edgistry.errors import NotPairedError, UnavailableError
from edgistry.pairing import (
    FORGET,
    MAX_ANSWER_BYTES,
    MOVE_PATH,
    PAIR_PATH,
    UNPAIR,
    UNPAIR_PATH,
    Moved,
    PairingAnswer,
    PairingCode,
    PairingOffer,
    PairingRequest,
    check_offer,
    decode_answer,
    device_object,
)
from edgistry.sequence import Sequencer
from edgistry.woof_replies import check_done

from .pairing import Pairing

MAX_TRIES: Final = 4
DEADLINE_US: Final = 60_000_000
FAR_AHEAD_US: Final = 1000 * 365 * 86_400 * 1_000_000
"""Ahead of any clock: the node answers a request of that time with what time it is."""


def link_url(url: str, port: int) -> str:
    """The link of the node whose API is at ``url``.

    Raises:
        InvalidValueError: ``url`` is no node's address.
    """
    host = urlsplit(check_node_url(url)).hostname or ""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


async def ask_to_pair(
    offer: PairingOffer, *, url: str, code: PairingCode, timeout_s: float
) -> PairingAnswer:
    """The node's answer to ``offer``.

    Raises:
        CannotReachError, TimedOutError: the node does not answer; try again with the same code.
        WrongNodeKeyError: whoever answers is not the node that made the code.
        Refused: why the node does not pair.
    """
    body = encode(PairingRequest(secret=code.secret, offer=check_offer(offer)))
    async with _client(link_url(url, code.port), code.node_key, timeout_s) as link:
        return decode_answer(reply_in(await link.request("POST", PAIR_PATH, body=body)))


async def ask_to_leave(
    pairing: Pairing, *, now_us: int, timeout_s: float, forget: bool = False
) -> None:
    """Tell the node of ``pairing`` that the device leaves it; afterwards it knows.

    With ``forget`` it is to destroy all that it knows of the device. ``now_us`` is the device's
    time, which may be wrong: the node says what it is.

    Raises:
        CannotReachError, TimedOutError, WrongNodeKeyError: it could not be told.
        NotPairedError: it did not know the device.
    """
    payload = FORGET if forget else UNPAIR
    await _put(pairing, UNPAIR_PATH, payload, now_us=now_us, timeout_s=timeout_s)


async def tell_where(pairing: Pairing, moved: Moved, *, now_us: int, timeout_s: float) -> None:
    """Tell the node of ``pairing`` where the device is now; raises as ``ask_to_leave``."""
    await _put(pairing, MOVE_PATH, encode(moved), now_us=now_us, timeout_s=timeout_s)


async def _put(
    pairing: Pairing, path: str, payload: bytes, *, now_us: int, timeout_s: float
) -> None:
    """Put ``payload`` into the device's own object at its node, over the link."""
    answer = pairing.answer
    sequencer = Sequencer()
    url = link_url(pairing.url, answer.link_port)
    async with _client(url, answer.node_key, timeout_s) as link:
        for _ in range(MAX_TRIES):
            time_us = sequencer.next(now_us)
            request = pairing.capability.bind(
                Operation.PUT,
                device_object(answer.device),
                payload,
                client=bytes(8),
                sequence=time_us,
                sequence_epoch=sequencer.epoch,
                deadline=time_us + DEADLINE_US,
            )
            data = reply_in(await link.request("POST", path, body=request.encoded))
            reply = request.open_reply(data)
            if reply.status == Status.EXPIRED:
                sequencer.offset_us = FAR_AHEAD_US
            elif not sequencer.follow(reply, now_us=now_us):
                _check(request.envelope, reply)
                return
    raise UnavailableError("the node and the device do not agree about the time")


def _check(request: Envelope, reply: Reply) -> None:
    if reply.status in (Status.REVOKED, Status.REJECTED):
        raise NotPairedError("the node did not know the device any more")
    check_done(request, reply)


def _client(url: str, node_key: bytes, timeout_s: float) -> HttpClient:
    return HttpClient(
        url,
        timeout_s=timeout_s,
        response_limit=8 * MAX_ANSWER_BYTES,
        tls=client_context(node_key),
    )
