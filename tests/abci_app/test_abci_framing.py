"""Frames survive any cutting, hostile ones are refused early, and sizes are protobuf's."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abci_app import abci_pb2 as pb
from abci_app.abci_framing import (
    FrameDecoder,
    encode_frame,
    encode_uvarint,
    proposal_prefix,
    proposal_size,
)
from edgistry.errors import MalformedError, Refused, TooLargeError

messages = st.lists(st.binary(max_size=300), max_size=12)
cuts = st.lists(st.integers(min_value=0, max_value=4000), max_size=30)


def pieces(data: bytes, where: list[int]) -> list[bytes]:
    """``data`` cut at the given places (places outside it are ignored; empty reads stay)."""
    marks = [0, *sorted(place for place in where if place <= len(data)), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(marks)]


def read_all(decoder: FrameDecoder, reads: list[bytes]) -> tuple[list[bytes], type | None]:
    """Everything the decoder gives for these reads, and how it refused, if it did."""
    got: list[bytes] = []
    try:
        for read in reads:
            decoder.feed(read)
            while (message := decoder.next_message()) is not None:
                got.append(message)
    except Refused as error:
        return got, type(error)
    return got, None


@settings(deadline=None, max_examples=100)
@given(messages, cuts)
def test_messages_survive_any_cutting_of_the_stream(sent: list[bytes], where: list[int]) -> None:
    stream = b"".join(map(encode_frame, sent))
    decoder = FrameDecoder()
    assert read_all(decoder, pieces(stream, where)) == (sent, None)
    assert decoder.pending == 0


@settings(deadline=None, max_examples=100)
@given(messages, cuts)
def test_messages_left_unread_are_not_lost(sent: list[bytes], where: list[int]) -> None:
    decoder = FrameDecoder()
    for read in pieces(b"".join(map(encode_frame, sent)), where):
        decoder.feed(read)
    assert read_all(decoder, [b""]) == (sent, None)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=400), cuts)
@example(b"\xff" * 9 + b"\x01", [3])
@example(b"\xff" * 11, [10])
def test_any_bytes_give_the_same_messages_or_refusal_however_cut(
    stream: bytes, where: list[int]
) -> None:
    whole = read_all(FrameDecoder(limit=200), [stream])
    assert read_all(FrameDecoder(limit=200), pieces(stream, where)) == whole
    assert whole[1] in (None, MalformedError, TooLargeError)


def test_empty_message_is_a_message() -> None:
    assert read_all(FrameDecoder(), [b"\x00\x00"]) == ([b"", b""], None)


def test_length_at_the_cap_passes_and_one_over_is_refused_before_its_body_comes() -> None:
    assert read_all(FrameDecoder(limit=300), [encode_frame(bytes(300))]) == ([bytes(300)], None)
    decoder = FrameDecoder(limit=300)
    decoder.feed(encode_uvarint(301))
    with pytest.raises(TooLargeError, match="301"):
        decoder.next_message()


def test_messages_before_a_hostile_length_are_still_given() -> None:
    stream = encode_frame(b"first") + encode_uvarint(1 << 60)
    assert read_all(FrameDecoder(), [stream]) == ([b"first"], TooLargeError)


@pytest.mark.parametrize(
    "length",
    [b"\xff" * 9 + b"\x02", b"\x80" * 10, b"\xff" * 10, b"\x80" * 9 + b"\x7f"],
    ids=["65 bits", "endless zeros", "endless ones", "high bits"],
)
def test_length_over_64_bits_is_malformed(length: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(length)
    with pytest.raises(MalformedError, match="64 bits"):
        decoder.next_message()


def test_unfinished_length_waits_for_its_last_byte() -> None:
    decoder = FrameDecoder(limit=1 << 70)
    decoder.feed(b"\xff" * 9)
    assert decoder.next_message() is None
    decoder.feed(b"\x01")
    assert decoder.next_message() is None
    assert decoder.pending == 10


def test_longer_spelling_of_a_length_means_the_same_as_the_engine_reads_it() -> None:
    assert read_all(FrameDecoder(), [b"\x82\x80\x00ab"]) == ([b"ab"], None)


@settings(deadline=None, max_examples=100)
@given(st.integers(min_value=0, max_value=(1 << 64) - 1))
@example(127)
@example(128)
def test_uvarint_is_protobufs(value: int) -> None:
    spelled = pb.RequestInfo(block_version=value).SerializeToString()
    assert encode_uvarint(value) == (spelled[1:] or b"\x00")


@settings(deadline=None, max_examples=50)
@given(st.integers(min_value=0, max_value=20_000))
@example(0)
@example(127)
@example(128)
@example(16_383)
@example(16_384)
def test_proposal_size_is_what_protobuf_takes(length: int) -> None:
    transaction = bytes(length)
    assert proposal_size(transaction) == pb.ResponsePrepareProposal(txs=[transaction]).ByteSize()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(min_value=0, max_value=3000))
def test_proposal_prefix_is_the_longest_that_fits(
    transactions: list[bytes], max_tx_bytes: int
) -> None:
    chosen = proposal_prefix(transactions, max_tx_bytes)
    assert chosen == transactions[: len(chosen)]
    assert pb.ResponsePrepareProposal(txs=chosen).ByteSize() <= max_tx_bytes
    if len(chosen) < len(transactions):
        longer = pb.ResponsePrepareProposal(txs=transactions[: len(chosen) + 1])
        assert longer.ByteSize() > max_tx_bytes
