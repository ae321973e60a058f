"""Calls of services, as a client makes and keeps them (woofs_and_queues.md, *Mailbox*).

Rules kept here:

* Pure. A call is a Put with a handler on the WooF ``TYPE/ACTION`` of the device behind a handle;
  the handler is the one that the capability allows.
* A ticket is all that is needed to fetch the answer later, from another process too. It is made
  before anything is sent. It holds authority: it is kept as secret as a capability.
* Who answered is told: the device, or its home node for it, and how old the answer is. The age
  that will do travels beside the envelope, where a node on the way could change it: so what is
  older, or of a node where only the device may answer, is not believed.

Not handled here: sending (``adapters/service_caller.py``), keeping tickets (the command line does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from .capability import BoundRequest, Capability, request_key_of
from .capability_chain import Chain
from .codec import Meta, Wire, decode, encode
from .envelope import BY_NODE, Flag, Operation, Reply, Status, decode_envelope
from .errors import BadReplyError, CallEndedError, InvalidValueError, NoRightError
from .messages import MAX_IDEMPOTENCY_KEY_BYTES, MAX_QUEUED_ENVELOPE_BYTES
from .requests_api import KnownOutcome, RequestAnswer, to_bytes, to_text
from .rights import Right, covers
from .woof_replies import check_done, status_of

FETCH_KEY_BYTES: Final = 32
MAX_TICKET_BYTES: Final = MAX_QUEUED_ENVELOPE_BYTES + 16 * 1024
_CALL: Final = Right.PUT | Right.INVOKE


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTarget:
    """What a call is addressed to, on the device."""

    woof: str
    """``TYPE/ACTION``."""
    handler: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """The proven answer to a call."""

    payload: bytes
    """What the handler returned."""
    number: int
    """Of the request in the device's WooF; 0 where the capability hides it."""
    by_node: bool
    """Whether the home node answered for the device."""
    age_s: float
    """How old the answer was when the node gave it, at most; 0 from the device."""


class Ticket(Wire):
    """A call under way. Secret: it holds capabilities and the key to the answer."""

    version: Annotated[int, Meta(ge=1, le=1)]
    node: Annotated[str, Meta(max_length=2048)]
    """The node it was given to; "" for one that is not tied to a node."""
    handle: Annotated[str, Meta(max_length=256)]
    action: Annotated[str, Meta(max_length=32)]
    idempotency_key: Annotated[bytes, Meta(min_length=1, max_length=MAX_IDEMPOTENCY_KEY_BYTES)]
    fetch_key: Annotated[bytes, Meta(min_length=FETCH_KEY_BYTES, max_length=FETCH_KEY_BYTES)]
    priority: int
    not_before_us: int
    max_age_s: int
    envelope: Annotated[bytes, Meta(max_length=MAX_QUEUED_ENVELOPE_BYTES)]
    capabilities: Annotated[
        tuple[Annotated[bytes, Meta(max_length=4096)], ...], Meta(min_length=1, max_length=4)
    ]
    """In the order of the envelope, in the delegable form."""

    def __repr__(self) -> str:
        return f"<Ticket {self.action} of {self.handle}>"

    @property
    def request(self) -> BoundRequest:
        """The request as it was bound: its bytes are the same, and its replies can be opened.

        Raises:
            MalformedError: the ticket was changed.
        """
        holders = [Capability.from_bytes(each) for each in self.capabilities]
        return BoundRequest.sealed(decode_envelope(self.envelope), request_key_of(holders))


def encode_ticket(ticket: Ticket) -> bytes:
    """The bytes to keep."""
    return encode(ticket)


def decode_ticket(data: bytes) -> Ticket:
    """The ticket in ``data``.

    Raises:
        MalformedError, TooLargeError: it is none.
    """
    return decode(data, Ticket, limit=MAX_TICKET_BYTES)


def call_target(capability: Capability, action: str) -> CallTarget:
    """Where a call of ``action`` goes under ``capability``.

    Raises:
        NoRightError: it allows no call of that action.
        InvalidValueError: it allows several, or several handlers.
    """
    woofs = {
        target
        for entry in capability.entries
        if entry.rights & _CALL == _CALL and (target := _woof(entry.object, action)) is not None
    }
    if not woofs:
        raise NoRightError(f"the capability allows no call of {action!r}")
    if len(woofs) > 1:
        raise InvalidValueError(
            f"the capability allows {action!r} of several types; derive one for the one you mean"
        )
    handlers = capability.chain.rare.handlers
    if handlers is not None and len(handlers) != 1:
        raise InvalidValueError("the capability allows several handlers; derive one with one")
    handler = next(iter(handlers)).decode() if handlers else action
    return CallTarget(woof=woofs.pop(), handler=handler)


def _woof(granted: str, action: str) -> str | None:
    """The WooF of ``action`` that is at or below ``granted``; one with a type at least."""
    namespace, _, woof = granted.partition("/")
    if not namespace or woof not in {"", action}:
        return None
    target = f"{namespace}/{action}"
    return target if covers(granted, target) else None


def bind_call(
    capability: Capability,
    target: CallTarget,
    data: bytes,
    *,
    client: bytes,
    sequence: int,
    sequence_epoch: int,
    deadline_us: int,
    beside: Sequence[Capability] = (),
    device_only: bool = False,
) -> BoundRequest:
    """The request for one call, to be executed until ``deadline_us`` (µs since 1970) or never."""
    return capability.bind(
        Operation.PUT,
        target.woof,
        data,
        handler=target.handler,
        client=client,
        sequence=sequence,
        sequence_epoch=sequence_epoch,
        deadline=deadline_us,
        flags=Flag.DEVICE_ONLY if device_only else 0,
        beside=beside,
    )


def call_result(request: BoundRequest, answer: RequestAnswer, *, max_age_s: int = 0) -> CallResult:
    """What ``answer``, the end of ``request``, proves; ``max_age_s`` is the age that will do.

    Raises:
        ResynchroniseError: not executed; its number was out of step.
        CallEndedError: it ended without an answer of the handler.
        Refused: it was not done, for the reason that the reply proves.
        BadReplyError, UnprovenRefusalError: nobody who could answer it wrote that, or the home node
            answered for the device with something older than ``max_age_s``, or forbidden to it.
    """
    return proven_result(request, answer, reply_of(request, answer), max_age_s=max_age_s)


def proven_result(
    request: BoundRequest, answer: RequestAnswer, reply: Reply | None, *, max_age_s: int
) -> CallResult:
    """As ``call_result``, where ``reply`` is what ``reply_of`` has found in ``answer``."""
    if reply is None:
        what = f"the request is {answer.state}, its outcome gone"
        if answer.reason:  # it ended at an entry node, which has no key
            what = f"says the node, without proof: {answer.state}, {answer.reason}"
        raise CallEndedError(what, state=answer.state)
    status = status_of(reply)
    if status in _ENDS:
        reason = f": {answer.reason}" if answer.reason else ""
        what = _ENDS[Status(status)]
        if reply.status == Status.EXPIRED | BY_NODE:
            what = "the deadline of the call has passed"  # whether it ran, the reason says
        raise CallEndedError(f"{what}{reason}", state=answer.state)
    check_done(request.envelope, reply)
    by_node = bool(reply.status & BY_NODE)
    if by_node:
        _check_stand_in(request, reply, max_age_s)
    return CallResult(
        payload=reply.payload,
        number=0 if by_node else reply.result,
        by_node=by_node,
        age_s=_age_s(request, reply, max_age_s) if by_node else 0.0,
    )


def _age_s(request: BoundRequest, reply: Reply, max_age_s: int) -> float:
    """How old an answer is at most that a node gave. Under a veil replies do not say."""
    return float(max_age_s) if _is_veiled(request) else reply.result / 1000


def _is_veiled(request: BoundRequest) -> bool:
    return any(Chain.parse(each).rare.veil for each in request.envelope.capabilities)


def _check_stand_in(request: BoundRequest, reply: Reply, max_age_s: int) -> None:
    if request.envelope.flags & Flag.DEVICE_ONLY:
        raise BadReplyError("a node has answered what only the device itself may answer")
    if not max_age_s and _is_veiled(request):
        raise BadReplyError("a node has answered, and no answer from before will do")
    if reply.result > max_age_s * 1000:
        raise BadReplyError(
            f"the answer is {reply.result / 1000:g} s old, and at most {max_age_s} s will do"
        )


_ENDS: Final = {
    Status.EXPIRED: "the call was not carried out before its deadline",
    Status.HANDLER_FAILED: "the device's handler failed",
    Status.REJECTED: "the device did not take the call",
    Status.CANCELLED: "the call was cancelled",
    Status.DEAD: "the device was given the call several times and never answered",
}


def reply_of(request: BoundRequest, answer: RequestAnswer) -> Reply | None:
    """The proven reply in ``answer``; ``None``: it has none (yet).

    Raises:
        BadReplyError, UnprovenRefusalError: nobody who could answer it wrote that.
    """
    if answer.reply is None:
        return None
    return request.open_reply(to_bytes(answer.reply, "the reply"))


def known_outcome(ticket: Ticket, answer: RequestAnswer) -> KnownOutcome:
    """What tells the node that the outcome in ``answer`` to ``ticket`` need not be kept."""
    return KnownOutcome(id=answer.id, fetch_key=to_text(ticket.fetch_key))
