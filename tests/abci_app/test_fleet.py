"""CSV files of devices: what is a row, what is a bad row, what is refused as a whole."""

from __future__ import annotations

import csv
import io
import itertools
import math
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.admin_api import DeviceRow
from abci_app.fleet import (
    DEFAULT_ACTIONS,
    MAX_LINE_BYTES,
    BadRow,
    FleetFile,
    LineNumber,
    check_device,
    split_lines,
)
from edgistry.errors import MalformedError, Refused


def read(text: str | bytes, default_type: str | None = "station") -> list[DeviceRow | BadRow]:
    data = text.encode() if isinstance(text, str) else text
    return list(FleetFile([data], default_type=default_type))


def one(fields: str, header: str = "name,lat,lon") -> DeviceRow | BadRow:
    [row] = read(f"{header}\n{fields}\n")
    return row


def reason(fields: str, header: str = "name,lat,lon") -> str:
    row = one(fields, header)
    assert isinstance(row, BadRow)
    assert row.line == 2
    return row.reason


def test_row_carries_every_column_in_any_order_of_the_header() -> None:
    row = one(
        'read;write,"Hut, upper",46.5,8.25,ab-1,thermometer', "Actions,NAME, lat ,lon,id,type"
    )
    assert row == DeviceRow(
        line=2,
        id="ab-1",
        name="Hut, upper",
        lat=46.5,
        lon=8.25,
        type="thermometer",
        actions=("read", "write"),
    )


def test_a_row_may_have_a_policy_and_an_owner() -> None:
    header = "name,lat,lon,resolution,noise_m,crowd,owner"
    row = one(f"a,1,2,6,500,3,{'AB' * 32}", header)
    assert isinstance(row, DeviceRow)
    assert (row.resolution, row.noise_m, row.crowd, row.owner) == (6, 500, 3, "ab" * 32)
    plain = one("a,1,2,,,,", header)
    assert isinstance(plain, DeviceRow)
    assert (plain.resolution, plain.noise_m, plain.crowd, plain.owner) == (7, 0, 1, "")


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("resolution", "8", "resolution 8"),
        ("resolution", "6.5", "not a whole number"),
        ("noise_m", "-1", "not a whole number"),
        ("noise_m", "20001", "noise_m 20001"),
        ("noise_m", "١٠٠", "not a whole number"),
        ("crowd", "0", "crowd 0"),
        ("crowd", "1001", "crowd 1001"),
        ("owner", "me", "64 hexadecimal digits"),
    ],
)
def test_a_policy_that_is_none_makes_a_bad_row(column: str, value: str, why: str) -> None:
    assert why in reason(f"a,1,2,{value}", f"name,lat,lon,{column}")


def test_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    rows = read("\ufeffname,lat,lon\r\nÅre,63.4,13.1\r\n")
    assert [row.name for row in rows if isinstance(row, DeviceRow)] == ["Åre"]


def test_row_without_its_own_type_gets_the_default() -> None:
    rows = read("name,lat,lon,type\na,1,2,\nb,1,2,valve\n")
    assert [row.type for row in rows if isinstance(row, DeviceRow)] == ["station", "valve"]


def test_row_without_any_type_is_bad() -> None:
    [row] = read("name,lat,lon,type\na,1,2,\n", None)
    assert isinstance(row, BadRow)
    assert "--type" in row.reason


def test_empty_id_means_no_id() -> None:
    row = one("a,1,2,", "name,lat,lon,id")
    assert isinstance(row, DeviceRow)
    assert row.id is None


def test_an_id_that_stands_for_a_paired_device_is_refused() -> None:
    header = "id,name,lat,lon"
    assert "is for paired devices" in reason(" paired:abc/valve,hut,1,2", header)
    assert isinstance(one("unpaired:abc,hut,1,2", header), DeviceRow)


def test_actions_are_sorted_unique_and_default_to_read() -> None:
    rows = read('name,lat,lon,actions\na,1,2,write read write\nb,1,2,\nc,1,2,"a,b|c"\n')
    assert [row.actions for row in rows if isinstance(row, DeviceRow)] == [
        ("read", "write"),
        DEFAULT_ACTIONS,
        ("a", "b", "c"),
    ]


def test_unknown_columns_are_ignored_and_named() -> None:
    fleet = FleetFile([b"name,city,lat,lon\na,x,1,2\n"], default_type="t")
    assert fleet.ignored == ("city",)
    assert len(list(fleet)) == 1


def test_blank_lines_count_as_lines_but_not_as_rows() -> None:
    rows = read("\n\nname,lat,lon\n\na,1,2\n  \nb,1\n")
    assert [row.line for row in rows] == [5, 7]
    assert isinstance(rows[1], BadRow)


def test_negative_zero_is_zero() -> None:
    row = one("a,-0.0,-0")
    assert isinstance(row, DeviceRow)
    assert (math.copysign(1, row.lat), math.copysign(1, row.lon)) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("a,1", "2 field(s) where the header has 3"),
        ("a,1,2,3", "4 field(s)"),
        (",1,2", "name is empty"),
        ("a,91,2", "lat 91.0 is not between"),
        ("a,1,-180.001", "lon -180.001 is not between"),
        ("a,nan,2", "lat 'nan' is not a number"),
        ("a,1,inf", "lon 'inf' is not a number"),
        ("a,1_0,2", "is not a number"),
        ("a,١,2", "is not a number"),
        ("a,,2", "lat '' is not a number"),
        ("a,1e999,2", "lat inf is not between"),
        ('"a,1,2', "does not end on its line"),
        ("a\x1b[2J,1,2", "control character"),
        ("a\0b,1,2", "control character"),
        ("x" * 201 + ",1,2", "201 characters"),
    ],
)
def test_bad_row_says_why(fields: str, expected: str) -> None:
    assert expected in reason(fields)


def test_bad_type_and_actions_say_why() -> None:
    assert "name 'No Such'" in reason("a,1,2,No Such", "name,lat,lon,type")
    assert "17 actions" in reason(
        "a,1,2," + " ".join(f"a{n}" for n in range(17)), "name,lat,lon,actions"
    )


def test_line_that_is_not_utf8_costs_only_itself() -> None:
    rows = read(b"name,lat,lon\na,1,2\n\xff\xfe,1,2\nb,1,2\n")
    assert [type(row) for row in rows] == [DeviceRow, BadRow, DeviceRow]
    assert rows[1] == BadRow(line=LineNumber(3), reason="not UTF-8 at byte 1")


def test_unclosed_quote_costs_only_its_line() -> None:
    rows = read('name,lat,lon\n"a,1,2\nb,1,2\n')
    assert [type(row) for row in rows] == [BadRow, DeviceRow]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"name,lat\n", "missing column(s) lon"),
        (b"name;lat;lon\n", "missing column(s) name, lat, lon"),
        (b"name,lat,lon,lat\n", "column lat twice"),
        (b"\xff\xfen\0a\0m\0e\0", "not UTF-8"),
        (b'name,lat,"lon\n', "not CSV"),
        (b"x" * (MAX_LINE_BYTES + 1), "longer than"),
    ],
)
def test_file_without_a_usable_header_is_refused(text: bytes, expected: str) -> None:
    with pytest.raises(MalformedError) as refusal:
        read(text)
    assert expected in refusal.value.detail


def test_file_without_types_is_refused_when_no_default_is_given() -> None:
    with pytest.raises(MalformedError, match="--type"):
        read("name,lat,lon\n", None)


def test_overlong_line_is_one_bad_row_and_is_not_kept_in_memory() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"name,lat,lon\n"
        for _ in range(800):
            yield b"x" * 65_536
        yield b"\nb,1,2\n"

    tracemalloc.start()
    rows = list(FleetFile(chunks(), default_type="t"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(row) for row in rows] == [BadRow, DeviceRow]
    assert peak < 2_000_000


@settings(deadline=None, max_examples=150)
@given(
    data=st.one_of(
        st.binary(max_size=400),
        st.binary(max_size=300).map(lambda tail: b"name,lat,lon,type,actions,id\n" + tail),
        st.text(alphabet='",;\n\r 0123456789.-+eEabnif\0\u00e9\ud7ff', max_size=200).map(
            lambda text: b"name,lat,lon\n" + text.encode()
        ),
    ),
    default_type=st.none() | st.just("t"),
)
def test_any_bytes_give_rows_or_a_refusal(data: bytes, default_type: str | None) -> None:
    try:
        rows = read(data, default_type)
    except MalformedError:
        return
    lines = [row.line for row in rows]
    assert lines == sorted(set(lines))
    for row in rows:
        if isinstance(row, DeviceRow):
            assert check_device(row) == row
        else:
            assert row.reason


@settings(deadline=None, max_examples=50)
@given(
    data=st.binary(max_size=200).map(lambda tail: tail + b"\nlast"),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_lines_do_not_depend_on_how_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[low:high] for low, high in itertools.pairwise(edges)]
    assert list(split_lines(pieces)) == list(split_lines([data]))
    assert [line for _, line in split_lines([data])] == [
        line.removesuffix(b"\r") for line in data.split(b"\n")
    ]


words = st.text(
    alphabet=st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")),
    min_size=1,
    max_size=20,
)


@settings(deadline=None, max_examples=50)
@given(
    devices=st.lists(
        st.tuples(words, st.floats(-90, 90), st.floats(-180, 180), words | st.just("")),
        max_size=8,
    )
)
def test_what_the_csv_module_writes_is_read_back(
    devices: list[tuple[str, float, float, str]],
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["name", "lat", "lon", "id"])
    writer.writerows(devices)
    rows = read(text.getvalue())
    assert [
        (row.name, row.lat, row.lon, row.id or "") for row in rows if isinstance(row, DeviceRow)
    ] == devices


@settings(deadline=None, max_examples=100)
@given(
    row=st.builds(
        DeviceRow,
        line=st.integers(),
        id=st.none() | st.text(),
        name=st.text(),
        lat=st.floats(),
        lon=st.floats(),
        type=st.text(),
        actions=st.lists(st.text(), max_size=20).map(tuple),
        resolution=st.integers(),
    )
)
def test_any_device_is_normal_or_refused(row: DeviceRow) -> None:
    try:
        checked = check_device(row)
    except Refused:
        return
    assert check_device(checked) == checked
