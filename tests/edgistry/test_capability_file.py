"""Capabilities in files: what is read, and that nothing of a file is ever repeated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgistry.adapters.capability_file import MAX_FILE_BYTES, read_capability
from edgistry.captext import danger_text
from edgistry.errors import FileError, MalformedError

from .grants import ROOT

TEXT = danger_text(ROOT)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.cap"
    path.touch(mode=0o600)
    return path


def test_capability_is_read_behind_lines_for_people(file: Path) -> None:
    file.write_text(f"# for: cloud\n{TEXT}\n# the end\n")
    assert read_capability(file).danger_bytes() == ROOT.danger_bytes()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_file_that_others_can_read_is_refused(file: Path, mode: int) -> None:
    file.write_text(TEXT)
    file.chmod(mode)
    with pytest.raises(FileError, match="chmod 600"):
        read_capability(file)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="absent"):
        read_capability(tmp_path / "absent")


def test_large_file_is_not_read(file: Path) -> None:
    os.truncate(file, MAX_FILE_BYTES + 1)
    with pytest.raises(MalformedError, match="too long"):
        read_capability(file)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_any_other_content_is_refused_and_not_repeated(file: Path, data: bytes) -> None:
    file.write_bytes(b"edgcap1:secret" + data)
    with pytest.raises(MalformedError) as refusal:
        read_capability(file)
    assert "secret" not in str(refusal.value)
