"""Server-sent events: read as they were written, however they are cut, and bounded."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.errors import MalformedError
from edgistry.event_stream import KEEP_ALIVE, Event, EventReader, encode_event

names = st.sampled_from(["", "begin", "gone"])


def read(*pieces: bytes, limit: int = 1000) -> list[Event]:
    reader = EventReader(limit=limit)
    return [event for piece in pieces for event in reader.feed(piece)]


@settings(max_examples=50)
@given(
    st.lists(st.tuples(names, st.text("abc09+/=", min_size=1, max_size=8), st.integers(1, 99))),
    st.lists(st.integers(0, 400)),
)
def test_events_are_read_as_written_however_they_are_cut(
    written: list[tuple[str, str, int]], cuts: list[int]
) -> None:
    data = b"".join(
        encode_event(text, name=name, event_id=str(number)) + KEEP_ALIVE
        for name, text, number in written
    )
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[low:high] for low, high in itertools.pairwise(edges)]
    assert read(*pieces) == [
        Event(name=name or "message", data=text, id=str(number)) for name, text, number in written
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_counts(end: bytes) -> None:
    data = end.join([b"\xef\xbb\xbfid: 7", b": a comment", b"data:a", b"data: b", b"", b""])
    assert read(data, b"data: c\n\n") == [
        Event(data="a\nb", id="7"),
        Event(data="c", id="7"),
    ]


def test_event_without_data_is_none() -> None:
    assert read(b"event: x\nid: 3\nretry: 5\n\ndata: y\n\n") == [Event(data="y", id="3")]


def test_unfinished_event_is_not_given() -> None:
    assert read(b"data: x\n") == []


@pytest.mark.parametrize(
    "data", [b"data: " + b"x" * 1000, b"data: x\n" * 200, b"data: \xff\n\n"], ids=repr
)
def test_too_large_or_broken_event_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read(data)


@given(st.lists(st.binary(max_size=50)))
def test_any_bytes_give_events_or_are_refused(pieces: list[bytes]) -> None:
    try:
        events = read(*pieces, limit=60)
    except MalformedError:
        return
    assert all(len(event.data) <= 60 for event in events)
