"""Files with secrets: whole, private, and never over others unasked."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgistry.adapters import secret_files
from edgistry.errors import (
    AlreadyThereError,
    DirectoryError,
    FileError,
    NotFoundError,
    TooLargeError,
)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_file_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret_files.write_secret(tmp_path / "one", b"secret", force=False)
        secret_files.make_secret_folder(tmp_path / "config" / "folder")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "one") == 0o600
    assert mode_of(tmp_path / "config" / "folder") == 0o700


def test_a_file_that_is_passed_on_is_as_open_as_the_umask_lets_it_be(tmp_path: Path) -> None:
    path = tmp_path / "proposal.json"
    before = os.umask(0o022)
    try:
        secret_files.write_whole(path, b"one", force=False)
    finally:
        os.umask(before)
    assert mode_of(path) == 0o644
    with pytest.raises(AlreadyThereError):
        secret_files.write_whole(path, b"two", force=False)
    assert path.read_bytes() == b"one"
    secret_files.write_whole(path, b"two", force=True)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(b"old")
    with pytest.raises(AlreadyThereError):
        secret_files.write_secret(path, b"new", force=False)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["one"]


def test_force_replaces_it_and_makes_it_private(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(b"old")
    path.chmod(0o644)
    secret_files.write_secret(path, b"new", force=True)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["one"]


def test_force_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    secret_files.write_secret(tmp_path / "link", b"new", force=True)
    assert (tmp_path / "other").read_bytes() == b"other"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="absent"):
        secret_files.write_secret(tmp_path / "absent" / "one", b"", force=False)


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"12345")
    assert secret_files.read_secret(tmp_path / "one", limit=5) == b"12345"
    with pytest.raises(TooLargeError):
        secret_files.read_secret(tmp_path / "one", limit=4)


def test_reading_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        secret_files.read_secret(tmp_path / "absent", limit=5)
    with pytest.raises(FileError):
        secret_files.read_secret(tmp_path, limit=5)


def test_a_folder_that_others_can_enter_is_refused_and_not_repaired(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(DirectoryError, match="chmod 700"):
        secret_files.make_secret_folder(folder)
    assert mode_of(folder) == 0o755


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"")
    with pytest.raises(DirectoryError, match="not a folder"):
        secret_files.make_secret_folder(tmp_path / "one")
