"""``edgistry discover``, ``region list`` and ``status``: output, exit codes, help."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from client.cli import program
from client.identity import read_identity
from client.params import DURATION
from edgistry.api import CellArea, DiscoverQuery, NearArea, PolygonArea
from edgistry.errors import MalformedError
from edgistry.wording import refusal_text, visible
from tests.fake_node import BLOCK_TIME, HEIGHT, FakeNode, entry, serving_from_a_thread

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from client.cli import main; main()"]


@pytest.fixture
def fake() -> FakeNode:
    return FakeNode()


@pytest.fixture
def node(fake: FakeNode) -> Iterator[str]:
    with serving_from_a_thread(fake) as url:
        yield url


def edgistry(node: str, *arguments: str) -> Result:
    return CliRunner().invoke(program, arguments, env={"EDGISTRY_NODE": node})


def process(node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program as a shell would run it."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=ROOT,
        env={**os.environ, "EDGISTRY_NODE": node},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- results ----------------------------------------------------------------------------------


def test_discover_json_has_exactly_the_documented_shape(node: str) -> None:
    result = process(node, "discover", "--region", "bay", "--type", "valve", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout) == {
        "height": HEIGHT,
        "block_time": BLOCK_TIME,
        "services": [
            {
                "handle": entry(3).handle,
                "type": "valve",
                "cell": "87283082effffff",
                "resolution": 7,
                "center": [37.77, -122.42],
                "accuracy_m": 1406,
                "actions": ["read"],
                "state": "open",
                "wake": "15m",
            }
        ],
        "next": None,
        "counts": [],
        "epoch": 0,
        "epoch_ends": None,
    }
    assert result.stderr == ""


def test_discover_prints_plain_columns_when_nobody_looks(node: str) -> None:
    result = edgistry(node, "discover", "--region", "bay")
    lines = result.stdout.splitlines()
    assert lines[0].split("\t")[:3] == ["handle", "type", "cell"]
    assert lines[1] == (
        f"{entry(1).handle[:16]}\tthermometer\t87283082effffff\t37.77000,-122.42000\t1406 m"
        "\tread\topen\t15m"
    )
    assert len(lines) == 4


def test_discover_draws_a_table_on_a_terminal(node: str) -> None:
    text = on_a_terminal([*PROGRAM, "discover", "--region", "bay"], node)
    assert "3 services at height 7" in text
    assert "│" in text or "┃" in text
    assert entry(1).handle[:16] in text


def on_a_terminal(command: list[str], node: str) -> str:
    """What ``command`` writes when its standard output is a terminal."""
    ours, theirs = pty.openpty()
    chunks: list[bytes] = []

    def drain() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:
                # Linux reports the closed other end this way.
                return
            if not data:
                return
            chunks.append(data)

    environment = {**os.environ, "EDGISTRY_NODE": node, "COLUMNS": "160", "TERM": "dumb"}
    reader = threading.Thread(target=drain)
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs) as running:
        os.close(theirs)
        reader.start()
        assert running.wait(60) == 0
    reader.join(10)
    os.close(ours)
    return b"".join(chunks).decode()


def test_discover_asks_as_the_user_and_browsing_as_nobody(node: str, fake: FakeNode) -> None:
    edgistry(node, "discover", "--region", "bay")
    edgistry(node, "watch", "--region", "bay", "--count", "1")
    result = edgistry(node, "discover", "--region", "bay", "--browse")
    mine = {each.tag for each in fake.clients if each is not None}
    assert mine == {read_identity().tag}
    assert fake.clients[-1] is None
    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        ["type", "cell", "center", "services", "owners"],
        ["thermometer", "87283082effffff", "37.77000,-122.42000", "2", "1"],
        ["valve", "87283082effffff", "37.77000,-122.42000", "1", "1"],
    ]


def test_beginning_of_a_handle_that_was_shown_is_taken_by_commands(node: str) -> None:
    edgistry(node, "discover", "--region", "bay")
    beginning = entry(1).handle[:16]
    result = edgistry(node, "call", beginning, "read")
    assert f"edgistry grant request {beginning}" in result.stderr
    unknown = edgistry(node, "call", entry(9).handle[:16], "read")
    assert (unknown.exit_code, "[unknown-handle]" in unknown.stderr) == (1, True)


def test_more_results_are_announced_with_their_cursor(node: str) -> None:
    result = edgistry(node, "discover", "--region", "bay", "--limit", "2")
    assert "--cursor 2" in result.stderr
    rest = edgistry(node, "discover", "--region", "bay", "--limit", "2", "--cursor", "2", "--json")
    assert len(json.loads(rest.stdout)["services"]) == 1


def test_empty_area_is_said_to_be_empty(node: str) -> None:
    result = edgistry(node, "discover", "--cell", "87283082effffff")
    assert result.exit_code == 0
    assert "No services found at height 7" in result.stderr


def test_every_area_reaches_the_node(node: str, fake: FakeNode, tmp_path: Path) -> None:
    shape = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    file = tmp_path / "area.geojson"
    file.write_text(json.dumps(shape))
    commands = (
        ["--near", "37.5,-122.25", "--radius-km", "20"],
        ["--near", "-37.5,122.25", "--radius-km", "0.5"],
        ["--cell", "87283082EFFFFFF"],
        ["--polygon", str(file), "--type", "valve", "--limit", "5", "--min-height", "3"],
    )
    for command in commands:
        assert edgistry(node, "discover", *command).exit_code == 0
    assert fake.queries == [
        DiscoverQuery(area=NearArea(latitude=37.5, longitude=-122.25, radius_km=20.0)),
        DiscoverQuery(area=NearArea(latitude=-37.5, longitude=122.25, radius_km=0.5)),
        DiscoverQuery(area=CellArea(cell="87283082effffff")),
        DiscoverQuery(area=PolygonArea(geojson=shape), type="valve", limit=5, min_height=3),
    ]


def test_region_list_names_every_region(node: str) -> None:
    assert edgistry(node, "region", "list").stdout.splitlines() == [
        "name\tversion\tcells",
        "bay\t2\t31",
    ]
    assert json.loads(edgistry(node, "region", "list", "--json").stdout) == {
        "height": HEIGHT,
        "block_time": BLOCK_TIME,
        "regions": [{"name": "bay", "version": 2, "cells": 31}],
    }


def test_status_says_what_the_node_says(node: str, fake: FakeNode) -> None:
    facts = dict(line.split("\t") for line in edgistry(node, "status").stdout.splitlines())
    assert facts["height"] == f"7, {BLOCK_TIME}"
    assert (facts["reads"], facts["writes"], facts["peers"]) == ("yes", "yes", "3")
    found = json.loads(edgistry(node, "status", "--json").stdout)
    assert (found["node"], found["engine"], found["ready"]) == ("node0", "cometbft", True)


def test_status_of_a_node_that_is_not_ready_says_why(node: str, fake: FakeNode) -> None:
    fake.is_ready = False
    result = edgistry(node, "status")
    assert result.exit_code == 0
    assert "the registry is being rebuilt" in result.stdout


def test_node_option_is_stronger_than_the_environment(node: str) -> None:
    result = edgistry("http://127.0.0.1:1", "status", "--node", node)
    assert result.exit_code == 0


# --- refusals and exit codes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--region", "atlantis"], "no region 'atlantis'"),
        (["--region", "Not A Region"], "no region 'Not A Region'"),
        (["--region", "everything"], "at most 5000"),
        (["--region", "broken"], "internal"),
        (["--region", "bay", "--limit", "1001"], "at most 1000"),
        (["--near", "1,1", "--radius-km", "501"], "radius-km 501: at most 500"),
    ],
)
def test_refused_is_exit_code_1_with_a_hint(node: str, arguments: list[str], says: str) -> None:
    result = edgistry(node, "discover", *arguments)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "\nhint: " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["discover"],
        ["discover", "--region", "bay", "--cell", "87283082effffff"],
        ["discover", "--region", "bay", "--radius-km", "3"],
        ["discover", "--near", "1,1"],
        ["discover", "--near", "here", "--radius-km", "3"],
        ["discover", "--near", "91,0", "--radius-km", "3"],
        ["discover", "--near", "nan,0", "--radius-km", "3"],
        ["discover", "--near", "1,1", "--radius-km", "nan"],
        ["discover", "--near", "1,1", "--radius-km", "-3"],
        ["discover", "--cell", "xyz"],
        ["discover", "--region", "bay", "--limit", "0"],
        ["discover", "--region", "bay", "--limit", "many"],
        ["discover", "--region", "bay", "--min-height", "-1"],
        ["discover", "--polygon", "/nowhere/none.geojson"],
        ["discover", "--region", "bay", "--timeout", "soon"],
        ["discover", "--region", "bay", "--timeout", "0"],
        ["discover", "--colour", "red"],
        ["region"],
        ["nonsense"],
    ],
)
def test_usage_error_is_exit_code_2(node: str, arguments: list[str], fake: FakeNode) -> None:
    result = edgistry(node, *arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert fake.queries == []


def test_polygon_that_is_no_json_object_is_refused(node: str, tmp_path: Path) -> None:
    file = tmp_path / "area.geojson"
    for text in ("", "[]", "{", "\0\0"):
        file.write_text(text)
        result = edgistry(node, "discover", "--polygon", str(file))
        assert result.exit_code == 1
        assert "area.geojson" in result.stderr


def test_polygon_over_a_megabyte_is_refused(node: str, tmp_path: Path) -> None:
    file = tmp_path / "area.geojson"
    file.write_text('{"a":"' + "x" * 1_000_000 + '"}')
    assert edgistry(node, "discover", "--polygon", str(file)).exit_code == 1


def test_unreachable_node_is_exit_code_3() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = process(f"http://127.0.0.1:{unused.getsockname()[1]}", "status")
    assert result.returncode == 3
    assert "Connection refused" in result.stderr
    assert "hint: Check that the node runs" in result.stderr


def test_silent_node_is_exit_code_4() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = process(url, "status", "--timeout", "200ms")
    assert result.returncode == 4
    assert "within 0.2 s" in result.stderr


def test_height_not_reached_is_exit_code_4(node: str) -> None:
    result = edgistry(node, "discover", "--region", "bay", "--min-height", "99")
    assert result.exit_code == 4
    assert "height 99" in result.stderr


def test_address_that_is_none_is_refused() -> None:
    result = edgistry("localhost:27000", "status")
    assert result.exit_code == 1
    assert "such as http://127.0.0.1:27000; it begins with http://" in result.stderr


# --- what a person reads ----------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["discover"], ["region"], ["region", "list"], ["status"]])
def test_help_explains_every_option(command: list[str]) -> None:
    result = CliRunner().invoke(program, [*command, "--help"])
    assert result.exit_code == 0
    found: Any = program
    for name in command:
        found = found.commands[name]
    for parameter in found.params:
        assert parameter.help, parameter.name
        assert parameter.opts[0] in result.output
    if command in (["discover"], ["region", "list"], ["status"]):
        words = " ".join(result.output.split())
        assert words.count("[env var: EDGISTRY_") == len(found.params)


def test_option_can_come_from_the_environment(node: str, fake: FakeNode) -> None:
    environment = {"EDGISTRY_NODE": node, "EDGISTRY_DISCOVER_TYPE": "valve"}
    result = CliRunner().invoke(program, ["discover", "--region", "bay"], env=environment)
    assert result.exit_code == 0
    assert [each.type for each in fake.queries] == ["valve"]


def test_help_lists_the_exit_codes() -> None:
    text = CliRunner().invoke(program, ["--help"]).output
    assert "0 ok, 1 refused, 2 usage, 3 cannot reach the node, 4 timed out" in text


def test_refusal_is_worded_with_its_code_and_what_to_do() -> None:
    assert refusal_text(MalformedError("seven is not\x1b[31m a number")) == (
        f"error: seven is not\\x1b[31m a number [malformed]\nhint: {MalformedError.help}"
    )


def test_control_characters_of_a_node_do_not_reach_the_terminal(fake: FakeNode) -> None:
    fake.services = [entry(1, "\x1b]0;\nowned\x07")]
    with serving_from_a_thread(fake) as url:
        result = edgistry(url, "discover", "--region", "bay")
    assert "\x1b" not in result.output
    assert "\\x1b]0;\\nowned\\x07" in result.stdout


def test_json_on_a_terminal_says_the_same_and_steers_nothing(fake: FakeNode) -> None:
    steering = "\x9b31mred\x7f \u202eback\u2066"
    fake.services = [entry(1, steering)]
    with serving_from_a_thread(fake) as url:
        result = edgistry(url, "discover", "--region", "bay", "--json")
    assert not set(result.stdout) & set("\x9b\x7f\u202e\u2066")
    assert json.loads(result.stdout)["services"][0]["type"] == steering


def test_unpaired_surrogates_can_be_shown() -> None:
    assert visible("a\ud800b").encode() == b"a\\ud800b"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("250ms", 0.25), ("5m", 300), ("2h", 7200)]
)
def test_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


# --- watch --------------------------------------------------------------------------------------


def test_watch_shows_what_is_there_and_ends_after_count(node: str, fake: FakeNode) -> None:
    result = edgistry(node, "watch", "--region", "bay", "--type", "thermometer", "--count", "2")
    assert result.exit_code == 0
    rows = [line.split("\t")[:4] for line in result.stdout.splitlines()]
    assert rows == [
        [str(HEIGHT), "appeared", entry(number).handle[:16], "thermometer"] for number in (1, 2)
    ]


def test_watch_prints_one_object_a_line_for_programs(node: str) -> None:
    result = edgistry(node, "watch", "--region", "bay", "--json", "-n", "3")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["change"] for each in told] == ["appeared"] * 3
    assert told[2]["service"]["type"] == "valve"


def test_watch_without_an_area_is_a_usage_error(node: str) -> None:
    assert edgistry(node, "watch").exit_code == 2
    assert edgistry(node, "watch", "--region", "bay", "--since", "-1").exit_code == 2
