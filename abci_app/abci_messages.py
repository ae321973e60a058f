"""ABCI messages: a frame's content becomes a call and its request; a response becomes a frame.

Rules kept here:

* Any bytes give a call and its request, or ``MalformedError``.
* A response frame always names its response, even when that is empty: the envelope is written
  by hand around the inner message, so that an unset one (which kills the engine) cannot be made.
* ``find_fault`` knows what the engine would panic on, so that we stop with a clear message
  where it would stop with a stack trace.

Not handled here: frame boundaries (``abci_framing``), order and sockets (``abci_server``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgistry.errors import MalformedError, Refused

from . import abci_pb2 as pb
from .abci_framing import encode_frame, encode_uvarint, proposal_size

_LENGTH_DELIMITED = 2
"""Protobuf wire type of an embedded message."""

CODESPACE = "edgistry"
"""Namespace of the result codes: the numbers of ``edgistry.errors``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One kind of request: what it is parsed as and what must answer it."""

    name: str
    """Field name in both envelopes, and the application method of that name."""
    request_type: Any
    response_type: Any
    response_tag: bytes
    """Tag of the response in its envelope."""
    has_code: bool
    """Whether a refusal can be answered with a code."""
    find_fault: Callable[[Any, Any], str | None] | None
    """(request, response) → what the engine would stop on, or ``None``."""


def _too_long_proposal(request: Any, response: Any) -> str | None:
    size = sum(map(proposal_size, response.txs))
    if size > request.max_tx_bytes:
        return f"a proposal of {size} bytes where max_tx_bytes is {request.max_tx_bytes}"
    return None


def _unknown_status(_request: Any, response: Any) -> str | None:
    return None if response.status else "a status that is UNKNOWN"


def _bad_block(request: Any, response: Any) -> str | None:
    results, transactions = len(response.tx_results), len(request.txs)
    if results != transactions:
        return f"{results} results for {transactions} transactions"
    return _bad_validators(request, response.validator_updates)


def _bad_genesis(request: Any, response: Any) -> str | None:
    return _bad_validators(request, response.validators)


def _bad_validators(_request: Any, updates: Any) -> str | None:
    seen = set()
    for update in updates:
        key = update.pub_key.SerializeToString(deterministic=True)
        if not key:
            return "a validator update without a public key"
        if key in seen:
            return "two updates of one validator"
        if update.power < 0:
            return f"a validator update with power {update.power}"
        seen.add(key)
    return None


_FAULTS: dict[str, Callable[[Any, Any], str | None]] = {
    "init_chain": _bad_genesis,
    "prepare_proposal": _too_long_proposal,
    "process_proposal": _unknown_status,
    "verify_vote_extension": _unknown_status,
    "finalize_block": _bad_block,
}
_WITH_CODE = frozenset({"check_tx", "query"})


def _tag(number: int) -> bytes:
    return encode_uvarint(number << 3 | _LENGTH_DELIMITED)


def _calls() -> dict[str, Call]:
    requests = pb.Request.DESCRIPTOR.fields
    responses = pb.Response.DESCRIPTOR.fields_by_name
    calls = {}
    for field in requests:
        answer = responses[field.name]
        calls[field.name] = Call(
            name=field.name,
            request_type=getattr(pb, field.message_type.name),
            response_type=getattr(pb, answer.message_type.name),
            response_tag=_tag(answer.number),
            has_code=field.name in _WITH_CODE,
            find_fault=_FAULTS.get(field.name),
        )
    return calls


CALLS = _calls()
"""Every call of ABCI 2.0 by its name, Echo and Flush among them."""

_CALL_OF_TAG = {_tag(field.number): CALLS[field.name] for field in pb.Request.DESCRIPTOR.fields}
_CALL_OF_BYTE = {tag[0]: call for tag, call in _CALL_OF_TAG.items() if len(tag) == 1}
_EXCEPTION_TAG = _tag(pb.Response.DESCRIPTOR.fields_by_name["exception"].number)


def decode_request(message: bytes) -> tuple[Call, Any]:
    """The call that a frame's content makes, and its request message.

    Raises:
        MalformedError: not protobuf, or none of the requests of ABCI 2.0.
    """
    try:
        # Usual shape: a one-byte tag, a length that covers exactly the rest. Parsing the inner
        # message alone then means the same and takes half the time.
        if len(message) > 2:
            call = _CALL_OF_BYTE.get(message[0])
            if call is not None:
                body = _sole_field(message)
                if body:
                    return call, call.request_type.FromString(message[body:])
        envelope = pb.Request.FromString(message)
    except pb.DecodeError as error:
        raise MalformedError(f"a frame that is not a request: {error}") from None
    name = envelope.WhichOneof("value")
    if name is None:
        raise MalformedError("a request that ABCI 2.0 does not have")
    return CALLS[name], getattr(envelope, name)


def _sole_field(message: bytes) -> int:
    """Where the content starts if one length-delimited field is all there is, else 0."""
    length = message[1]
    if length < 0x80:
        return 2 if len(message) == 2 + length else 0
    length = length & 0x7F | message[2] << 7
    if message[2] < 0x80:
        return 3 if len(message) == 3 + length else 0
    return 0


def encode_response(call: Call, response: Any) -> bytes:
    """The frame that answers ``call``."""
    content = response.SerializeToString()
    return encode_frame(call.response_tag + encode_uvarint(len(content)) + content)


def refusal(call: Call, error: Refused) -> Any:
    """The response that says with a code why a transaction or a query was refused."""
    return call.response_type(code=error.number, log=error.detail, codespace=CODESPACE)


def encode_exception(text: str) -> bytes:
    """The frame that tells the engine to stop."""
    content = pb.ResponseException(error=text).SerializeToString()
    return encode_frame(_EXCEPTION_TAG + encode_uvarint(len(content)) + content)
