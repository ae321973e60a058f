"""``edgistry woof`` and ``edgistry namespace``: bytes in and out, authority, exit codes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from client.cli import program
from client.element_view import element_document, element_row, print_element
from client.keyring import Keyring
from edgistry.capability import Capability
from edgistry.captext import danger_text
from edgistry.rights import Right
from edgistry.woof import MAX_ELEMENT_BYTES
from tests.edgistry.grants import ROOT

from .capabilities import granted
from .woof_node import WoofNode, woof_node

ROOT_FOLDER = Path(__file__).parents[2]
PROGRAM = [
    sys.executable,
    "-c",
    # Whoever starts the tests may ignore interrupts, and children inherit that.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from client.cli import main; main()",
]
FRESH = itertools.count()
NOT_TEXT = b"\xff\x00\x1b[31m\n"


@pytest.fixture(scope="module")
def node() -> Iterator[WoofNode]:
    with woof_node() as served:
        yield served


@pytest.fixture(autouse=True)
def keyring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Keyring:
    """The user's, with a capability for everything in it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = Keyring.of_user()
    made.add("everything", ROOT)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return made


@pytest.fixture
def woof(node: WoofNode) -> str:
    """A new WooF that keeps three elements."""
    name = f"ns/{next(FRESH)}"
    node.do(node.client.create(name, 3))
    return name


def edgistry(node: WoofNode, *arguments: object, stdin: bytes | None = None) -> Result:
    words = [str(each) for each in arguments]
    return CliRunner().invoke(program, words, input=stdin, env={"EDGISTRY_NODE": node.at})


def succeeded(node: WoofNode, *arguments: object, stdin: bytes | None = None) -> str:
    result = edgistry(node, *arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def written(capability: Capability, name: str) -> str:
    path = Path(name)
    path.write_text(danger_text(capability))
    path.chmod(0o600)
    return name


def put(node: WoofNode, woof: str, *elements: bytes) -> None:
    for element in elements:
        node.do(node.client.put(woof, element))


# --- making and deleting ------------------------------------------------------------------------


def test_namespace_and_woof_are_made_once_and_again(node: WoofNode) -> None:
    for _ in range(2):
        result = edgistry(node, "namespace", "create", "made")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "Namespace made is there.\n"
        result = edgistry(node, "woof", "create", "made/temp", "--history", 7)
        assert (result.exit_code, result.stdout) == (0, "")
    assert node.do(node.client.extent("made/temp")) == (1, 0)
    again = edgistry(node, "woof", "create", "made/temp", "--history", 8)
    assert again.exit_code == 1
    assert "[woof-exists]" in again.stderr


def test_json_of_what_was_made_and_deleted_names_it(node: WoofNode) -> None:
    def answered(*arguments: object) -> object:
        return json.loads(succeeded(node, *arguments, "--json"))

    assert answered("namespace", "create", "gone") == {"namespace": "gone"}
    create = ("woof", "create", "gone/temp", "--history", 7, "--element-size", 2)
    assert answered(*create) == {"woof": "gone/temp", "history": 7, "element_size": 2}
    assert answered("woof", "delete", "gone/temp") == {"deleted": "gone/temp"}
    assert answered("namespace", "delete", "gone") == {"namespace": "gone"}


def test_what_was_deleted_is_missing(node: WoofNode) -> None:
    succeeded(node, "namespace", "create", "old")
    succeeded(node, "woof", "create", "old/temp", "--history", 1)
    full = edgistry(node, "namespace", "delete", "old")
    assert (full.exit_code, "[namespace-not-empty]" in full.stderr) == (1, True)
    succeeded(node, "woof", "delete", "old/temp")
    missing = edgistry(node, "woof", "put", "old/temp", "1")
    assert (missing.exit_code, "[woof-missing]" in missing.stderr) == (1, True)
    succeeded(node, "namespace", "delete", "old")
    missing = edgistry(node, "woof", "create", "old/temp", "--history", 1)
    assert (missing.exit_code, "[namespace-missing]" in missing.stderr) == (1, True)


@pytest.mark.parametrize("history", [0, -1, 2**32 + 1, 2**80])
def test_impossible_history_is_refused(node: WoofNode, history: int) -> None:
    result = edgistry(node, "woof", "create", "ns/never", f"--history={history}")
    assert result.exit_code == 1
    assert "history" in result.stderr


# --- putting ------------------------------------------------------------------------------------


def test_put_prints_the_number_of_the_element(node: WoofNode, woof: str) -> None:
    assert succeeded(node, "woof", "put", woof, "21.5") == "1\n"
    answer = json.loads(succeeded(node, "woof", "put", woof, "21.7", "--json"))
    assert answer == {"woof": woof, "number": 2}
    assert node.do(node.client.tail(woof, 9)) == [(2, b"21.7"), (1, b"21.5")]


def test_address_may_name_the_node(node: WoofNode, woof: str) -> None:
    place = f"{node.at.replace('http', 'woof')}/{woof}"
    result = CliRunner().invoke(program, ["woof", "put", place, "x"])
    assert (result.exit_code, result.stdout) == (0, "1\n")


@pytest.mark.parametrize("number", ["-3", "-3.5", "-.5"])
def test_negative_number_is_an_element_and_no_option(
    node: WoofNode, woof: str, number: str
) -> None:
    succeeded(node, "woof", "put", woof, number, "--json")
    succeeded(node, "woof", "put", woof, "--", number)
    assert node.do(node.client.tail(woof, 2)) == [(2, number.encode()), (1, number.encode())]


def test_unknown_option_is_no_element(node: WoofNode, woof: str) -> None:
    assert edgistry(node, "woof", "put", woof, "--handlre", "x").exit_code == 2
    assert edgistry(node, "woof", "put", woof, "-x").exit_code == 2


@pytest.mark.parametrize("size", [0, 1, MAX_ELEMENT_BYTES])
def test_element_comes_from_a_file_or_standard_input_as_it_is(
    node: WoofNode, woof: str, size: int
) -> None:
    element = (NOT_TEXT * MAX_ELEMENT_BYTES)[:size]
    Path("element").write_bytes(element)
    succeeded(node, "woof", "put", woof, "--file", "element")
    succeeded(node, "woof", "put", woof, "--file", "-", stdin=element)
    succeeded(node, "woof", "put", woof, stdin=element)
    assert node.do(node.client.tail(woof, 3)) == [(number, element) for number in (3, 2, 1)]


def test_element_may_be_written_in_hexadecimal(node: WoofNode, woof: str) -> None:
    succeeded(node, "woof", "put", woof, "--hex", "fF00")
    succeeded(node, "woof", "put", woof, "--hex", stdin=b"ff 00\n")
    assert node.do(node.client.tail(woof, 2)) == [(2, b"\xff\0"), (1, b"\xff\0")]
    for wrong in ("f", "fg", "é"):
        result = edgistry(node, "woof", "put", woof, "--hex", wrong)
        assert (result.exit_code, "two hexadecimal digits" in result.stderr) == (1, True)


def test_too_much_is_refused_before_it_is_sent(node: WoofNode, woof: str) -> None:
    big = bytes(MAX_ELEMENT_BYTES + 1)
    Path("big").write_bytes(big)
    for result in (
        edgistry(node, "woof", "put", woof, "--file", "big"),
        edgistry(node, "woof", "put", woof, stdin=big),
        edgistry(node, "woof", "put", woof, "--hex", stdin=big.hex().encode()),
        edgistry(node, "woof", "put", woof, "--file", "/dev/zero"),
    ):
        assert (result.exit_code, "[too-large]" in result.stderr) == (1, True)
    assert node.do(node.client.latest(woof)) == 0


def test_file_that_cannot_be_read_is_named(node: WoofNode, woof: str) -> None:
    for file in ("absent", "."):
        result = edgistry(node, "woof", "put", woof, "--file", file)
        assert (result.exit_code, f"cannot read {file}" in result.stderr) == (1, True)


def test_put_may_name_a_handler_that_the_node_has(node: WoofNode, woof: str) -> None:
    assert succeeded(node, "woof", "put", woof, "99", "--handler", "alarm") == "1\n"
    result = edgistry(node, "woof", "put", woof, "99", "--handler", "none")
    assert (result.exit_code, "[handler-unknown]" in result.stderr) == (1, True)


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("element", [b"", b"21.5", b"two\nlines\n", NOT_TEXT])
def test_get_gives_a_pipe_exactly_the_element(node: WoofNode, woof: str, element: bytes) -> None:
    put(node, woof, element, b"newer")
    assert edgistry(node, "woof", "get", woof, 1).stdout_bytes == element
    assert edgistry(node, "woof", "get", woof).stdout_bytes == b"newer"
    assert succeeded(node, "woof", "get", woof, 1, "--hex") == element.hex() + "\n"


def test_json_of_an_element_has_text_only_where_it_is_some(node: WoofNode, woof: str) -> None:
    put(node, woof, "21 °C".encode(), NOT_TEXT)
    first = json.loads(succeeded(node, "woof", "get", woof, 1, "--json"))
    assert first == {"number": 1, "text": "21 °C", "hex": "21 °C".encode().hex()}
    second = json.loads(succeeded(node, "woof", "get", woof, "--json"))
    assert second == {"number": 2, "text": None, "hex": NOT_TEXT.hex()}


def test_what_cannot_be_read_is_refused_in_four_ways(node: WoofNode, woof: str) -> None:
    def refusal(*arguments: object) -> tuple[int, str]:
        result = edgistry(node, "woof", "get", *arguments)
        return result.exit_code, result.stderr.splitlines()[0].rpartition(" ")[2]

    assert refusal("ns/missing") == (1, "[woof-missing]")
    assert refusal(woof) == (1, "[woof-empty]")
    put(node, woof, b"1", b"2", b"3", b"4")
    assert refusal(woof, 1) == (1, "[woof-evicted]")
    assert refusal(woof, 5) == (1, "[woof-not-yet]")
    assert refusal(woof, 0) == (1, "[invalid-value]")


def test_latest_is_a_number(node: WoofNode, woof: str) -> None:
    assert succeeded(node, "woof", "latest", woof) == "0\n"
    put(node, woof, b"1", b"2", b"3", b"4")
    assert succeeded(node, "woof", "latest", woof) == "4\n"
    answer = json.loads(succeeded(node, "woof", "latest", woof, "--json"))
    assert answer == {"woof": woof, "earliest": 2, "latest": 4}


def test_tail_shows_the_newest_first_one_a_line(node: WoofNode, woof: str) -> None:
    assert "Nothing was put into" in edgistry(node, "woof", "tail", woof).stderr
    put(node, woof, b"evicted", b"21.5", b"two\tlines\n", NOT_TEXT)
    assert succeeded(node, "woof", "tail", woof).splitlines() == [
        "number\telement",
        "4\t\\xff\\x00\\x1b[31m\\n",
        "3\ttwo\\tlines\\n",
        "2\t21.5",
    ]
    assert succeeded(node, "woof", "tail", woof, "-n", 1, "--hex") == (
        f"number\telement\n4\t{NOT_TEXT.hex()}\n"
    )
    answer = json.loads(succeeded(node, "woof", "tail", woof, "-n", 2, "--json"))
    assert answer["woof"] == woof
    assert [each["number"] for each in answer["elements"]] == [4, 3]


@given(st.binary(max_size=40))
def test_every_element_is_one_line_and_loses_nothing_in_json(element: bytes) -> None:
    document = element_document(7, element)
    assert bytes.fromhex(document.hex) == element
    assert document.text is None or document.text.encode() == element
    assert element_row(7, element, as_hex=True) == ("7", element.hex())
    assert element_row(7, element, as_hex=False)[0] == "7"


@pytest.mark.parametrize(
    ("element", "shown"),
    [(b"21.5", "21.5"), (b"\x1b[31mred\n", "\\x1b[31mred\n"), (NOT_TEXT, NOT_TEXT.hex())],
)
def test_terminal_is_not_steered_by_an_element(
    element: bytes,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_element(element, as_hex=False)
    assert capsys.readouterr().out == shown + "\n"


# --- following ----------------------------------------------------------------------------------


def test_follow_shows_what_is_there_and_then_ends_after_so_many(node: WoofNode, woof: str) -> None:
    put(node, woof, b"1", b"2", b"3", b"4")
    assert succeeded(node, "woof", "follow", woof, "--from", 3, "-n", 2) == "3\t3\n4\t4\n"
    assert succeeded(node, "woof", "follow", woof, "--tail", 1, "-n", 1) == "4\t4\n"
    lines = succeeded(node, "woof", "follow", woof, "--tail", 2, "-n", 2, "--json").splitlines()
    assert [json.loads(line)["number"] for line in lines] == [3, 4]


@contextlib.contextmanager
def following(node: WoofNode, woof: str) -> Iterator[subprocess.Popen[str]]:
    """The program follows ``woof`` from its newest element on."""
    with subprocess.Popen(
        [*PROGRAM, "woof", "follow", woof, "--tail", "1"],
        cwd=ROOT_FOLDER,
        env={**os.environ, "EDGISTRY_NODE": node.at},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_follow_writes_each_element_as_it_is_put(node: WoofNode, woof: str) -> None:
    put(node, woof, b"before")
    with following(node, woof) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "1\tbefore\n"
        put(node, woof, b"now")
        assert process.stdout.readline() == "2\tnow\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")


def test_follow_ends_when_its_reader_does(node: WoofNode, woof: str) -> None:
    put(node, woof, b"only")
    with following(node, woof) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "1\tonly\n"
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""


def test_follow_says_where_the_woof_begins_when_the_history_has_moved_on(
    node: WoofNode, woof: str
) -> None:
    put(node, woof, b"1", b"2", b"3", b"4")
    result = edgistry(node, "woof", "follow", woof, "--from", 1)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "begins at 2 [woof-evicted]" in result.stderr


# --- authority ----------------------------------------------------------------------------------


def test_keyring_gives_the_least_authority_that_suffices(
    node: WoofNode, woof: str, keyring: Keyring
) -> None:
    elsewhere = ROOT.derive(allow=Right.GET, object_name=woof, max_payload=8)
    keyring.add("reader", ROOT.derive(allow=Right.GET, object_name=woof))
    keyring.add("elsewhere", elsewhere, place="http://elsewhere:1")
    keyring.remove("everything")
    put(node, woof, b"21.5")
    assert succeeded(node, "woof", "get", woof) == "21.5"
    refused = edgistry(node, "woof", "put", woof, "22")
    assert refused.exit_code == 1
    assert "[no-capability]" in refused.stderr
    assert "edgistry cap add FILE" in refused.stderr
    assert "elsewhere: it is for http://elsewhere:1" in refused.stderr


def test_capability_from_a_file_is_checked_before_anything_is_sent(
    node: WoofNode, woof: str
) -> None:
    reader = written(ROOT.derive(allow=Right.GET, object_name=woof), "reader")
    put(node, woof, b"21.5")
    assert succeeded(node, "woof", "get", woof, "--capability", reader) == "21.5"
    refused = edgistry(node, "woof", "put", woof, "22", "--capability", reader)
    assert (refused.exit_code, "[no-right]" in refused.stderr) == (1, True)
    assert node.do(node.client.latest(woof)) == 1


def test_capability_may_come_from_the_environment_or_standard_input(
    node: WoofNode, woof: str, keyring: Keyring
) -> None:
    keyring.remove("everything")
    env = {"EDGISTRY_CAPABILITY": written(ROOT, "root"), "EDGISTRY_NODE": node.at}
    put_one = CliRunner().invoke(program, ["woof", "put", woof, "x"], env=env)
    assert put_one.exit_code == 0
    text = danger_text(ROOT).encode()
    assert succeeded(node, "woof", "put", woof, "x", "--capability", "-", stdin=text) == "2\n"
    both = edgistry(node, "woof", "put", woof, "--capability", "-", stdin=text)
    assert both.exit_code == 2


def test_required_capability_goes_beside(node: WoofNode, woof: str) -> None:
    other = ROOT.derive(allow=Right.LATEST, object_name=woof)
    needy = written(ROOT.derive(allow=Right.PUT, require=[other.id]), "needy")
    alone = edgistry(node, "woof", "put", woof, "x", "--capability", needy)
    assert (alone.exit_code, "[caveat]" in alone.stderr) == (1, True)
    beside = written(other, "other")
    words = ("--capability", needy, "--beside", beside)
    assert succeeded(node, "woof", "put", woof, "x", *words) == "1\n"


def test_capability_of_another_issuer_is_not_believed(node: WoofNode, woof: str) -> None:
    stranger = written(granted(Right.PUT), "stranger")
    result = edgistry(node, "woof", "put", woof, "x", "--capability", stranger)
    assert (result.exit_code, "[unproven-refusal]" in result.stderr) == (1, True)


# --- usage and reachability ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["woof", "put"],
        ["woof", "put", "ns", "x"],
        ["woof", "put", "NS/temp", "x"],
        ["woof", "put", "woof://host/ns", "x"],
        ["woof", "put", "woof://user@host/ns/temp", "x"],
        ["woof", "put", "woof://host/ns/temp", "x", "--node", "http://host"],
        ["woof", "put", "ns/temp", "x", "--file", "f"],
        ["woof", "put", "ns/temp", "x", "y"],
        ["woof", "put", "ns/temp", "x", "--beside", "f"],
        ["woof", "put", "ns/temp", "x", "--capability", "-", "--beside", "-"],
        ["woof", "create", "ns/temp"],
        ["woof", "create", "ns/temp", "--history", "many"],
        ["woof", "get", "ns/temp", "first"],
        ["woof", "tail", "ns/temp", "-n", "0"],
        ["woof", "follow", "ns/temp", "--from", "0"],
        ["woof", "follow", "ns/temp", "--from", "1", "--tail", "1"],
        ["namespace", "create", "ns/temp"],
        ["namespace", "create", "woof://host/ns/temp"],
    ],
)
def test_usage_error_is_exit_code_2(node: WoofNode, arguments: list[str]) -> None:
    result = edgistry(node, *arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_node_that_is_away_is_exit_code_3() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = f"woof://127.0.0.1:{unused.getsockname()[1]}/ns/temp"
        for command in ("latest", "follow"):
            words = ["woof", command, place, "--timeout", "50ms"]
            result = CliRunner().invoke(program, words)
            assert (result.exit_code, "[cannot-reach]" in result.stderr) == (3, True)
