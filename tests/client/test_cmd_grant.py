"""``edgistry grant``: asked of a node, sealed to the one who asked, kept in the keyring."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from abci_app.config_guards import GrantsConfig
from abci_app.grants import GrantDesk
from abci_app.http_grants import grant_handlers
from client.cli import program
from client.granted import KEPT_AFTER_END_US, remove_ended
from client.identity import identity_file, read_identity
from client.keyring import Keyring, Wanted
from edgistry.adapters.clock import wall_us
from edgistry.envelope import Operation
from edgistry.errors import DirectoryError, FileError

from ..abci_app.granting_world import KEYS, OneService, handle_of
from ..fake_node import FakeNode, serving_from_a_thread


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    desk = GrantDesk(OneService(), GrantsConfig(anyone="read"), KEYS)
    with serving_from_a_thread(FakeNode(), grant_handlers(desk)) as url:
        yield url


def own_handle() -> str:
    """The handle of the service for the user."""
    return handle_of(read_identity().tag)


def edgistry(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["grant", *arguments])


def test_a_grant_is_kept_in_the_keyring_under_its_handle(url: str) -> None:
    done = edgistry("request", own_handle(), "--node", url, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    (line,) = answer["granted"]
    assert (answer["handle"], answer["type"], line["action"]) == (own_handle(), "valve", "read")
    assert line["name"].startswith("valve.read.")
    wanted = Wanted(
        operation=Operation.PUT,
        target="valve/read",
        handler="read",
        client=read_identity().id,
        place=own_handle(),
    )
    assert Keyring.of_user().choose(wanted, now_us=wall_us()).entry.name == line["name"]


def test_a_later_grant_replaces_the_earlier_one_on_the_same_thing(url: str) -> None:
    for _ in range(2):
        done = edgistry("request", own_handle(), "--node", url, "--allow", "call, get")
        assert done.exit_code == 0, done.output
    entries, damaged = Keyring.of_user().entries()
    assert [entry.name.rsplit(".", 1)[0] for entry in entries] == ["valve.read", "valve.read.look"]
    assert damaged == []


def test_grants_that_ended_more_than_a_day_ago_go_and_nothing_else_does(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = own_handle()
    edgistry("request", handle, "--node", url, "--allow", "call, get", "--ttl", "1h")
    keyring = Keyring.of_user()
    entries, _ = keyring.entries()
    granted = {each.name for each in entries}
    assert len(granted) == 2
    keyring.add("renamed", entries[0].capability, place=handle)
    keyring.add("copied", entries[0].capability)
    end_us = entries[0].capability.chain.not_after_us
    assert remove_ended(keyring, now_us=end_us + KEPT_AFTER_END_US) == 0
    # The node's own clock goes on as it is: what is granted now ends after this moment.
    monkeypatch.setattr("client.cmd_grant.wall_us", lambda: end_us + KEPT_AFTER_END_US + 1)
    done = edgistry("request", handle, "--node", url, "--ttl", "24h")
    assert "Removed 1 that ended more than a day ago." in done.stderr
    left = {each.name for each in keyring.entries()[0]}
    assert left - granted == {"renamed", "copied"}
    assert {name.rsplit(".", 1)[0] for name in left & granted} == {"valve.read"}


def test_a_person_sees_what_was_granted_and_for_how_long(url: str) -> None:
    done = edgistry("request", own_handle(), "--node", url, "--ttl", "2h")
    assert done.exit_code == 0, done.output
    assert "valve.read." in done.stdout
    assert f"edgistry call {own_handle()[:16]} ACTION" in done.stderr


def test_what_the_node_does_not_grant_is_refused_with_the_id_to_name(url: str) -> None:
    done = edgistry("request", own_handle(), "--node", url, "--action", "open")
    assert done.exit_code == 1
    assert read_identity().id.hex() in done.stderr
    assert "[grants]" in done.stderr
    assert Keyring.of_user().entries()[0] == []


def test_an_unknown_handle_is_not_found(url: str) -> None:
    done = edgistry("request", handle_of(bytes(16)), "--node", url)
    assert (done.exit_code, "[unknown-handle]" in done.stderr) == (1, True)


def test_words_that_are_no_uses_are_refused_before_anybody_is_asked() -> None:
    done = edgistry("request", own_handle(), "--node", "http://127.0.0.1:1", "--allow", "mint")
    assert (done.exit_code, "use call, get" in done.stderr) == (1, True)


def test_a_node_that_does_not_answer_is_exit_code_3() -> None:
    assert edgistry("request", own_handle(), "--node", "http://127.0.0.1:1").exit_code == 3


def test_an_id_is_made_once_and_kept_for_its_owner_only() -> None:
    first = json.loads(edgistry("id", "--json").stdout)
    assert json.loads(edgistry("id", "--json").stdout) == first
    assert first["client"] == read_identity().id.hex()
    assert stat.S_IMODE(identity_file().stat().st_mode) == 0o600
    assert first["client"] in edgistry("id").stdout


def test_keys_that_others_can_read_or_that_are_damaged_are_refused() -> None:
    read_identity()
    path = identity_file()
    path.chmod(0o644)
    with pytest.raises(FileError, match="chmod 600"):
        read_identity()
    path.chmod(0o600)
    path.write_text("12\n")
    with pytest.raises(FileError, match="damaged"):
        read_identity()


def test_keys_in_a_folder_that_others_can_enter_are_not_used() -> None:
    read_identity()
    identity_file().parent.chmod(0o711)
    with pytest.raises(DirectoryError, match="chmod 700"):
        read_identity()


def test_the_keys_are_in_no_text() -> None:
    keys = read_identity()
    assert keys.signing.hex() not in repr(keys)
    assert "signing" not in repr(keys)
