"""The command line of a device's owner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from device_agent.account import AccountBook
from device_agent.cli import program
from device_agent.directory import AgentDirectory, hold, open_directory
from device_agent.energy import Spending
from device_agent.tally import Wake

NOW_US = 1_772_366_400_000_000


def run(*arguments: object) -> Result:
    return CliRunner().invoke(program, [str(each) for each in arguments])


@pytest.fixture
def device(tmp_path: Path) -> Path:
    root = tmp_path / "device"
    result = run("init", root, "--lat", 47.6, "--lon", -122.3, "--type", "thermometer")
    assert result.exit_code == 0, result.output
    return root


def note_wakes(root: Path, count: int, *, exchanges: int = 1, asleep_s: float = 599.75) -> None:
    book = AccountBook(AgentDirectory(root).account_file, board="esp32", now_us=NOW_US)
    for _ in range(count):
        wake = Wake(
            spending=Spending(wakes=1, awake_s=0.25, asleep_s=asleep_s, sent=200, received=300),
            exchanges=exchanges,
            failures=0,
            requests=2,
            next_wake_s=600.0,
        )
        book.note(wake, now_us=NOW_US)


def test_init_makes_a_device_and_says_how_to_go_on(tmp_path: Path) -> None:
    result = run("init", tmp_path / "device", "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["device"] == (tmp_path / "device" / "device.id").read_text("ascii").strip()


def test_init_without_a_position_says_where_to_put_it(tmp_path: Path) -> None:
    assert "manifest.toml" in run("init", tmp_path / "device").output


def test_init_leaves_what_is_there_alone(device: Path) -> None:
    result = run("init", device)
    assert result.exit_code == 1
    assert "[directory" in result.output


@pytest.mark.parametrize(
    "arguments", [("--lat", "91"), ("--period", "-1"), ("--lon", "x"), ("--type",)]
)
def test_init_with_values_that_cannot_be_is_a_usage_error(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert run("init", tmp_path / "device", *arguments).exit_code == 2


@pytest.mark.parametrize("position", [("--lat", 1, "--lon", 1), ("--lat", 1), ()])
def test_init_with_a_type_that_cannot_be_makes_nothing(
    tmp_path: Path, position: tuple[object, ...]
) -> None:
    result = run("init", tmp_path / "device", *position, "--type", "Has Blanks")
    assert result.exit_code == 2
    assert not (tmp_path / "device").exists()


def test_init_with_a_period_that_devices_have_not_in_common_makes_nothing(tmp_path: Path) -> None:
    result = run("init", tmp_path / "device", "--period", 61)
    assert result.exit_code == 2
    assert "take 60 s or 300 s" in result.output
    assert not (tmp_path / "device").exists()


def test_init_with_any_period_keeps_it(tmp_path: Path) -> None:
    result = run("init", tmp_path / "device", "--period", 61, "--any-period")
    assert result.exit_code == 0, result.output
    _, config = open_directory(tmp_path / "device")
    assert (config.cycle.period_s, config.cycle.any_period) == (61, True)


@pytest.mark.parametrize(
    ("more", "said"), [((), "take 0 (always"), (("--any-period",), "as many codes")]
)
def test_fleet_has_the_same_periods(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    (tmp_path / "codes").write_text("")
    words = ("--node", "http://127.0.0.1:1", "--codes", tmp_path / "codes", "--period", 5)
    result = run("fleet", "run", *words, *more)
    assert result.exit_code == (1 if more else 2)
    assert said in result.output


def test_device_that_is_not_paired_does_not_run(device: Path) -> None:
    result = run("run", device)
    assert result.exit_code == 1
    assert "[not-paired]" in result.output


def test_device_does_not_run_twice(device: Path) -> None:
    with hold(AgentDirectory(device)):
        result = run("run", device)
    assert result.exit_code == 1
    assert "in use" in result.output


def test_status_tells_the_device_its_nodes_and_its_last_wake(device: Path) -> None:
    assert "does not run" in run("status", device).output
    note_wakes(device, 2)
    answer = json.loads(run("status", device, "--json").stdout)
    assert answer["nodes"] == []
    assert answer["last_wake"]["requests"] == 2
    assert "2 requests" in run("status", device).output


def test_status_says_when_no_node_answered(device: Path) -> None:
    note_wakes(device, 1, exchanges=0)
    assert "no node answered" in run("status", device).output


def test_energy_shows_wakes_and_what_a_day_would_take(device: Path) -> None:
    note_wakes(device, 12)
    output = run("energy", device, "--limit", 3).output
    assert output.count("2026-03-01T12:00:00Z") == 3 + 1
    assert "12 wakes" in output
    assert "J a day (estimate, board esp32)" in output


@pytest.mark.parametrize("wakes", [1, 5, 9])
def test_energy_shows_all_wakes_while_they_are_fewer_than_it_may_show(
    device: Path, wakes: int
) -> None:
    note_wakes(device, wakes)
    output = run("energy", device, "--limit", 10).output
    assert output.count("2026-03-01T12:00:00Z") == wakes + 1


def test_energy_of_the_first_wake_counts_the_sleep_that_follows_it(device: Path) -> None:
    note_wakes(device, 1, asleep_s=0.0)
    once = run("energy", device).output
    assert "awake 0.042% of the time; about 26.0 J a day" in once


def test_energy_for_programs_is_the_whole_account(device: Path) -> None:
    note_wakes(device, 2)
    account = json.loads(run("energy", device, "--json").stdout)
    assert account["totals"]["wakes"] == 2


def test_energy_of_a_device_that_never_ran_is_not_there(device: Path) -> None:
    result = run("energy", device)
    assert result.exit_code == 1
    assert "no account yet" in result.output
    assert f"edgistry-agent run {device}" in result.output


def test_a_damaged_account_hides_no_other_part_of_the_status(device: Path) -> None:
    (device / "data" / "account.json").write_text('{"since":')
    result = run("status", device)
    assert result.exit_code == 0
    assert "not paired with a node" in result.output
    assert "the agent begins it anew" in result.output


def test_command_on_a_directory_that_is_no_device_says_so(tmp_path: Path) -> None:
    for command in ("run", "status", "energy"):
        result = run(command, tmp_path)
        assert result.exit_code == 1
        assert "edgistry-agent init" in result.output
