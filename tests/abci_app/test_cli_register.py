"""``edgistry-node device | fleet | region`` against a real solo node in a thread."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from abci_app.cli import program
from abci_app.initialize import init_node
from edgistry.api import DiscoverAnswer
from edgistry.errors import UnavailableError

from .node_thread import LIMIT_S, NodeThread

SQUARE = {
    "type": "Polygon",
    "coordinates": [[[7.9, 45.9], [8.1, 45.9], [8.1, 46.1], [7.9, 46.1], [7.9, 45.9]]],
}


@pytest.fixture(scope="module")
def started() -> Iterator[NodeThread]:
    with NodeThread.started() as node:
        yield node


@pytest.fixture
def held(started: NodeThread) -> Iterator[NodeThread]:
    """The node, its outbox unable to reach the engine."""

    async def refuse(transaction: bytes) -> None:
        raise UnavailableError("held")

    outbox = started.node.service.outbox
    sink = started.node.engine
    original = sink.submit
    started.do(lambda: setattr(sink, "submit", refuse))
    yield started
    started.do(lambda: setattr(sink, "submit", original))
    assert started.ask(outbox.wait_until(outbox.settled_through + outbox.pending, LIMIT_S))


def run(node: NodeThread, *words: str, wait: bool = True) -> Result:
    waits = wait and words[1] in ("register", "import", "put", "withdraw")
    return node.invoke(*words, *(("--wait", "30s") if waits else ()))


def run_json(node: NodeThread, *words: str, code: int = 0, wait: bool = True) -> Any:
    result = run(node, *words, "--json", wait=wait)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def near(node: NodeThread, lat: float, lon: float) -> DiscoverAnswer:
    return node.ask(node.node.near(lat, lon))


def csv_file(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "fleet.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


# --- device -------------------------------------------------------------------------------------


def test_registered_device_can_be_discovered_under_its_handle(started: NodeThread) -> None:
    words = ("device", "register", "--type", "valve", "--lat", "10.5", "--lon", "-20.25")
    answer = run_json(started, *words)
    assert set(answer) == {
        "added", "updated", "unchanged", "rejected", "tentative", "height", "handle",
    }  # fmt: skip
    assert (answer["added"], answer["tentative"], answer["rejected"]) == (1, 0, [])
    [found] = near(started, 10.5, -20.25).services
    assert found.handle == started.node.handle(answer["handle"])
    assert (found.type, found.actions) == ("valve", ("read",))
    assert near(started, 10.5, -20.25).height >= answer["height"]
    again = run_json(started, *words)
    assert (again["added"], again["unchanged"], again["handle"]) == (0, 1, answer["handle"])


def test_actions_and_resolution_are_taken(started: NodeThread) -> None:
    run_json(
        started, "device", "register", "--type", "valve", "--lat", "12", "--lon", "12",
        "--resolution", "6", "--action", "open", "--action", "close",
    )  # fmt: skip
    [found] = near(started, 12, 12).services
    assert (found.actions, found.resolution) == (("close", "open"), 6)


def test_policy_and_owner_are_taken_and_a_second_run_changes_nothing(started: NodeThread) -> None:
    words = (
        "device", "register", "--type", "valve", "--lat", "13", "--lon", "13", "--name", "fuzzy",
        "--noise", "3000", "--crowd", "1", "--owner", "AB" * 32,
    )  # fmt: skip
    handle = run_json(started, *words)["handle"]
    assert run_json(started, *words)["unchanged"] == 1
    [entry] = [
        each for each in run_json(started, "device", "list")["devices"] if each["handle"] == handle
    ]
    assert (entry["noise_m"], entry["crowd"], entry["moved"]) == (3000, 1, False)


@pytest.mark.parametrize("words", [("--noise", "20001"), ("--crowd", "0"), ("--noise", "-1")])
def test_a_policy_that_is_none_exits_2(started: NodeThread, words: tuple[str, str]) -> None:
    base = ("device", "register", "--type", "valve", "--lat", "1", "--lon", "1")
    assert run(started, *base, *words, wait=False).exit_code == 2


def test_an_owner_that_is_no_key_is_rejected(started: NodeThread) -> None:
    base = ("device", "register", "--type", "valve", "--lat", "1", "--lon", "1")
    answer = run_json(started, *base, "--owner", "me", code=1)
    assert "64 hexadecimal digits" in answer["rejected"][0]["reason"]


def test_rejected_device_exits_1_and_says_why(started: NodeThread) -> None:
    words = ("device", "register", "--type", "valve", "--lat", "99", "--lon", "0")
    answer = run_json(started, *words, code=1)
    assert (answer["added"], answer["handle"]) == (0, "")
    assert "lat 99.0" in answer["rejected"][0]["reason"]
    plain = run(started, *words)
    assert plain.exit_code == 1
    assert "lat 99.0" in plain.stderr


@pytest.mark.parametrize("text", ["nan", "inf", "-1e999"])
def test_not_a_number_is_no_position(started: NodeThread, text: str) -> None:
    words = ("device", "register", "--type", "valve", "--lat", text, "--lon", "0")
    answer = run_json(started, *words, code=1)
    assert f"lat {float(text)} is not between" in answer["rejected"][0]["reason"]
    assert answer["height"] > 0


@pytest.mark.parametrize("words", [("--lat", "x"), ("--resolution", "8"), ("--wait", "soon")])
def test_unusable_options_exit_2(started: NodeThread, words: tuple[str, str]) -> None:
    base = ("device", "register", "--type", "valve", "--lat", "1", "--lon", "1")
    assert run(started, *base, *words, wait=False).exit_code == 2


def test_person_sees_one_line(started: NodeThread) -> None:
    result = run(started, "device", "register", "--type", "valve", "--lat", "13", "--lon", "13")
    assert result.exit_code == 0
    assert result.stdout.startswith("added: ")
    assert result.stdout.count("\n") == 1


def test_tentative_registration_exits_0_and_is_published_later(held: NodeThread) -> None:
    answer = run_json(
        held, "device", "register", "--type", "valve", "--lat", "14", "--lon", "14",
        "--wait", "0s", wait=False,
    )  # fmt: skip
    assert (answer["added"], answer["tentative"]) == (1, 1)
    assert answer["handle"]
    assert near(held, 14, 14).services == ()


def test_devices_are_listed_and_withdrawn(started: NodeThread) -> None:
    added = run_json(
        started, "device", "register", "--type", "valve", "--lat", "15", "--lon", "15",
        "--name", "garden tap",
    )  # fmt: skip
    devices = run_json(started, "device", "list")["devices"]
    [mine] = [each for each in devices if each["handle"] == added["handle"]]
    assert (mine["name"], mine["lat"], mine["state"]) == ("garden tap", 15.0, "published")
    assert "garden tap" in run(started, "device", "list").stdout
    gone = run_json(started, "device", "withdraw", added["handle"])
    assert (gone["withdrawn"], gone["tentative"]) == (1, 0)
    assert near(started, 15, 15).services == ()
    assert run(started, "device", "withdraw", added["handle"]).exit_code == 1


def test_devices_over_the_limits_of_node_toml_are_listed_alone(started: NodeThread) -> None:
    finer, coarser = (
        run_json(
            started, "device", "register", "--type", "valve", "--lat", "25", "--lon", "15",
            "--name", f"tap {resolution}", "--resolution", resolution,
        )["handle"]
        for resolution in ("7", "6")
    )  # fmt: skip
    settings = started.layout.config_file
    before = settings.read_text()
    settings.write_text(before.replace("finest_resolution = 7", "finest_resolution = 6"))
    try:
        found = run_json(started, "device", "list", "--over-limits")["devices"]
        handles = {each["handle"] for each in found}
        assert finer in handles
        assert coarser not in handles
        assert {each["resolution"] for each in found} == {7}
        assert coarser not in run(started, "device", "list", "--over-limits").stdout
    finally:
        settings.write_text(before)
    assert run_json(started, "device", "list", "--over-limits")["devices"] == []
    run_json(started, "device", "withdraw", finer, coarser)


def test_more_devices_than_one_transaction_takes_are_not_withdrawn(started: NodeThread) -> None:
    handles = [base64.urlsafe_b64encode(n.to_bytes(16, "big")).decode()[:22] for n in range(513)]
    result = run(started, "device", "withdraw", *handles)
    assert result.exit_code == 2
    assert "513 handles; 512" in result.stderr
    # The same one again and again is one.
    assert run(started, "device", "withdraw", *handles[:1] * 513).exit_code == 1


# --- fleet --------------------------------------------------------------------------------------


def test_import_adds_lists_bad_rows_and_changes_nothing_the_second_time(
    started: NodeThread, tmp_path: Path
) -> None:
    file = csv_file(
        tmp_path,
        "name,lat,lon,elevation",
        *(f"station {n},{-30 + n / 500},{n % 90},5" for n in range(1200)),
        "station 0,-30.0,0,5",
        "bad,91,0,5",
        '"unclosed,1,2,5',
    )
    first = run_json(started, "fleet", "import", "--csv", file, "--type", "station")
    assert set(first) == {"added", "updated", "unchanged", "rejected", "tentative", "height"}
    assert (first["added"], first["unchanged"], first["tentative"]) == (1200, 1, 0)
    assert [each["line"] for each in first["rejected"]] == [1203, 1204]
    assert set(first["rejected"][0]) == {"line", "reason"}
    second = run_json(started, "fleet", "import", "--csv", file, "--type", "station")
    assert (second["added"], second["updated"], second["unchanged"]) == (0, 0, 1201)
    assert len(second["rejected"]) == 2


def test_changed_row_with_an_id_is_updated(started: NodeThread, tmp_path: Path) -> None:
    header = "id,name,lat,lon,type,actions"
    file = csv_file(tmp_path, header, "dev-1,a,20,20,valve,read")
    assert run_json(started, "fleet", "import", "--csv", file)["added"] == 1
    file = csv_file(tmp_path, header, "dev-1,a,21,21,valve,read;open")
    answer = run_json(started, "fleet", "import", "--csv", file)
    assert (answer["added"], answer["updated"]) == (0, 1)
    [service] = near(started, 20, 20).services
    assert service.actions == ("open", "read"), "where it is published moves with an epoch"
    assert near(started, 21, 21).services == ()


def test_file_that_contradicts_itself_changes_nothing_the_second_time(
    started: NodeThread, tmp_path: Path
) -> None:
    header = "id,name,lat,lon,type"
    file = csv_file(tmp_path, header, "twin,a,25,25,valve", "twin,a,25,25,camera")
    for expected in ((1, 0, 0), (0, 0, 1)):
        answer = run_json(started, "fleet", "import", "--csv", file)
        assert (answer["added"], answer["updated"], answer["unchanged"]) == expected
        [rejected] = answer["rejected"]
        assert rejected["line"] == 3
        assert "line 2" in rejected["reason"]


def test_person_sees_counts_bad_rows_and_ignored_columns(
    started: NodeThread, tmp_path: Path
) -> None:
    file = csv_file(tmp_path, "name,lat,lon,colour", "a,22,22,red", "b,x,22,red")
    result = run(started, "fleet", "import", "--csv", file, "--type", "station")
    assert result.exit_code == 0
    assert result.stdout.startswith("added 1, updated 0, unchanged 0, rejected 1 (height ")
    assert "line 3: lat 'x' is not a number" in result.stdout
    assert "ignored columns: colour" in result.stderr


def test_file_with_only_bad_rows_exits_1(started: NodeThread, tmp_path: Path) -> None:
    file = csv_file(tmp_path, "name,lat,lon", "a,91,0")
    answer = run_json(started, "fleet", "import", "--csv", file, "--type", "t", code=1)
    assert (answer["added"], len(answer["rejected"])) == (0, 1)
    assert answer["height"] > 0


def test_file_without_a_header_is_refused(started: NodeThread, tmp_path: Path) -> None:
    result = run(started, "fleet", "import", "--csv", csv_file(tmp_path, "a,1,2"))
    assert result.exit_code == 1
    assert "missing column(s)" in result.stderr


def test_missing_file_is_a_usage_error(started: NodeThread, tmp_path: Path) -> None:
    assert run(started, "fleet", "import", "--csv", str(tmp_path / "no")).exit_code == 2


def test_tentative_import_exits_0(held: NodeThread, tmp_path: Path) -> None:
    file = csv_file(tmp_path, "name,lat,lon", "a,23,23", "b,23.5,23")
    words = ("fleet", "import", "--csv", file, "--type", "t", "--wait", "0s")
    answer = run_json(held, *words, wait=False)
    assert (answer["added"], answer["tentative"]) == (2, 2)
    again = run_json(held, *words, wait=False)
    assert (again["unchanged"], again["tentative"]) == (2, 2)


# --- region -------------------------------------------------------------------------------------


def test_region_is_put_once_listed_and_shown(started: NodeThread, tmp_path: Path) -> None:
    file = tmp_path / "alp.geojson"
    file.write_text(json.dumps(SQUARE))
    words = ("region", "put", "--name", "alp", "--geojson", str(file))
    first = run_json(started, *words)
    assert (first["version"], first["changed"], first["tentative"]) == (1, True, False)
    assert run_json(started, *words)["changed"] is False
    assert "unchanged, version 1" in run(started, *words).stdout
    [entry] = run_json(started, "region", "list")["regions"]
    assert entry == {"name": "alp", "version": 1, "cells": first["cells"]}
    shown = run_json(started, "region", "show", "--name", "alp")
    assert len(shown["cells"]) == first["cells"]
    assert "alp" in run(started, "region", "list").stdout


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"{", 1), (b"[]", 1), (b"\xff", 1), (b'{"type":"Point","coordinates":[1,2]}', 1)],
)
def test_bad_geojson_exits_1(
    started: NodeThread, tmp_path: Path, content: bytes, code: int
) -> None:
    file = tmp_path / "bad.geojson"
    file.write_bytes(content)
    result = run(started, "region", "put", "--name", "bad", "--geojson", str(file))
    assert result.exit_code == code
    assert "error:" in result.stderr


def test_huge_geojson_is_refused_without_being_read(started: NodeThread, tmp_path: Path) -> None:
    file = tmp_path / "huge.geojson"
    with file.open("wb") as stream:
        stream.truncate(50_000_000)
    result = run(started, "region", "put", "--name", "huge", "--geojson", str(file))
    assert result.exit_code == 1
    assert "too-large" in result.stderr


def test_unknown_region_exits_1(started: NodeThread) -> None:
    result = run(started, "region", "show", "--name", "nowhere")
    assert result.exit_code == 1
    assert "unknown-region" in result.stderr


# --- reaching the node --------------------------------------------------------------------------


def test_node_that_does_not_run_exits_3_and_says_how_to_start_it() -> None:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as directory:
        root = Path(directory) / "node"
        init_node(root, name="n", engine="solo", base_port=27000, chain_id="x")
        result = CliRunner().invoke(program, ["device", "list", str(root)])
    assert result.exit_code == 3
    assert "edgistry-node run" in result.stderr


def test_directory_without_a_node_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(program, ["device", "list", str(tmp_path)])
    assert result.exit_code == 1
    assert "edgistry-node init" in result.stderr
