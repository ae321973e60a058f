"""What a program and the child process of a handler say to each other."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.errors import (
    ElementEvictedError,
    MalformedError,
    MissingWoofError,
    Refused,
    TooLargeError,
)
from edgistry.faas_frames import (
    FROM_CHILD_BYTES,
    MAX_FACTS,
    MAX_WORDS,
    Ask,
    Begin,
    Ended,
    Frame,
    FrameReader,
    Operation,
    Ready,
    Reply,
    Say,
    Setup,
    frame_bytes,
    refusal_named,
)

numbers = st.integers(0, (1 << 64) - 1)
words = st.text(max_size=40)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Setup, module=words, handler=words, memory_mb=numbers, cpu_s=numbers, files=numbers),
    st.builds(Begin, woof=words, number=numbers, element=st.binary(max_size=99), attempt=numbers),
    st.builds(
        Reply,
        id=numbers,
        code=words,
        detail=words,
        number=numbers,
        elements=st.lists(st.tuples(numbers, st.binary(max_size=9)), max_size=4).map(tuple),
    ),
    st.just(Ready()),
    st.builds(
        Ask,
        id=numbers,
        operation=st.sampled_from(Operation),
        woof=words,
        number=numbers,
        element=st.binary(max_size=99),
        handler=st.none() | words,
        index=numbers,
    ),
    st.builds(
        Say,
        level=st.sampled_from(["debug", "info", "warning", "error"]),
        event=words,
        facts=st.lists(st.tuples(words, words), max_size=MAX_FACTS).map(tuple),
    ),
    st.builds(
        Ended,
        answer=st.none() | st.binary(max_size=99),
        failure=st.none() | words,
        for_good=st.booleans(),
        exhausted=st.booleans(),
    ),
)


@given(st.lists(frames, max_size=5), st.integers(1, 50))
@settings(deadline=None)
def test_frames_come_back_whatever_pieces_they_arrive_in(sent: list[Frame], size: int) -> None:
    data = b"".join(frame_bytes(each) for each in sent)
    reader = FrameReader(limit=FROM_CHILD_BYTES)
    received: list[Frame] = []
    for start in range(0, len(data), size):
        received += reader.feed(data[start : start + size])
    assert received == sent


def received_from(data: bytes) -> list[Frame]:
    """The frames in ``data`` before anything that is none."""
    received = []
    with contextlib.suppress(MalformedError, TooLargeError):
        for frame in FrameReader(limit=FROM_CHILD_BYTES).feed(data):
            received.append(frame)
    return received


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_give_frames_or_malformed(data: bytes) -> None:
    assert all(frame_bytes(frame) in data for frame in received_from(data))


@given(frames, st.data())
@settings(deadline=None)
def test_changed_byte_gives_another_frame_or_malformed(frame: Frame, data: st.DataObject) -> None:
    sent = bytearray(frame_bytes(frame))
    at = data.draw(st.integers(0, len(sent) - 1))
    sent[at] ^= data.draw(st.integers(1, 255))
    assert received_from(bytes(sent)) != [frame]


def test_frame_that_is_too_long_is_refused_before_it_is_there() -> None:
    with pytest.raises(Refused, match="1000 bytes where 999"):
        list(FrameReader(limit=999).feed((1000).to_bytes(4, "big") + b"\x05"))


def test_words_that_are_too_long_are_refused() -> None:
    said = Say(level="info", event="x" * (MAX_WORDS + 1), facts=())
    with pytest.raises(MalformedError):
        list(FrameReader(limit=FROM_CHILD_BYTES).feed(frame_bytes(said)))


def test_refusal_arrives_as_the_class_it_left_as() -> None:
    assert type(refusal_named("woof-missing", "no x")) is MissingWoofError
    assert type(refusal_named("woof-evicted", "gone")) is ElementEvictedError
    assert str(refusal_named("woof-missing", "no x")) == "no x"


def test_refusal_with_more_than_a_detail_arrives_as_a_plain_one() -> None:
    assert type(refusal_named("not-yet", "wait")) is Refused
    assert type(refusal_named("unheard-of", "what")) is Refused
