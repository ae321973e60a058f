"""Handles that were shown are remembered, and a beginning of one will do."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import handle_book
from client.handle_book import HandleBook, short, shown_place
from edgistry.errors import InvalidValueError, UnknownHandleError
from tests.handle_world import handle_for

HANDLES = [handle_for(bytes([number]) * 16, tag=b"t" * 16) for number in range(20)]


@pytest.fixture
def book(tmp_path: Path) -> HandleBook:
    return HandleBook(tmp_path / "keyring" / "handles")


def test_beginning_of_a_handle_that_was_shown_means_it(book: HandleBook) -> None:
    book.remember(HANDLES[:3])
    assert book.whole(short(HANDLES[1])) == HANDLES[1]
    assert book.whole(HANDLES[2][:8]) == HANDLES[2]
    assert book.whole(HANDLES[9]) == HANDLES[9]  # a whole one, never shown here


def test_beginning_that_is_too_short_or_of_none_or_of_several_is_refused(
    book: HandleBook,
) -> None:
    other = HANDLES[0][:20] + HANDLES[1][20:]
    book.remember([HANDLES[0], other])
    with pytest.raises(InvalidValueError, match="8 characters"):
        book.whole(HANDLES[0][:7])
    with pytest.raises(UnknownHandleError, match="edgistry discover"):
        book.whole(HANDLES[5][:16])
    with pytest.raises(InvalidValueError, match="give more of it"):
        book.whole(HANDLES[0][:16])
    assert book.whole(HANDLES[0][:30]) == HANDLES[0]


def test_the_latest_are_kept_and_only_their_owner_reads_them(
    book: HandleBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_book, "MAX_REMEMBERED", 5)
    book.remember(HANDLES[:5])
    book.remember([HANDLES[1]])  # shown again
    book.remember(HANDLES[5:8])
    assert set(book.handles()) == {HANDLES[4], HANDLES[1], *HANDLES[5:8]}
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(book.path.parent.stat().st_mode) == 0o700


def test_a_damaged_file_loses_nothing_but_what_is_damaged(book: HandleBook) -> None:
    book.remember(HANDLES[:2])
    text = book.path.read_text()
    book.path.write_text(f"nonsense\n{text}\x00\n")
    assert sorted(book.handles()) == sorted(HANDLES[:2])
    book.remember([HANDLES[2]])
    assert sorted(book.path.read_text().split()) == sorted(HANDLES[:3])


@given(st.text(max_size=120))
def test_any_text_is_a_handle_or_refused(text: str) -> None:
    with pytest.raises((InvalidValueError, UnknownHandleError)):
        HandleBook(Path("/nowhere/handles")).whole(text)


def test_place_of_a_capability_is_shown_short_only_where_it_is_a_handle() -> None:
    assert shown_place(HANDLES[0]) == HANDLES[0][:16]
    assert shown_place("http://127.0.0.1:27000") == "http://127.0.0.1:27000"


def test_a_list_that_cannot_be_written_is_a_remark_and_no_refusal(
    book: HandleBook, capsys: pytest.CaptureFixture[str]
) -> None:
    book.path.mkdir(parents=True)
    book.path.parent.chmod(0o700)
    book.remember(HANDLES)
    assert "handles are not remembered" in capsys.readouterr().err
    assert book.whole(HANDLES[0]) == HANDLES[0]
    assert book.handles() == []
