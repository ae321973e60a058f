"""One process for a directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgistry.adapters.pid_lock import hold_lock, holder_of
from edgistry.errors import DatabaseLockedError


def test_one_at_a_time_holds_a_lock_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with hold_lock(file, in_use="it is in use by"):
        pid = int(file.read_text("ascii"))
        assert holder_of(file) == pid
        with (
            pytest.raises(DatabaseLockedError, match=f"it is in use by process {pid}"),
            hold_lock(file, in_use="it is in use by"),
        ):
            pass
    assert (holder_of(file), file.read_bytes()) == (None, b"")


def test_full_disk_keeps_nobody_from_the_lock() -> None:
    with hold_lock(Path("/dev/full"), in_use="it is in use by"):
        assert holder_of(Path("/dev/full")) is None
