"""Where a device says that it is: one seed, one position for all nodes, moves that count."""

from __future__ import annotations

import math
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.manifest import Manifest
from device_agent.whereabouts import (
    Whereabouts,
    begun,
    current_whereabouts,
    followed,
    read_whereabouts,
    reported,
    write_whereabouts,
)
from edgistry.cell import parse_cell
from edgistry.codec import decode, encode, replace
from edgistry.errors import FileError, MalformedError

SEED = b"s" * 32
AT = (46.0, 8.0)
KNOWN = begun(AT, seed=SEED)
CELL = parse_cell("872830828ffffff")


def manifest(lat: float = 46.0, lon: float = 8.0) -> Manifest:
    return Manifest(lat=lat, lon=lon)


def test_a_reading_that_trembles_changes_nothing_that_nodes_are_told() -> None:
    for number in range(100):
        assert reported(KNOWN, (46.0 + number / 1e4, 8.0), noise_m=0) == KNOWN


def test_a_move_changes_position_and_counter_together() -> None:
    moved = reported(KNOWN, (46.1, 8.0), noise_m=0)
    assert (moved.position, moved.moves, moved.seed) == ((46.1, 8.0), 1, SEED)
    assert reported(moved, AT, noise_m=0).moves == 2


def test_a_move_within_the_noise_is_none() -> None:
    assert reported(KNOWN, (46.1, 8.0), noise_m=12_000) == KNOWN
    assert reported(KNOWN, (46.2, 8.0), noise_m=12_000).moves == 1


def test_another_cell_is_another_place() -> None:
    told = reported(KNOWN, CELL, noise_m=0)
    assert (told.position, told.moves) == (CELL, 1)
    assert reported(told, CELL, noise_m=0) == told


def test_the_manifest_counts_when_it_has_changed_and_a_report_until_then() -> None:
    moved = reported(KNOWN, (47.0, 8.0), noise_m=0)
    assert followed(moved, manifest()) == moved, "the manifest still says what it said"
    again = followed(moved, manifest(lat=48.0))
    assert (again.position, again.moves, again.manifest) == ((48.0, 8.0), 2, (48.0, 8.0))
    corrected = followed(moved, manifest(lat=47.0001))
    assert (corrected.position, corrected.moves) == ((47.0, 8.0), 1)


def test_the_seed_is_drawn_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "whereabouts"
    assert read_whereabouts(path) is None
    first = current_whereabouts(path, manifest(), seed=SEED)
    assert current_whereabouts(path, manifest(), seed=b"x" * 32) == first == KNOWN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_whereabouts(path, reported(first, CELL, noise_m=0))
    assert current_whereabouts(path, manifest(), seed=b"x" * 32).position == CELL


def test_a_damaged_file_is_refused_and_never_drawn_anew(tmp_path: Path) -> None:
    path = tmp_path / "whereabouts"
    path.write_bytes(encode(KNOWN)[:-1])
    path.chmod(0o600)
    with pytest.raises(FileError, match="drawn anew"):
        current_whereabouts(path, manifest(), seed=SEED)


@pytest.mark.parametrize(
    "place", [(math.nan, 8.0), (91.0, 8.0), (46.0, 181.0), 0, -1, parse_cell("882830828bfffff")]
)
def test_a_place_that_is_none_is_damage_too(
    tmp_path: Path, place: tuple[float, float] | int
) -> None:
    path = tmp_path / "whereabouts"
    for damaged in (replace(KNOWN, position=place), replace(KNOWN, manifest=place)):
        write_whereabouts(path, damaged)
        with pytest.raises(FileError, match="restore it from backup"):
            read_whereabouts(path)


def test_nothing_of_it_is_in_a_text() -> None:
    assert "46" not in f"{KNOWN!r} {KNOWN}"


@given(data=st.binary(max_size=120))
def test_any_bytes_are_whereabouts_or_refused(data: bytes) -> None:
    try:
        assert encode(decode(data, Whereabouts, limit=1024)) == data
    except MalformedError:
        return
