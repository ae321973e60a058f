"""``edgistry privacy explain``: what a person is shown, in text, JSON and pictures."""

from __future__ import annotations

import json
import stat
import struct
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from client import cmd_privacy
from client.cell_map import CellMap
from client.cli import program
from edgistry.api import CellArea
from edgistry.cell import children_of, parent_of, parse_cell, resolution_of
from edgistry.region import (
    accuracy_m,
    cell_boundary,
    cell_center,
    cell_text,
    cells_around,
    published_cell,
)
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


def test_a_latitude_that_is_a_longitude_is_told_apart() -> None:
    assert "latitude 122.3 is outside -90..90; it goes before" in (
        explain("--lat", "122.3", "--lon", "47").output
    )
    assert "it goes before" not in explain("--lat", "122.3", "--lon", "147").output
    assert "it goes before" not in explain("--lat", "1220", "--lon", "47").output


def test_noise_in_other_units_is_refused_in_words_for_people() -> None:
    result = explain(*SEATTLE, "--noise", "5km")

    assert result.exit_code == 2
    assert "'5km' is not a valid whole number of metres" in result.output


@pytest.mark.parametrize(
    "wrong", [("--resolution", "8"), ("--noise", "-1"), ("--noise", "20001"), ("--resolution", "4")]
)
def test_a_policy_that_is_none_is_a_usage_error(wrong: tuple[str, ...]) -> None:
    assert explain(*SEATTLE, *wrong).exit_code == 2


def test_the_map_can_be_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(b"an older one")

    result = explain(*SEATTLE, "--png", str(path))

    assert result.exit_code == 0, result.output
    rows = read_png(path.read_bytes())
    assert {pixel for row in rows for pixel in row} == {0, 1, 2, 3}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "the place itself is in it"


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
    assert "listed: thermometer\t2 services of 1 owner\n" in shown.stdout
    assert [(each["type"], each["services"]) for each in found["listed"]] == [("valve", 1)]
    assert "nothing in this cell now" in nothing.stdout
    assert set(fake.clients) == {None}
    around = cell_text(parent_of(int(CELL, 16), 5))
    assert [each.area for each in fake.queries[:2]] == [CellArea(cell=around)] * 2
    alone = CliRunner().invoke(program, ["privacy", "explain", *place, "--json"])
    assert json.loads(alone.stdout)["listed"] is None
    typed = CliRunner().invoke(program, ["privacy", "explain", *place, "--type", "valve"])
    assert typed.exit_code == 2


@pytest.mark.parametrize(("noise_m", "resolution"), [(0, 5), (5000, 5), (20_000, 4)])
def test_a_node_is_not_told_more_of_the_place_than_will_be_published(
    noise_m: int, resolution: int
) -> None:
    fake = FakeNode(lists_cell=True)
    with serving_from_a_thread(fake) as url:
        words = (*SEATTLE, "--noise", str(noise_m), "--node", url)
        assert explain(*words).exit_code == 0
    [area] = [each.area for each in fake.queries]
    assert isinstance(area, CellArea)
    asked = parse_cell(area.cell)
    assert resolution_of(asked) == resolution
    assert accuracy_m(asked) >= noise_m


def test_what_is_listed_is_found_on_whichever_page_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNode(lists_cell=True)
    lat, lon = cell_center(int(CELL, 16))
    monkeypatch.setattr(cmd_privacy, "MAX_RESULTS", 1)
    with serving_from_a_thread(fake) as url:
        found = explain("--lat", str(lat), f"--lon={lon}", "--node", url, "--json")
    listed = json.loads(found.stdout)["listed"]
    assert sum(each["services"] for each in listed) == len(fake.services) > 1


def test_what_is_listed_beside_the_published_cell_is_not_counted_in_it() -> None:
    fake = FakeNode(lists_cell=True)
    beside = next(
        each for each in children_of(parent_of(int(CELL, 16), 6)) if each != int(CELL, 16)
    )
    lat, lon = cell_center(beside)
    with serving_from_a_thread(fake) as url:
        found = explain("--lat", str(lat), f"--lon={lon}", "--node", url, "--json")
    assert json.loads(found.stdout)["listed"] == []
    assert fake.services, "they are in the area that was asked about"


@pytest.mark.parametrize("west", [-122.3, 179.95, -180.0])
def test_north_is_up_and_east_is_right_also_across_the_antimeridian(west: float) -> None:
    def at(lat: float, east: float) -> tuple[float, float]:
        return lat, (west + east + 180.0) % 360.0 - 180.0

    corner = [at(0.0, 0.0), at(0.0, 0.1), at(0.1, 0.1)]
    drawn = CellMap([], strong=corner, point=at(0.1, 0.0), width=40)

    assert abs(drawn.height - drawn.width) <= 1
    reds = [(x, y) for y, row in enumerate(drawn.pixels) for x, each in enumerate(row) if each == 3]
    assert max(max(each) for each in reds) <= 2, "the place is the corner that is not drawn to"
    assert all(row[-1] == 2 for row in drawn.pixels[3:39]), "the eastern edge"
    assert any(set(row[1:]) == {2} for row in drawn.pixels[-2:]), "the southern edge"


def test_what_matters_is_whole_and_on_top_of_what_is_dotted() -> None:
    line = [(0.0, 0.0), (0.0, 0.1)]
    weak = CellMap([line], strong=[(0.05, 0.0), (0.05, 0.0)], width=60)
    both = CellMap([line], strong=line, point=(0.0, 0.05), width=60)

    assert 20 <= sum(row.count(1) for row in weak.pixels) <= 40
    assert [row.count(1) for row in both.pixels] == [0] * both.height
    assert sum(row.count(2) for row in both.pixels) == 55
    assert sum(row.count(3) for row in both.pixels) >= 5


def test_a_node_that_other_commands_ask_is_not_asked() -> None:
    fake = FakeNode(lists_cell=True)
    with serving_from_a_thread(fake) as url:
        words = ["privacy", "explain", *SEATTLE]
        result = CliRunner().invoke(program, words, env={"EDGISTRY_NODE": url})
    assert (result.exit_code, fake.queries) == (0, [])
    assert "listed" not in result.output
