"""The keyring: private files, and the choice of the least authority that suffices."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.keyring import Choice, Keyring, Wanted
from edgistry import caveats
from edgistry.capability import Capability
from edgistry.captext import danger_text
from edgistry.envelope import Operation
from edgistry.errors import (
    AlreadyThereError,
    DirectoryError,
    InvalidValueError,
    MalformedError,
    NotFoundError,
)
from edgistry.rights import ALL_RIGHTS, Right

from .capabilities import HOUR_US, granted

NOW = 1_700_000_000_000_000
GET_TEMPERATURE = Wanted(operation=Operation.GET, target="sensors/temp", payload=bytes(8))


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "edgistry" / "keyring")


def chosen(keyring: Keyring, wanted: Wanted = GET_TEMPERATURE, *, now: int = NOW) -> str:
    return keyring.choose(wanted, now_us=now).entry.name


class TestKeeping:
    def test_what_was_added_is_there_and_private(self, keyring: Keyring) -> None:
        capability = granted(Right.GET, "sensors")
        keyring.add("mine", capability, place="http://node:4700")
        entry = keyring.entry("mine")
        assert (entry.capability, entry.place) == (capability, "http://node:4700")
        assert stat.S_IMODE(keyring.folder.stat().st_mode) == 0o700
        assert [stat.S_IMODE(file.stat().st_mode) for file in keyring.folder.iterdir()] == [0o600]

    def test_entries_come_by_name(self, keyring: Keyring) -> None:
        for name in ("b", "c", "a"):
            keyring.add(name, granted(Right.GET))
        assert [entry.name for entry in keyring.entries()[0]] == ["a", "b", "c"]

    def test_a_name_that_is_taken_is_not_overwritten_unasked(self, keyring: Keyring) -> None:
        keyring.add("mine", granted(Right.GET))
        with pytest.raises(AlreadyThereError):
            keyring.add("mine", granted(Right.PUT))
        assert keyring.entry("mine").capability == granted(Right.GET)
        keyring.add("mine", granted(Right.PUT), force=True)
        assert keyring.entry("mine").capability == granted(Right.PUT)

    @pytest.mark.parametrize("name", ["", ".hidden", "../out", "a/b", "A", "x" * 65, "a\n"])
    def test_a_name_that_could_leave_the_folder_is_refused(
        self, keyring: Keyring, name: str
    ) -> None:
        with pytest.raises(InvalidValueError):
            keyring.add(name, granted(Right.GET))
        with pytest.raises(NotFoundError):
            keyring.entry(name)

    @pytest.mark.parametrize("place", ["two words", "a\nb", " "])
    def test_a_place_is_one_word(self, keyring: Keyring, place: str) -> None:
        with pytest.raises(InvalidValueError):
            keyring.add("mine", granted(Right.GET), place=place)

    def test_what_was_removed_is_gone(self, keyring: Keyring) -> None:
        keyring.add("mine", granted(Right.GET))
        keyring.remove("mine")
        assert keyring.entries() == ([], [])
        with pytest.raises(NotFoundError):
            keyring.remove("mine")

    def test_a_keyring_that_nobody_made_is_empty(self, keyring: Keyring) -> None:
        assert keyring.entries() == ([], [])
        assert not keyring.folder.exists()

    def test_a_folder_that_others_can_enter_is_not_used(self, keyring: Keyring) -> None:
        keyring.add("mine", granted(Right.GET))
        keyring.folder.chmod(0o750)
        for use in (keyring.entries, lambda: keyring.entry("mine"), lambda: chosen(keyring)):
            with pytest.raises(DirectoryError):
                use()

    def test_a_damaged_file_is_named_and_the_others_stay_usable(self, keyring: Keyring) -> None:
        keyring.add("good", granted(Right.GET))
        keyring.add("bad", granted(Right.GET))
        path = keyring.folder / "bad.edgcap"
        path.write_text(path.read_text()[:-20])
        entries, damaged = keyring.entries()
        assert [entry.name for entry in entries] == ["good"]
        assert [each.name for each in damaged] == ["bad"]
        assert chosen(keyring) == "good"
        with pytest.raises(MalformedError):
            keyring.entry("bad")
        keyring.remove("bad")
        assert keyring.entries()[1] == []

    def test_other_files_are_left_alone(self, keyring: Keyring) -> None:
        keyring.add("mine", granted(Right.GET))
        (keyring.folder / "notes.txt").write_text(danger_text(granted(Right.PUT)))
        assert [entry.name for entry in keyring.entries()[0]] == ["mine"]


class TestWhereItIs:
    def test_it_follows_the_users_configuration(self) -> None:
        found = Keyring.of_user({"XDG_CONFIG_HOME": "/config"})
        assert found.folder == Path("/config/edgistry/keyring")

    @pytest.mark.parametrize("value", ["", "relative/path"])
    def test_an_unusable_setting_counts_as_none(
        self, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        found = Keyring.of_user({"XDG_CONFIG_HOME": value})
        assert found.folder == tmp_path / ".config" / "edgistry" / "keyring"


class TestChoosing:
    def add(self, keyring: Keyring, **capabilities: Capability) -> None:
        for name, capability in capabilities.items():
            keyring.add(name, capability)

    def test_the_narrowest_object_is_preferred(self, keyring: Keyring) -> None:
        self.add(
            keyring,
            everything=granted(Right.GET),
            exact=granted(Right.GET | Right.LATEST, "sensors/temp"),
            wide=granted(Right.GET, "sensors"),
        )
        assert chosen(keyring) == "exact"

    def test_then_the_fewest_rights(self, keyring: Keyring) -> None:
        self.add(keyring, all=granted(ALL_RIGHTS, "sensors"), get=granted(Right.GET, "sensors"))
        assert chosen(keyring) == "get"

    def test_then_the_one_that_ends_first_but_not_one_that_has_ended(
        self, keyring: Keyring
    ) -> None:
        self.add(
            keyring,
            ended=granted(Right.GET, caveats=[caveats.not_after(NOW - 1)]),
            long=granted(Right.GET, caveats=[caveats.not_after(NOW + 2 * HOUR_US)]),
            short=granted(Right.GET, caveats=[caveats.not_after(NOW + HOUR_US)]),
            endless=granted(Right.GET),
        )
        assert chosen(keyring) == "short"

    def test_what_does_not_suffice_is_passed_over(self, keyring: Keyring) -> None:
        self.add(
            keyring,
            put=granted(Right.PUT, "sensors/temp"),
            other=granted(Right.GET, "sensors/tempo"),
            good=granted(ALL_RIGHTS),
        )
        assert chosen(keyring) == "good"

    def test_each_refusal_gives_its_reason(self, keyring: Keyring) -> None:
        self.add(
            keyring,
            put=granted(Right.PUT, "sensors/temp"),
            ended=granted(Right.GET, caveats=[caveats.not_after(NOW - 1)]),
        )
        with pytest.raises(NotFoundError, match=r"ended: .*time is over.*; put: no entry allows"):
            chosen(keyring)

    def test_a_place_keeps_issuers_apart(self, keyring: Keyring) -> None:
        keyring.add("here", granted(Right.GET, "sensors/temp"), place="http://here")
        keyring.add("any", granted(Right.GET))

        def at(place: str) -> str:
            wanted = Wanted(operation=Operation.GET, target="sensors/temp", place=place)
            return chosen(keyring, wanted)

        assert [at("http://here"), at("http://there"), at("")] == ["here", "any", "here"]

    def test_of_two_alike_the_one_for_the_place_is_taken(self, keyring: Keyring) -> None:
        keyring.add("a", granted(Right.GET, "sensors/temp"))
        keyring.add("b", granted(Right.GET, "sensors/temp"), place="http://here")
        wanted = Wanted(operation=Operation.GET, target="sensors/temp", place="http://here")
        assert chosen(keyring, wanted) == "b"

    def test_a_clients_capability_is_for_that_client(self, keyring: Keyring) -> None:
        capability = granted(Right.GET, caveats=[caveats.client(b"client-1")])
        keyring.add("mine", capability)

        def by(client: bytes | None) -> Choice:
            wanted = Wanted(operation=Operation.GET, target="sensors/temp", client=client)
            return keyring.choose(wanted, now_us=NOW)

        assert by(None).entry.name == by(b"client-1").entry.name == "mine"
        with pytest.raises(NotFoundError):
            by(b"client-2")

    def test_what_it_requires_is_found_and_goes_beside(self, keyring: Keyring) -> None:
        last = granted(Right.PUT, "x", serial=3)
        second = granted(Right.PUT, "x", serial=2, caveats=[caveats.require(last.id)])
        first = granted(Right.GET, caveats=[caveats.require(second.id)])
        self.add(keyring, first=first, last=last)
        with pytest.raises(NotFoundError, match="requires"):
            chosen(keyring)
        keyring.add("second", second.derive(max_payload=8))
        choice = keyring.choose(GET_TEMPERATURE, now_us=NOW)
        assert choice.entry.name == "first"
        assert choice.beside == (second.derive(max_payload=8), last)

    def test_what_a_capability_from_elsewhere_requires_is_found_too(self, keyring: Keyring) -> None:
        badge = granted(Right.PUT, "x", serial=3)
        locked = granted(Right.GET, caveats=[caveats.require(badge.id)])
        assert keyring.beside(locked) == ()
        for name, days in (("a", 1), ("b", 3), ("c", 2)):
            keyring.add(name, badge.derive(not_after_us=NOW + days * 24 * HOUR_US))
        longest = keyring.entry("b").capability
        assert keyring.beside(locked) == (longest,)
        assert keyring.beside(locked, [badge]) == (badge,), "what is named goes first"
        assert keyring.beside(badge) == ()

    def test_the_secret_is_in_no_text_of_a_choice(self, keyring: Keyring) -> None:
        capability = granted(Right.GET)
        keyring.add("mine", capability)
        shown = repr(keyring.choose(GET_TEMPERATURE, now_us=NOW)) + repr(keyring.entries())
        secret = capability.danger_bytes()[-32:]
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
