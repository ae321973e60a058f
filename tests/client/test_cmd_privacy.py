"""``edgistry privacy explain``: what a person is shown, in text, JSON and pictures."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from client.cell_map import CellMap
from client.cli import program
from edgistry.api import CellArea
from edgistry.region import cell_boundary, cell_center, cell_text, cells_around, published_cell
from tests.fake_node import CELL, FakeNode, serving_from_a_thread

SEATTLE = ("--lat", "47.6062", "--lon=-122.3321")


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["privacy", "explain", *arguments])


def read_png(data: bytes) -> list[bytes]:
    """The rows of a palette PNG, by the format's own rules."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            kind + body
        )
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == height * (width + 1)
    return [rows[y * (width + 1) + 1 : (y + 1) * (width + 1)] for y in range(height)]


def test_it_tells_the_cell_its_area_and_how_close_anybody_gets() -> None:
    result = explain(*SEATTLE)

    assert result.exit_code == 0, result.output
    assert "cell 8728d542cffffff, resolution 7" in result.output
    assert "km²" in result.output
    assert " m; nobody is told more" in result.output


def test_json_has_the_same_in_fields() -> None:
    found = json.loads(explain(*SEATTLE, "--resolution", "6", "--json").output)

    assert found["cell"] == cell_text(published_cell(47.6062, -122.3321, 6))
    assert (found["resolution"], found["noise_m"], found["possible_cells"]) == (6, 0, 1)
    assert 20 < found["area_km2"] < 50


def test_noise_says_how_many_cells_it_may_lead_to() -> None:
    found = json.loads(explain(*SEATTLE, "--noise", "5000", "--json").output)

    assert 10 < found["possible_cells"] < 25


@pytest.mark.parametrize(
    "wrong",
    [("--lat", "91", "--lon", "0"), ("--lat", "nan", "--lon", "0"), ("--lat", "0", "--lon", "181")],
)
def test_a_place_that_is_none_is_refused(wrong: tuple[str, ...]) -> None:
    result = explain(*wrong)

    assert result.exit_code == 1
    assert "outside" in result.output


@pytest.mark.parametrize(
    "wrong", [("--resolution", "8"), ("--noise", "-1"), ("--noise", "20001"), ("--resolution", "4")]
)
def test_a_policy_that_is_none_is_a_usage_error(wrong: tuple[str, ...]) -> None:
    assert explain(*SEATTLE, *wrong).exit_code == 2


def test_the_map_can_be_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "map.png"

    result = explain(*SEATTLE, "--png", str(path))

    assert result.exit_code == 0, result.output
    rows = read_png(path.read_bytes())
    assert {pixel for row in rows for pixel in row} == {0, 1, 2, 3}


def test_a_picture_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    result = explain(*SEATTLE, "--png", str(tmp_path / "missing" / "map.png"))

    assert result.exit_code == 1
    assert "cannot write" in result.output


@given(
    st.floats(-90, 90) | st.sampled_from([-90.0, 90.0]),
    st.floats(-180, 180) | st.sampled_from([-180.0, 180.0]),
    st.integers(5, 7),
)
def test_every_place_on_earth_has_a_map(lat: float, lon: float, resolution: int) -> None:
    cell = published_cell(lat, lon, resolution)
    around = [cell_boundary(each) for each in cells_around(cell)]

    drawn = CellMap(around, strong=cell_boundary(cell), point=(lat, lon), width=64)

    assert drawn.height < 200
    pixels = [pixel for row in drawn.pixels for pixel in row]
    assert pixels.count(2) > 20
    assert pixels.count(3) >= 3
    assert len(drawn.braille()) == -(-drawn.height // 4)


def test_a_node_is_asked_by_nobody_how_many_are_listed_in_the_published_cell() -> None:
    fake = FakeNode(lists_cell=True)
    lat, lon = cell_center(int(CELL, 16))
    place = ("--lat", str(lat), f"--lon={lon}")
    with serving_from_a_thread(fake) as url:
        words = ["privacy", "explain", *place, "--node", url]
        shown = CliRunner().invoke(program, words)
        found = json.loads(
            CliRunner().invoke(program, [*words, "--type", "valve", "--json"]).stdout
        )
        far = ["privacy", "explain", "--lat", "10", "--lon", "10", "--node", url]
        nothing = CliRunner().invoke(program, far)
    assert "listed: thermometer\t2 services of 1 owners" in shown.stdout
    assert [(each["type"], each["services"]) for each in found["listed"]] == [("valve", 1)]
    assert "nothing in this cell now" in nothing.stdout
    assert set(fake.clients) == {None}
    assert {type(each.area) for each in fake.queries} == {CellArea}
    alone = CliRunner().invoke(program, ["privacy", "explain", *place, "--json"])
    assert json.loads(alone.stdout)["listed"] is None
    typed = CliRunner().invoke(program, ["privacy", "explain", *place, "--type", "valve"])
    assert typed.exit_code == 2
