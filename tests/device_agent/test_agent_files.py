"""A device's directory, settings, manifest and account."""

from __future__ import annotations

import os
import re
import shutil
import stat
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.account import LAST_WAKES, AccountBook, read_account
from device_agent.config import AgentConfig, CycleConfig, HandlersConfig
from device_agent.device import _device
from device_agent.directory import (
    AgentDirectory,
    create,
    hold,
    open_directory,
    read_device_id,
    read_device_secret,
    read_epoch,
    read_manifest,
    running_pid,
    write_epoch,
)
from device_agent.energy import Spending
from device_agent.examples import HANDLERS, HANDLERS_MODULE, manifest_text
from device_agent.manifest import Action, Manifest, Privacy, Result, Service, Woof
from device_agent.periods import LISTED, PERIODS_S
from device_agent.rhythm import wake_key
from device_agent.tally import Wake
from edgistry.adapters import config as toml
from edgistry.adapters.faas_module import load_handlers
from edgistry.adapters.secret_files import write_secret
from edgistry.errors import ConfigError, DatabaseLockedError, DirectoryError, FileError
from edgistry.pairing import check_device_id, wake_bucket

from .agent_world import MadeUpNode

NOW_US = 1_772_366_400_000_000
MANIFEST = manifest_text(name="on the roof", type_name="thermometer", lat=47.6, lon=-122.3)
CONFIG = AgentConfig(handlers=HandlersConfig(module=HANDLERS_MODULE))


@pytest.fixture
def directory(tmp_path: Path) -> AgentDirectory:
    return create(tmp_path / "device", config=CONFIG, manifest=MANIFEST, handlers=HANDLERS)


# --- the directory ------------------------------------------------------------------------------


def test_new_device_has_a_secret_that_only_its_owner_can_read(directory: AgentDirectory) -> None:
    assert len(read_device_secret(directory)) == 32
    assert stat.S_IMODE(directory.secret_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("step", range(5))
def test_init_that_is_killed_leaves_no_half_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    root, written = tmp_path / "device", iter(range(5))

    def write(path: Path, data: bytes, *, force: bool) -> None:
        if next(written) == step:
            raise KeyboardInterrupt
        write_secret(path, data, force=force)

    with monkeypatch.context() as patch:
        patch.setattr("device_agent.directory.write_secret", write)
        with pytest.raises(KeyboardInterrupt):
            create(root, config=CONFIG, manifest=MANIFEST, handlers=HANDLERS)
    with pytest.raises(DirectoryError, match="is not a device"):
        open_directory(root)
    with pytest.raises(DirectoryError, match="interrupted there"):
        create(root, config=CONFIG, manifest=MANIFEST, handlers=HANDLERS)
    shutil.rmtree(root)
    create(root, config=CONFIG, manifest=MANIFEST, handlers=HANDLERS)
    open_directory(root)


def test_every_device_is_another_one(directory: AgentDirectory, tmp_path: Path) -> None:
    other = create(tmp_path / "other", config=CONFIG, manifest=MANIFEST, handlers=HANDLERS)
    assert check_device_id(read_device_id(directory)) != read_device_id(other)
    assert read_device_secret(directory) != read_device_secret(other)


def test_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep", encoding="utf-8")
    with pytest.raises(DirectoryError, match="not empty"):
        create(tmp_path, config=CONFIG, manifest=MANIFEST, handlers=HANDLERS)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_directory_without_settings_is_no_device(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="edgistry-agent init"):
        open_directory(tmp_path)


def test_secret_that_others_may_read_is_refused(directory: AgentDirectory) -> None:
    directory.secret_file.chmod(0o640)
    with pytest.raises(DirectoryError, match="chmod 600"):
        read_device_secret(directory)


@pytest.mark.parametrize("content", [b"", b"abc", b"zz" * 32, b"ab" * 31, b"\xff" * 64])
def test_damaged_secret_is_refused(directory: AgentDirectory, content: bytes) -> None:
    directory.secret_file.write_bytes(content)
    with pytest.raises(DirectoryError):
        read_device_secret(directory)


def test_missing_secret_is_told_as_such(directory: AgentDirectory) -> None:
    directory.secret_file.unlink()
    with pytest.raises(DirectoryError, match="missing"):
        read_device_secret(directory)


def test_keys_that_others_can_get_at_stop_the_device(directory: AgentDirectory) -> None:
    directory.keys_dir.chmod(0o755)
    with pytest.raises(DirectoryError, match="chmod 700"):
        open_directory(directory.root)


def test_first_epoch_is_one_and_later_ones_are_kept(directory: AgentDirectory) -> None:
    assert read_epoch(directory) == 1
    write_epoch(directory, 2)
    assert read_epoch(directory) == 2


@pytest.mark.parametrize("content", ["", "0", "-1", "one", "4294967295", "99999999999", "٣"])
def test_damaged_epoch_is_refused(directory: AgentDirectory, content: str) -> None:
    directory.epoch_file.write_text(content, encoding="utf-8")
    with pytest.raises(DirectoryError):
        read_epoch(directory)


def test_damaged_id_is_refused(directory: AgentDirectory) -> None:
    directory.id_file.write_bytes(b"\xff")
    with pytest.raises(DirectoryError):
        read_device_id(directory)


def test_one_process_has_the_directory_at_a_time(directory: AgentDirectory) -> None:
    assert running_pid(directory) is None
    with hold(directory):
        assert running_pid(directory) == os.getpid()
        with pytest.raises(DatabaseLockedError, match=str(os.getpid())), hold(directory):
            pass
    assert running_pid(directory) is None


async def test_wakes_of_a_device_are_drawn_by_its_own_secret(tmp_path: Path) -> None:
    config = AgentConfig(handlers=HandlersConfig(module="handlers_of_a_sleeper"))
    directory = create(tmp_path / "device", config=config, manifest=MANIFEST, handlers=HANDLERS)
    async with _device(directory, config, [MadeUpNode().home], config.habits) as running:
        drawn_by = running.agent._runtime.rhythm.key
    assert drawn_by == wake_key(read_device_secret(directory))


# --- settings and manifest ----------------------------------------------------------------------


def test_settings_that_init_writes_are_the_defaults(directory: AgentDirectory) -> None:
    _, config = open_directory(directory.root)
    assert config == CONFIG


def test_settings_become_the_habits_of_the_device() -> None:
    config = AgentConfig(cycle=CycleConfig(period_s=60, exchanges=3))
    habits = config.habits
    assert (habits.cycle.period_s, habits.cycle.max_exchanges) == (60.0, 3)
    assert habits.radio_s_per_hour == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "[cycle]\nperiod_s = -1",
        "[cycle]\nperiod_s = 1.5",
        "[cycle]\nperiod_s = 599",
        "[cycle]\nperiod_s = 7\nany_period = 1",
        "[cycle]\nperiod_s = 604801\nany_period = true",
        "[cycle]\nexchanges = 0",
        "[radio]\nfirst_wait_s = 10\nlongest_wait_s = 5",
        "[radio]\nseconds_per_hour = 4000",
        "[batch]\nrequests = 1000",
        '[energy]\nboard = "toaster"',
        '[handlers]\nmodule = "../evil.py"',
        "[cycle]\nperoid_s = 5",
    ],
)
def test_settings_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        toml.parse(text, AgentConfig, source="agent.toml")


@pytest.mark.parametrize(
    ("period_s", "nearest"),
    [
        (7, "take 0 (always awake) or 10 s"),
        (599, "take 300 s or 600 s"),
        (86_401, "take 86400 s,"),
    ],
)
def test_period_that_devices_have_not_in_common_is_refused_with_the_nearest_that_they_have(
    period_s: int, nearest: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        toml.parse(f"[cycle]\nperiod_s = {period_s}", AgentConfig, source="agent.toml")
    assert nearest in refused.value.detail
    assert "any_period" in refused.value.detail
    free = f"[cycle]\nperiod_s = {period_s}\nany_period = true"
    assert toml.parse(free, AgentConfig, source="agent.toml").habits.cycle.period_s == period_s


def test_periods_are_few_in_order_and_in_every_wake_bucket() -> None:
    assert sorted(set(PERIODS_S)) == list(PERIODS_S)
    assert len(PERIODS_S) <= 10
    assert {wake_bucket(each) for each in PERIODS_S} == {0, 1, 2, 3}
    assert CycleConfig().period_s in PERIODS_S
    shown = LISTED.replace("0 (always awake)", "0").replace(" or ", ", ")
    assert tuple(map(int, shown.split(", "))) == PERIODS_S


def test_example_works_as_it_is(directory: AgentDirectory) -> None:
    manifest = read_manifest(directory)
    table = load_handlers(HANDLERS_MODULE, directory.handlers_dir)
    assert set(manifest.functions.values()) == {"read"}
    assert "read" in table
    assert [action.name for _, action in manifest.actions] == ["read"]


@given(name=st.text(max_size=30))
def test_any_name_of_a_device_can_be_written_down(name: str) -> None:
    text = manifest_text(name=name, type_name="thermometer", lat=1.0, lon=-1e-7)
    assert toml.parse(text, Manifest, source="manifest.toml").name == name


def test_manifest_does_not_show_where_its_device_is() -> None:
    manifest = Manifest(name="hut", lat=46.5, lon=8.25)
    assert f"{manifest!r} {manifest}" == "<Manifest of 0 services> <Manifest of 0 services>"


def test_manifest_without_a_position_says_what_is_missing() -> None:
    text = manifest_text(name="", type_name="thermometer", lat=None, lon=1.0)
    with pytest.raises(ConfigError, match="lat: missing"):
        toml.parse(text, Manifest, source="manifest.toml")


PLACE = "lat = 1.0\nlon = 1.0\n"
ACTION = '[[service.action]]\nname = "read"\n'


@pytest.mark.parametrize(
    "text",
    [
        "lat = 91.0\nlon = 0.0",
        PLACE + "[privacy]\nresolution = 9",
        PLACE + "resolution = 7",
        PLACE + "[privacy]\nnoise_m = 20001",
        PLACE + "[privacy]\ncrowd = 0",
        PLACE + "[privacy]\nowner = 'ab'",
        PLACE + "cell = '872830828ffffff'",
        "cell = '882830828bfffff'",
        "cell = '842830dffffffff'",
        "cell = '872830828fffff'",
        "cell = '872830828ffffff'\n[privacy]\nnoise_m = 1",
        "cell = '852830bffffffff'\n[privacy]\nresolution = 7",
        PLACE + '[[service]]\ntype = "a"\naction = []',
        PLACE + '[[service]]\ntype = "Has Blanks"\n' + ACTION,
        PLACE + '[[service]]\ntype = "a"\n' + ACTION * 2,
        PLACE + ('[[service]]\ntype = "a"\n' + ACTION) * 2,
        PLACE + '[[service]]\ntype = "a"\n' + ACTION + "fresh_s = 5",
        PLACE + '[[service]]\ntype = "a"\n' + ACTION + 'place = "moon"',
        PLACE + '[[service]]\ntype = "a"\n' + ACTION + 'place = "node"',
        PLACE + '[[service]]\ntype = "a"\n' + ACTION + "history = 0",
        PLACE + '[[woof]]\nname = "no-namespace"',
        PLACE + '[[woof]]\nname = "a/b"\nmirror = true\nhandler = "f"',
        PLACE + '[[woof]]\nname = "a/b"\nmirror = true\nplace = "node"',
        PLACE + '[[woof]]\nname = "a/b"\nhandler = "f"\nplace = "node"',
        PLACE + '[[result]]\nname = "no-namespace"',
        PLACE + '[[woof]]\nname = "a/b"\n[[result]]\nname = "a/b"',
        PLACE + '[[service]]\ntype = "a"\n' + ACTION + '[[woof]]\nname = "a/read"',
    ],
)
def test_manifest_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        toml.parse(text, Manifest, source="manifest.toml")


# --- the account --------------------------------------------------------------------------------


def wake(number: int = 1) -> Wake:
    return Wake(
        spending=Spending(wakes=1, awake_s=0.25, asleep_s=600.0, sent=200, received=300),
        exchanges=1,
        failures=0,
        requests=number,
        next_wake_s=600.0,
    )


def test_account_adds_up_and_survives_restarts(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    for _ in range(2):
        book = AccountBook(path, board="esp32", now_us=NOW_US)
        book.note(wake(), now_us=NOW_US)
    account = read_account(path)
    assert account.totals.wakes == 2
    assert account.totals.awake_s == pytest.approx(0.5)
    assert account.totals.energy_mj == pytest.approx(sum(each.energy_mj for each in account.wakes))
    assert account.wakes[0].energy_mj > 0
    assert account.since == "2026-03-01T12:00:00Z"


def test_time_between_two_runs_counts_as_asleep(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    for run in range(3):
        book = AccountBook(path, board="esp32", now_us=NOW_US)
        book.note(
            replace(wake(), spending=Spending(wakes=1, awake_s=0.5)),
            now_us=NOW_US + run * 600_000_000,
        )
    assert [each.asleep_s for each in read_account(path).wakes] == [0.0, 599.5, 599.5]


def test_account_keeps_only_the_last_wakes(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    book = AccountBook(path, board="linux", now_us=NOW_US)
    for number in range(LAST_WAKES + 5):
        book.note(wake(number), now_us=NOW_US)
    account = read_account(path)
    assert [each.requests for each in account.wakes] == list(range(5, LAST_WAKES + 5))
    assert account.totals.wakes == LAST_WAKES + 5


def test_damaged_account_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    path.write_bytes(b"{")
    with pytest.raises(FileError):
        read_account(path)
    AccountBook(path, board="esp32", now_us=NOW_US).note(wake(), now_us=NOW_US)
    assert read_account(path).totals.wakes == 1


def test_account_that_cannot_be_written_does_not_stop_the_device(tmp_path: Path) -> None:
    book = AccountBook(tmp_path / "missing" / "account.json", board="esp32", now_us=NOW_US)
    book.note(wake(), now_us=NOW_US)


# --- the examples -------------------------------------------------------------------------------

EXAMPLES = Path(__file__).resolve().parents[2] / "node_configs" / "agent"


def test_example_settings_are_the_defaults() -> None:
    text = (EXAMPLES / "agent.toml").read_text("utf-8")
    title = text.partition("\n")[0].removeprefix("# ")
    assert text == toml.render(AgentConfig(), title=title)
    assert toml.parse(text, AgentConfig, source="agent.toml") == AgentConfig()


def test_example_manifest_says_everything_that_can_be_said() -> None:
    text = (EXAMPLES / "manifest.toml").read_text("utf-8")
    manifest = toml.load(EXAMPLES / "manifest.toml", Manifest)
    assert set(manifest.functions.values()) == {"read", "open", "close"}
    key = r"^(# |\[|\[\[(service\.)?)?"
    for kind in (Manifest, Privacy, Service, Action, Woof, Result):
        for field in fields(kind):
            assert re.search(rf"{key}{field.name}\b", text, re.MULTILINE), field.name
