"""Requests are read from any bytes, responses always name themselves, faults are found."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abci_app import abci_pb2 as pb
from abci_app.abci_application import BaseApplication
from abci_app.abci_framing import FrameDecoder
from abci_app.abci_messages import (
    CALLS,
    decode_request,
    encode_exception,
    encode_response,
    refusal,
)
from edgistry.errors import MalformedError, NotFoundError

EVERY_CALL = sorted(CALLS)


def unframed(frame: bytes) -> Any:
    """The response in a frame, read by protobuf itself."""
    decoder = FrameDecoder()
    decoder.feed(frame)
    message = decoder.next_message()
    assert message is not None
    assert decoder.pending == 0
    return pb.Response.FromString(message)


def envelope(name: str, request: Any) -> bytes:
    data: bytes = pb.Request(**{name: request}).SerializeToString()
    return data


def test_the_calls_are_those_of_abci_2() -> None:
    assert len(EVERY_CALL) == 16
    for name in EVERY_CALL:
        if name not in ("echo", "flush"):
            assert callable(getattr(BaseApplication(), name))


@pytest.mark.parametrize("name", EVERY_CALL)
def test_empty_request_and_empty_response_keep_their_names(name: str) -> None:
    call, request = decode_request(envelope(name, CALLS[name].request_type()))
    assert call is CALLS[name]
    assert request == call.request_type()
    response = unframed(encode_response(call, call.response_type()))
    assert response.WhichOneof("value") == name


@pytest.mark.parametrize("size", [0, 1, 100, 130, 16_383, 16_390, 70_000])
def test_transaction_of_any_size_arrives_whole(size: int) -> None:
    transaction = bytes(range(256)) * (size // 256) + bytes(size % 256)
    call, request = decode_request(envelope("check_tx", pb.RequestCheckTx(tx=transaction, type=1)))
    assert (call.name, request.tx, request.type) == ("check_tx", transaction, pb.RECHECK)


requests = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda name, content: envelope(name, CALLS[name].request_type()) + content,
        st.sampled_from(EVERY_CALL),
        st.binary(max_size=20),
    ),
    st.builds(
        lambda tag, content: bytes([tag, len(content)]) + content,
        st.integers(min_value=0, max_value=127),
        st.binary(max_size=100),
    ),
    # Lengths of two bytes, right and wrong, with and without something after them.
    st.builds(
        lambda tx, more: envelope("check_tx", pb.RequestCheckTx(tx=tx)) + more,
        st.binary(min_size=130, max_size=300),
        st.sampled_from([b"", b"\x00", b"\x12\x00", b"\x42\x02\x10\x01"]),
    ),
    st.builds(
        lambda tx, low, high: (
            bytes([0x42, low, high]) + pb.RequestCheckTx(tx=tx).SerializeToString()
        ),
        st.binary(min_size=110, max_size=140),
        st.integers(min_value=0x80, max_value=0xFF),
        st.sampled_from([0, 1, 2, 0x80, 0x81]),
    ),
)


@settings(deadline=None, max_examples=500)
@given(requests)
@example(b"")
@example(b"\x22\x00")
@example(b"\x0a\x02\x0a\x00\x12\x00")
@example(b"\x0a\x80\x00")
@example(b"\x42\x84\x81\x00\x0a\x82\x01" + bytes(129))
@example(b"\x42\x85\x01\x0a\x82\x01" + bytes(130) + b"\x12\x00")
@example(b"\x42\x84\x81\x00\x0a\x81\x01" + bytes(129))
@example(b"\x0a\x03\x0a\x01\xff")
def test_any_bytes_are_read_as_protobuf_reads_them_or_malformed(message: bytes) -> None:
    try:
        expected = pb.Request.FromString(message)
    except pb.DecodeError:
        expected = pb.Request()
    name = expected.WhichOneof("value")
    if name is None:
        with pytest.raises(MalformedError):
            decode_request(message)
    else:
        call, request = decode_request(message)
        assert call.name == name
        assert request == getattr(expected, name)


@pytest.mark.parametrize("retired", [4, 7, 9, 10])
def test_retired_call_is_malformed(retired: int) -> None:
    with pytest.raises(MalformedError, match="does not have"):
        decode_request(bytes([retired << 3 | 2, 0]))


def test_refusal_carries_code_text_and_namespace() -> None:
    response = refusal(CALLS["query"], NotFoundError("no such key"))
    answer = unframed(encode_response(CALLS["query"], response)).query
    assert (answer.code, answer.log, answer.codespace) == (15, "no such key", "edgistry")


def test_exception_names_itself_even_without_text() -> None:
    assert unframed(encode_exception("why")).exception.error == "why"
    assert unframed(encode_exception("")).WhichOneof("value") == "exception"


# --- answers that would stop the engine


def fault(name: str, request: Any, response: Any) -> str | None:
    find = CALLS[name].find_fault
    assert find is not None
    return find(request, response)


def test_proposal_over_max_tx_bytes_is_a_fault() -> None:
    request = pb.RequestPrepareProposal(max_tx_bytes=12)
    assert fault("prepare_proposal", request, pb.ResponsePrepareProposal(txs=[bytes(10)])) is None
    found = fault("prepare_proposal", request, pb.ResponsePrepareProposal(txs=[bytes(11)]))
    assert found is not None
    assert "13 bytes" in found


def test_unknown_status_is_a_fault() -> None:
    accept = pb.ResponseProcessProposal(status=pb.ResponseProcessProposal.ACCEPT)
    assert fault("process_proposal", None, accept) is None
    assert fault("process_proposal", None, pb.ResponseProcessProposal())
    assert fault("verify_vote_extension", None, pb.ResponseVerifyVoteExtension())


@pytest.mark.parametrize("results", [0, 1, 3])
def test_other_than_one_result_per_transaction_is_a_fault(results: int) -> None:
    request = pb.RequestFinalizeBlock(txs=[b"a", b"b"])
    response = pb.ResponseFinalizeBlock(tx_results=[pb.ExecTxResult() for _ in range(results)])
    assert fault("finalize_block", request, response) == f"{results} results for 2 transactions"


def validator(key: bytes, power: int) -> Any:
    return pb.ValidatorUpdate(pub_key=pb.PublicKey(ed25519=key), power=power)


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        ([validator(b"a", 1), validator(b"b", 0)], None),
        ([validator(b"a", 1), validator(b"a", 2)], "two updates"),
        ([validator(b"a", -1)], "power -1"),
        ([pb.ValidatorUpdate(power=1)], "without a public key"),
    ],
    ids=["good", "twice", "negative", "nobody"],
)
def test_validator_updates_that_halt_a_chain_are_faults(
    updates: list[Any], expected: str | None
) -> None:
    block = pb.ResponseFinalizeBlock(validator_updates=updates)
    genesis = pb.ResponseInitChain(validators=updates)
    for found in (
        fault("finalize_block", pb.RequestFinalizeBlock(), block),
        fault("init_chain", None, genesis),
    ):
        assert (found is None) == (expected is None)
        assert expected is None or expected in str(found)
