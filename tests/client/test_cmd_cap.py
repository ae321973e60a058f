"""``edgistry cap``: a tree a person can read, narrower capabilities, private files."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.cap_view import moment_text
from client.cli import program
from edgistry import caveats
from edgistry.capability import Capability
from edgistry.capability_chain import Entry
from edgistry.captext import danger_text, parse_text
from edgistry.duration import parse_moment
from edgistry.errors import MalformedError
from edgistry.rights import ALL_RIGHTS, Right

from .capabilities import HOUR_US, ISSUER, granted

NOW = 1_700_000_000_000_000


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def edgistry(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(program, ["cap", *arguments], input=stdin)


def succeeded(*arguments: str, stdin: str | None = None) -> str:
    result = edgistry(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def written(capability: Capability, name: str = "mine") -> str:
    """The name of a file with ``capability`` in it, in the working folder."""
    path = Path(name)
    path.write_text(danger_text(capability) + "\n")
    path.chmod(0o600)
    return name


def read(name: str) -> Capability:
    return parse_text(Path(name).read_text())


class TestShow:
    def test_the_tree_says_who_may_do_what_until_when(self) -> None:
        root = granted(Right.GET | Right.LATEST | Right.PUT, "sensors", serial=0xABCD)
        narrow = root.derive(
            allow=Right.GET | Right.LATEST,
            object_name="sensors/temp",
            not_after_us=4_102_444_800_000_000,
            client=b"client-1",
            max_payload=64,
            seal=True,
        )
        lines = succeeded("show", written(narrow)).splitlines()
        years = next(line for line in lines if "until" in line)
        assert lines == [
            f"capability {narrow.id.hex()}",
            "├── may",
            "│   └── get, latest on sensors/temp",
            "├── by client 636c69656e742d31",
            years,
            "├── with at most 64 bytes of payload",
            "├── sealed: cannot be narrowed further",
            f"├── under grant 0000abcd of epoch 3; {len(narrow.public)} public bytes",
            "└── made in 2 steps",
            f"    ├── {root.id.hex()}",
            "    │   └── put, get, latest on sensors",
            f"    └── {narrow.id.hex()}",
            "        ├── get, latest on sensors/temp",
            "        ├── if not_after 2100-01-01T00:00:00Z",
            "        ├── if client 636c69656e742d31",
            "        ├── if max_payload 64",
            "        └── if sealed",
        ]
        assert years.startswith("├── until 2100-01-01T00:00:00Z (in ")

    def test_conditions_that_can_never_hold_are_said_plainly(self) -> None:
        two = [caveats.client(b"client-1"), caveats.client(b"client-2")]
        capability = granted(ALL_RIGHTS, caveats=[caveats.not_after(NOW), caveats.handler("a")])
        capability = capability.derive(handlers=["b"], caveats=two, veil=True)
        shown = succeeded("show", written(capability))
        assert "by nobody" in shown
        assert "expired 2023-11-14T22:13:20Z (" in shown
        assert " ago)" in shown
        assert "through no handler" in shown
        assert "veiled" in shown

    def test_what_is_required_and_when_it_begins_is_said(self) -> None:
        begins = caveats.not_before(4_102_444_800_000_000)
        capability = granted(0, caveats=[begins, caveats.require(bytes(16)), caveats.handler("é")])
        shown = succeeded("show", written(capability))
        assert "from 2100-01-01T00:00:00Z (in " in shown
        assert f"beside capability {bytes(16).hex()}" in shown
        assert "through the handler é" in shown
        assert "nothing on all that the issuer owns" in shown
        assert "without end" in shown

    def test_json_has_the_sum_and_the_chain(self) -> None:
        capability = granted(Right.GET, "ns").derive(not_after_us=NOW, handlers=["b", "a"])
        shown = json.loads(succeeded("show", "--json", written(capability)))
        assert shown["grants"] == [{"rights": ["get"], "object": "ns"}]
        assert shown["not_after_us"] == NOW
        assert shown["handlers"] == ["a", "b"]
        assert [block["id"] for block in shown["chain"]["blocks"]] == [
            each.hex() for each in capability.chain.ids
        ]
        assert shown["danger_text"] is None

    def test_the_secret_comes_out_only_when_the_danger_is_named(self) -> None:
        capability = granted(Right.GET)
        file = written(capability)
        assert danger_text(capability) in succeeded("show", "--danger", file).splitlines()
        shown = json.loads(succeeded("show", "--danger", "--json", file))
        assert shown["danger_text"] == danger_text(capability)
        assert danger_text(capability) not in succeeded("show", file)

    def test_text_file_standard_input_and_keyring_show_the_same(self) -> None:
        capability = granted(Right.GET)
        file = written(capability)
        succeeded("add", file, "--name", "kept")
        text = danger_text(capability)
        shown = [succeeded("show", source) for source in (file, text, "kept")]
        assert {*shown, succeeded("show", "-", stdin=f"# a remark\n{text}\n")} == {shown[0]}

    def test_a_text_as_an_argument_brings_a_warning(self) -> None:
        result = edgistry("show", danger_text(granted(Right.GET)))
        assert "shell's history" in result.stderr

    @pytest.mark.parametrize("before", [" ", "'", "x"])
    @pytest.mark.parametrize("entries", [1, 20])
    def test_a_text_that_something_stands_before_is_not_repeated(
        self, before: str, entries: int
    ) -> None:
        names = [Entry(Right.GET, f"{'n' * 28}-{number}") for number in range(entries)]
        capability = ISSUER.mint(serial=1, entries=names)
        result = edgistry("id", before + danger_text(capability))
        assert result.exit_code == (0 if before == " " else 1)
        assert not isinstance(result.exception, OSError)
        assert danger_text(capability)[-20:] not in result.output + repr(result.exception)

    def test_a_file_that_others_can_read_brings_a_warning(self) -> None:
        file = written(granted(Right.GET))
        assert edgistry("show", file).stderr == ""
        Path(file).chmod(0o644)
        assert f"chmod 600 {file}" in edgistry("show", file).stderr

    @pytest.mark.parametrize("text", ["", "edgcap1:", "edgcap1:AAAA", "hello", "\x00\xff" * 20_000])
    def test_what_is_no_capability_is_refused(self, text: str) -> None:
        Path("bad").write_text(text)
        for result in (edgistry("show", "bad"), edgistry("show", "-", stdin=text)):
            assert result.exit_code == 1
            assert "error: " in result.stderr

    def test_what_is_not_there_is_named(self) -> None:
        result = edgistry("show", "absent")
        assert result.exit_code == 1
        assert "absent is neither a file nor a name in the keyring" in result.stderr


class TestId:
    def test_it_is_the_public_id(self) -> None:
        capability = granted(Right.GET)
        file = written(capability)
        assert succeeded("id", file) == capability.id.hex() + "\n"
        assert json.loads(succeeded("id", "--json", file)) == {"id": capability.id.hex()}


class TestDerive:
    def test_every_option_narrows_as_it_says(self) -> None:
        file = written(granted(ALL_RIGHTS))
        before = time.time_ns() // 1000
        succeeded(
            *("derive", file, "--allow", "get,latest", "--object", "ns/woof", "--expires", "2h"),
            *("--client", "636c69656e742d31", "--require", "00" * 16, "--require", "11" * 16),
            *("--max-payload", "9", "--handler", "run", "--not-before", "2020-01-01T00:00:00Z"),
            *("--veil", "--seal", "-o", "out"),
        )
        derived = read("out")
        chain = derived.chain
        assert derived.entries == ((Right.GET | Right.LATEST, "ns/woof"),)
        end = chain.not_after_us - 2 * HOUR_US
        assert before - 1_000_000 <= end <= time.time_ns() // 1000
        assert (chain.clients, chain.max_payload) == ((b"client-1",), 9)
        assert chain.rare.required == (bytes(16), b"\x11" * 16)
        assert chain.rare.handlers == frozenset({b"run"})
        assert chain.rare.not_before_us == 1_577_836_800_000_000
        assert (chain.rare.veil, chain.rare.sealed) == (True, True)

    def test_it_derives_from_the_capability_that_was_given(self) -> None:
        capability = granted(Right.GET)
        derived_id = succeeded("derive", written(capability), "--expires", "1h", "-o", "out")
        derived = read("out")
        assert derived.id.hex() == derived_id.strip()
        assert derived.chain.ids[0] == capability.id

    def test_the_file_is_private_and_not_overwritten_unasked(self) -> None:
        file = written(granted(ALL_RIGHTS))
        succeeded("derive", file, "--allow", "get", "-o", "out")
        assert stat.S_IMODE(Path("out").stat().st_mode) == 0o600
        first = read("out")
        result = edgistry("derive", file, "--allow", "put", "-o", "out")
        assert (result.exit_code, read("out")) == (1, first)
        assert "--force" in result.stderr
        succeeded("derive", file, "--allow", "put", "-o", "out", "--force")
        assert read("out").entries == ((Right.PUT, ""),)

    @pytest.mark.parametrize("output", ["", ".", "/", ".."])
    def test_a_folder_is_not_a_file_to_write(self, output: str) -> None:
        result = edgistry("derive", written(granted(ALL_RIGHTS)), "-o", output)
        assert result.exit_code == 1
        assert "exists" in result.stderr
        assert list(Path().glob(".*")) == []

    def test_it_can_be_part_of_a_pipe(self) -> None:
        text = danger_text(granted(ALL_RIGHTS))
        derived = succeeded("derive", "-", "--allow", "get", "-o", "-", stdin=text)
        assert parse_text(derived).entries == ((Right.GET, ""),)

    def test_json_names_what_was_made(self) -> None:
        file = written(granted(ALL_RIGHTS))
        made = json.loads(succeeded("derive", file, "--allow", "get", "-o", "out", "--json"))
        assert made == {"id": read("out").id.hex(), "name": "out"}

    def test_it_cannot_widen_and_then_writes_nothing(self) -> None:
        file = written(granted(Right.GET, "ns"))
        for wider in (["--allow", "put"], ["--object", "other"]):
            result = edgistry("derive", file, *wider, "-o", "out")
            assert result.exit_code == 1
            assert "widened" in result.stderr
        assert not Path("out").exists()

    @pytest.mark.parametrize(
        "options",
        [
            ["--allow", "fly"],
            ["--object", "a//b"],
            ["--expires", "soon"],
            ["--expires", "2030-01-01T00:00:00"],
            ["--client", "00"],
            ["--require", "xyz"],
            ["--max-payload", "many"],
        ],
    )
    def test_what_cannot_be_read_is_a_usage_error(self, options: list[str]) -> None:
        file = written(granted(ALL_RIGHTS))
        result = edgistry("derive", file, *options, "-o", "out")
        assert result.exit_code == 2
        assert options[0] in result.stderr

    def test_a_sealed_capability_is_not_narrowed(self) -> None:
        file = written(granted(ALL_RIGHTS).derive(seal=True))
        result = edgistry("derive", file, "--allow", "get", "-o", "out")
        assert result.exit_code == 1
        assert "sealed" in result.stderr


class TestCheck:
    def test_what_is_allowed_exits_with_zero(self) -> None:
        capability = granted(Right.GET, "ns")
        file = written(capability)
        said = succeeded("check", file, "--op", "get", "--target", "ns/woof")
        assert said == f"allowed by {capability.id.hex()}\n"

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--op", "put", "--target", "ns/woof"], "no entry allows put"),
            (["--op", "get", "--target", "other"], "no entry allows get"),
            (["--op", "get", "--target", "ns", "--at", "2100-01-02T00:00Z"], "time is over"),
            (["--op", "get", "--target", "ns", "--payload-bytes", "9"], "longer than 8"),
            (["--op", "get", "--target", "ns", "--client", "00" * 8], "another client"),
        ],
    )
    def test_what_is_not_exits_with_one_and_says_why(self, options: list[str], reason: str) -> None:
        limits = [caveats.not_after(4_102_444_800_000_000), caveats.max_payload(8)]
        limits.append(caveats.client(b"client-1"))
        file = written(granted(Right.GET, "ns", caveats=limits))
        result = edgistry("check", file, *options)
        assert result.exit_code == 1
        assert reason in result.stderr

    def test_a_put_through_a_handler_needs_invoke(self) -> None:
        file = written(granted(Right.PUT))
        put = ["check", file, "--op", "put", "--target", "ns/woof"]
        succeeded(*put)
        assert "put and invoke" in edgistry(*put, "--handler", "run").stderr

    def test_a_required_capability_can_be_put_beside(self) -> None:
        other = granted(0, serial=2)
        file = written(granted(Right.GET).derive(require=[other.id]))
        get = ["check", file, "--op", "get", "--target", "ns"]
        assert "requires" in edgistry(*get).stderr
        said = succeeded(*get, "--beside", written(other, "other"))
        assert f"beside {other.id.hex()}" in said

    def test_without_a_file_the_keyring_is_searched(self) -> None:
        wide, narrow = granted(ALL_RIGHTS), granted(Right.GET, "ns/woof")
        succeeded("add", written(wide), "--name", "wide")
        succeeded("add", written(narrow), "--name", "narrow")
        get = ["check", "--op", "get", "--target", "ns/woof"]
        assert succeeded(*get) == "allowed by narrow\n"
        assert json.loads(succeeded(*get, "--json")) == {
            "allowed": True,
            "id": narrow.id.hex(),
            "name": "narrow",
            "beside": [],
        }

    def test_an_unknown_operation_is_a_usage_error_that_lists_them(self) -> None:
        file = written(granted(ALL_RIGHTS))
        result = edgistry("check", file, "--op", "fly", "--target", "ns")
        assert result.exit_code == 2
        assert "sequence-fix" in result.stderr


class TestKeyringCommands:
    def test_added_ones_are_listed_until_removed(self) -> None:
        capability = granted(Right.GET, "ns", caveats=[caveats.not_after(NOW)])
        assert succeeded("add", written(capability)).strip() == capability.id.hex()[:12]
        succeeded("add", "-", "--name", "other", "--for", "http://x", stdin=danger_text(capability))
        rows = [line.split("\t") for line in succeeded("list").splitlines()]
        assert [row[0] for row in rows] == ["name", capability.id.hex()[:12], "other"]
        assert rows[2][1] == "get on ns"
        assert rows[2][2].startswith("2023-11-14T22:13:20Z (")
        assert rows[2][3:] == ["http://x", capability.id.hex()]
        succeeded("remove", "other")
        listed = json.loads(succeeded("list", "--json"))
        assert [each["name"] for each in listed["entries"]] == [capability.id.hex()[:12]]

    def test_a_taken_name_needs_force(self) -> None:
        file = written(granted(Right.GET))
        succeeded("add", file, "--name", "mine")
        assert edgistry("add", file, "--name", "mine").exit_code == 1
        succeeded("add", file, "--name", "mine", "--force")

    def test_a_damaged_entry_is_reported(self, tmp_path: Path) -> None:
        succeeded("add", written(granted(Right.GET)), "--name", "mine")
        (tmp_path / "config" / "edgistry" / "keyring" / "mine.edgcap").write_text("edgcap1:AA")
        assert "damaged: mine" in edgistry("list").stderr
        assert json.loads(succeeded("list", "--json"))["damaged"] == ["mine"]

    def test_removing_says_so_for_programs_too(self) -> None:
        succeeded("add", written(granted(Right.GET)), "--name", "mine")
        assert json.loads(succeeded("remove", "mine", "--json")) == {"removed": "mine"}
        assert edgistry("remove", "mine").exit_code == 1

    def test_an_empty_keyring_says_what_to_do(self) -> None:
        assert "edgistry cap add" in edgistry("list").stderr


def test_no_command_shows_the_secret_unasked() -> None:
    capability = granted(ALL_RIGHTS)
    file = written(capability)
    shown = ""
    for arguments in (
        ["show", file],
        ["show", "--json", file],
        ["id", file],
        ["check", file, "--op", "get", "--target", "x"],
        ["check", file, "--op", "get", "--target", "x", "--json"],
        ["add", file, "--name", "mine"],
        ["list"],
        ["list", "--json"],
        ["derive", file, "-o", "out"],
        ["derive", file, "-o", "out"],
        ["show", "out"],
        ["remove", "mine"],
    ):
        result = edgistry(*arguments)
        shown += result.stdout + result.stderr
    for each in (capability, read("out")):
        secret = each.danger_bytes()[-32:]
        text = danger_text(each)
        assert secret.hex() not in shown
        assert text[-40:] not in shown
        assert repr(secret)[2:-1] not in shown


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2h", NOW + 2 * HOUR_US),
            ("90s", NOW + 90_000_000),
            ("2030-01-01T00:00:00Z", 1_893_456_000_000_000),
            ("2030-01-01T01:00+01:00", 1_893_456_000_000_000),
            ("1970-01-01T00:00:00.000001Z", 1),
        ],
    )
    def test_a_moment_is_a_distance_or_a_time(self, text: str, moment: int) -> None:
        assert parse_moment(text, now_us=NOW) == moment

    @pytest.mark.parametrize("text", ["", "soon", "2030-01-01", "1969-12-31T23:59:59Z", "-2h"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(MalformedError):
            parse_moment(text, now_us=NOW)

    @pytest.mark.parametrize(
        ("distance_us", "text"),
        [
            (0, "in 0 s"),
            (59_000_000, "in 59 s"),
            (2 * HOUR_US - 5, "in 2 h"),
            (-90_000_000, "2 min ago"),
            (50 * HOUR_US, "in 2 d"),
        ],
    )
    def test_distances_are_told_in_one_unit(self, distance_us: int, text: str) -> None:
        assert moment_text(NOW + distance_us, NOW).endswith(f"({text})")
