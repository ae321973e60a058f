"""Following log files."""

from __future__ import annotations

from pathlib import Path

import pytest

from abci_app.follow import LogFollower
from edgistry.errors import FileError


class Followed:
    def __init__(self, path: Path, lines: int = 0) -> None:
        self.seen: list[str] = []
        self.follower = LogFollower(path, self.seen.append, lines=lines)

    def look(self) -> list[str]:
        """What was added since the last look."""
        self.seen.clear()
        self.follower.look()
        return list(self.seen)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    return path


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("lines", "shown"), [(0, []), (2, ["line 98", "line 99"]), (1, ["line 99"])]
)
def test_it_begins_with_the_last_lines(path: Path, lines: int, shown: list[str]) -> None:
    followed = Followed(path, lines)
    assert followed.look() == shown
    followed.follower.close()


def test_more_lines_than_there_are_show_all_of_them(path: Path) -> None:
    followed = Followed(path, 1000)
    assert len(followed.look()) == 100
    followed.follower.close()


def test_it_goes_on_with_what_is_added(path: Path) -> None:
    followed = Followed(path)
    append(path, "new\n")
    assert followed.look() == ["new"]
    assert followed.look() == []
    followed.follower.close()


def test_half_a_line_waits_for_its_end(path: Path) -> None:
    followed = Followed(path)
    append(path, "ha")
    assert followed.look() == []
    append(path, "lf\nnext")
    assert followed.look() == ["half"]
    followed.follower.close()


def test_a_rotated_file_is_followed_by_its_successor(path: Path) -> None:
    followed = Followed(path)
    append(path, "last\n")
    path.rename(path.with_suffix(".1"))
    path.write_text("first\n")
    assert followed.look() == ["last"]
    assert followed.look() == ["first"]
    followed.follower.close()


def test_a_truncated_file_is_read_from_its_beginning(path: Path) -> None:
    followed = Followed(path)
    path.write_text("fresh\n")
    followed.look()
    assert followed.look() == ["fresh"]
    followed.follower.close()


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    followed = Followed(tmp_path / "later")
    assert followed.look() == []
    (tmp_path / "later").write_text("there\n")
    assert followed.look() == ["there"]
    followed.follower.close()


def test_bytes_that_are_no_text_are_shown_all_the_same(path: Path) -> None:
    followed = Followed(path)
    with path.open("ab") as file:
        file.write(b"\xff\n")
    assert followed.look() == ["\ufffd"]
    followed.follower.close()


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="directory"):
        Followed(tmp_path)
