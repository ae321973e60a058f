"""Calls: where they go, what a ticket keeps, what an end proves."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.calls import (
    CallTarget,
    Ticket,
    bind_call,
    call_result,
    call_target,
    decode_ticket,
    encode_ticket,
    reply_of,
)
from edgistry.capability import BoundRequest, Capability
from edgistry.capability_chain import Entry
from edgistry.caveats import VEIL
from edgistry.codec import replace
from edgistry.envelope import BY_NODE, GENERIC_REFUSAL, Status, encode_reply
from edgistry.errors import (
    BadReplyError,
    CallEndedError,
    InvalidValueError,
    MalformedError,
    NoRightError,
    TooLargeError,
    UnprovenRefusalError,
)
from edgistry.issuer import Issuer
from edgistry.requests_api import RequestAnswer, to_text
from edgistry.rights import Right

ISSUER = Issuer.from_secret(b"s" * 32, epoch=1)
CALL = Right.PUT | Right.INVOKE


def granted(*entries: Entry) -> Capability:
    return ISSUER.mint(serial=1, entries=entries)


GRANT = granted(Entry(CALL, "thermometer/read"))


def bound(capability: Capability = GRANT, **more: Any) -> BoundRequest:
    return bind_call(
        capability,
        call_target(capability, "read"),
        b"please",
        client=b"client-1",
        sequence=5,
        sequence_epoch=0,
        deadline_us=10,
        **more,
    )


def ticket() -> Ticket:
    return Ticket(
        version=1,
        node="http://127.0.0.1:27000",
        handle="h",
        action="read",
        idempotency_key=b"k",
        fetch_key=b"f" * 32,
        priority=0,
        not_before_us=0,
        max_age_s=0,
        envelope=bound().encoded,
        capabilities=(GRANT.danger_bytes(),),
    )


def ended(reply: bytes | None, **more: Any) -> RequestAnswer:
    fields: dict[str, Any] = {
        "id": "i",
        "state": "RESPONDED",
        "final": True,
        "wake": "1m",
        "attempts": 1,
        "submitted_us": 1,
        "deadline_us": 10,
        "recalled": False,
        "reply": None if reply is None else to_text(reply),
        "reason": "",
        **more,
    }
    return RequestAnswer(**fields)


def reply(request: BoundRequest, status: int, **more: Any) -> bytes:
    return encode_reply(GRANT_KEY, request.envelope.tag, status=status, **more)


GRANT_KEY = ISSUER.state_of(GRANT.chain)


@pytest.mark.parametrize("name", ["thermometer/read", "thermometer"])
def test_call_goes_to_the_action_of_the_type_that_is_granted(name: str) -> None:
    target = call_target(granted(Entry(CALL, name)), "read")
    assert target == CallTarget(woof="thermometer/read", handler="read")


def test_handler_is_the_one_that_the_capability_allows() -> None:
    narrowed = GRANT.derive(handlers=("measure",))
    assert call_target(narrowed, "read").handler == "measure"


@pytest.mark.parametrize(
    "entry",
    [
        Entry(Right.PUT, "thermometer/read"),
        Entry(Right.INVOKE, "thermometer/read"),
        Entry(CALL, "thermometer/set"),
        Entry(CALL, ""),
    ],
)
def test_capability_that_allows_no_such_call_is_named_so(entry: Entry) -> None:
    with pytest.raises(NoRightError):
        call_target(granted(entry), "read")


def test_capability_for_two_types_is_not_guessed_at() -> None:
    with pytest.raises(InvalidValueError, match="several types"):
        call_target(granted(Entry(CALL, "a/read"), Entry(CALL, "b/read")), "read")


def test_capability_with_two_handlers_is_not_guessed_at() -> None:
    with pytest.raises(InvalidValueError, match="several handlers"):
        call_target(GRANT.derive(handlers=("a", "b")), "read")


def test_ticket_gives_the_same_request_again() -> None:
    again = decode_ticket(encode_ticket(ticket())).request
    assert again.encoded == bound().encoded
    proof = reply(bound(), Status.OK, payload=b"21.5", result=7)
    assert call_result(again, ended(proof)).payload == b"21.5"


def test_changed_ticket_is_no_request_of_the_capability() -> None:
    changed = replace(ticket(), capabilities=(b"\0" * 40,))
    with pytest.raises(MalformedError):
        _ = changed.request


@given(st.binary(max_size=200))
def test_any_bytes_are_a_ticket_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedError, TooLargeError):
        assert encode_ticket(decode_ticket(data)) == data


def test_ticket_shows_no_secret() -> None:
    shown = repr(ticket())
    assert "ffff" not in shown
    assert GRANT_KEY.hex() not in shown
    assert shown == "<Ticket read of h>"


def test_answer_of_the_device_has_its_number_and_no_age() -> None:
    found = call_result(bound(), ended(reply(bound(), Status.OK, payload=b"x", result=7)))
    assert (found.number, found.by_node, found.age_s) == (7, False, 0.0)


def test_answer_of_the_node_has_an_age_and_no_number() -> None:
    proof = reply(bound(), BY_NODE | Status.OK, payload=b"x", result=2500)
    found = call_result(bound(), ended(proof), max_age_s=3)
    assert (found.number, found.by_node, found.age_s) == (0, True, 2.5)


def test_answer_older_than_the_caller_wanted_is_not_believed() -> None:
    """The age that will do is not in the envelope: a node on the way may have raised it."""
    proof = reply(bound(), BY_NODE | Status.OK, payload=b"x", result=2001)
    with pytest.raises(BadReplyError, match=r"2\.001 s old, and at most 2 s"):
        call_result(bound(), ended(proof), max_age_s=2)
    with pytest.raises(BadReplyError, match="old"):
        call_result(bound(), ended(reply(bound(), BY_NODE | Status.OK, result=1)))


def test_answer_of_the_node_under_a_veil_has_no_age_but_what_the_caller_wanted() -> None:
    veiled = GRANT.derive(caveats=[VEIL])
    request = bound(veiled)
    key = ISSUER.state_of(veiled.chain)
    proof = encode_reply(key, request.envelope.tag, status=BY_NODE | Status.OK, payload=b"x")
    assert call_result(request, ended(proof), max_age_s=60).age_s == 60.0
    with pytest.raises(BadReplyError, match="no answer from before"):
        call_result(request, ended(proof))


def test_answer_of_the_node_is_not_believed_where_only_the_device_may_answer() -> None:
    request = bound(device_only=True)
    proof = reply(request, BY_NODE | Status.OK, payload=b"x", result=0)
    with pytest.raises(BadReplyError, match="only the device"):
        call_result(request, ended(proof), max_age_s=600)
    own = reply(request, Status.OK, payload=b"x", result=7)
    assert call_result(request, ended(own)).payload == b"x"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status.EXPIRED, "EXPIRED"),
        (Status.HANDLER_FAILED, "FAILED"),
        (Status.REJECTED, "REJECTED"),
        (Status.CANCELLED, "CANCELLED"),
        (Status.DEAD, "DEAD"),
    ],
)
@pytest.mark.parametrize("by", [0, BY_NODE])
def test_end_without_an_answer_says_which(status: Status, state: str, by: int) -> None:
    with pytest.raises(CallEndedError, match="because") as found:
        call_result(bound(), ended(reply(bound(), by | status), state=state, reason="because"))
    assert found.value.state == state


def test_expiry_that_only_the_node_tells_does_not_say_that_the_call_was_not_carried_out() -> None:
    told = {}
    for by in (0, BY_NODE):
        answer = ended(reply(bound(), by | Status.EXPIRED), state="EXPIRED", reason="nobody knows")
        with pytest.raises(CallEndedError) as found:
            call_result(bound(), answer)
        told[by] = str(found.value)
    assert "not carried out" in told[0]
    assert "not carried out" not in told[BY_NODE]
    assert "nobody knows" in told[BY_NODE]


def test_refusal_of_the_capability_is_told_as_it_is() -> None:
    with pytest.raises(NoRightError):
        call_result(bound(), ended(reply(bound(), Status.NO_RIGHT), state="REJECTED"))


def test_outcome_that_is_gone_is_no_answer() -> None:
    with pytest.raises(CallEndedError):
        call_result(bound(), ended(None, state="DELIVERED"))
    assert reply_of(bound(), ended(None)) is None


def test_end_that_an_entry_node_told_without_a_key_says_why() -> None:
    answer = ended(None, state="EXPIRED", reason="nobody knows")
    with pytest.raises(CallEndedError, match="without proof: EXPIRED, nobody knows"):
        call_result(bound(), answer)


def test_changed_or_unproven_reply_is_not_believed() -> None:
    proof = bytearray(reply(bound(), Status.OK, payload=b"21.5"))
    proof[-20] ^= 1
    with pytest.raises(BadReplyError):
        call_result(bound(), ended(bytes(proof)))
    with pytest.raises(UnprovenRefusalError):
        call_result(bound(), ended(GENERIC_REFUSAL))
