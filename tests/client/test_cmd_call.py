"""``edgistry call`` and ``edgistry request``: answers, waiting, tickets, exit codes."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from client.cli import program
from client.following import Following
from client.keyring import Keyring
from client.tickets import Tickets
from edgistry.adapters.http import HttpClient
from edgistry.adapters.service_caller import CallTracker, ServiceCaller, keys_of_attempts
from edgistry.calls import Ticket
from edgistry.errors import UnknownHandleError
from edgistry.requests_api import RequestAnswer
from tests.abci_app.desk_world import GRANT, HOUR, SECOND

from .call_node import HANDLE, CallNode, call_node


@pytest.fixture
def node() -> Iterator[CallNode]:
    with call_node() as served:
        yield served


@pytest.fixture(autouse=True)
def keyring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Keyring:
    """The user's, with a capability to call the service."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = Keyring.of_user()
    made.add("hut", GRANT, place=HANDLE)
    return made


def edgistry(node: CallNode, *words: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(
        program, [str(word) for word in words], input=stdin, env={"EDGISTRY_NODE": node.at}
    )


def answer_of(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def submitted(node: CallNode, *options: object) -> str:
    """The id of a call that nobody waits for."""
    result = edgistry(node, "call", HANDLE, "read", "--wait", "0s", "--json", *options)
    answer = answer_of(result)
    assert answer["state"] == "QUEUED"
    return str(answer["id"])


def names() -> list[str]:
    return [kept.name for kept in Tickets.of_user().all()]


def test_device_that_wakes_answers_the_call(node: CallNode) -> None:
    with node.device_awake():
        result = edgistry(node, "call", HANDLE, "read", "--data", "please")
    assert (result.exit_code, result.stdout) == (0, "21.5")
    assert "queued as" in result.stderr
    assert node.world.device.executed == [b"please"]
    assert names() == []


def test_json_says_who_answered(node: CallNode) -> None:
    with node.device_awake():
        answer = answer_of(edgistry(node, "call", HANDLE, "read", "--json"))
    assert (answer["text"], answer["hex"], answer["answered_by"]) == ("21.5", "32312e35", "device")


def test_earlier_answer_is_taken_up_to_the_age_that_was_asked_for(node: CallNode) -> None:
    with node.device_awake():
        edgistry(node, "call", HANDLE, "read")
    node.world.now_us += 60 * SECOND
    answer = answer_of(edgistry(node, "call", HANDLE, "read", "--max-age", "1m", "--json"))
    assert (answer["text"], answer["answered_by"], answer["age_s"]) == ("21.5", "node", 60.0)


def test_data_comes_from_a_file_or_standard_input(node: CallNode, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\xff\x00")
    with node.device_awake():
        edgistry(node, "call", HANDLE, "read", "--file", tmp_path / "data")
        edgistry(node, "call", HANDLE, "read", "--file", "-", stdin=b"in")
    assert node.world.device.executed == [b"\xff\x00", b"in"]


def test_call_that_nobody_waits_for_is_fetched_by_its_id(node: CallNode) -> None:
    name = submitted(node)
    [kept] = Tickets.of_user().folder.iterdir()
    assert (kept.stem, stat.S_IMODE(kept.stat().st_mode)) == (name, 0o600)
    node.do(node.world.device.wake())
    shown = edgistry(node, "request", "status", name)
    assert (shown.exit_code, shown.stdout) == (0, "21.5")
    assert names() == []


def test_waiting_that_ends_too_early_says_how_to_go_on(node: CallNode) -> None:
    result = edgistry(node, "call", HANDLE, "read", "--wait", "20ms")
    [name] = names()
    assert (result.exit_code, result.stdout) == (4, "")
    assert name in result.stderr
    assert "edgistry request status" in result.stderr


def test_status_of_a_waiting_call_is_its_state(node: CallNode) -> None:
    name = submitted(node)
    shown = edgistry(node, "request", "status", name)
    assert (shown.exit_code, shown.stdout) == (0, f"{name} QUEUED\n")
    assert names() == [name]


def test_cancelled_call_never_runs(node: CallNode) -> None:
    name = submitted(node)
    done = edgistry(node, "request", "cancel", name)
    assert (done.exit_code, done.stdout) == (0, f"{name} CANCELLED\n")
    node.do(node.world.device.wake())
    assert node.world.device.executed == []
    assert names() == []


def test_call_after_its_deadline_ends_as_expired(node: CallNode) -> None:
    name = submitted(node, "--ttl", "1s")
    node.world.now_us += 2 * SECOND
    node.do(node.world.writer.sweep())
    shown = edgistry(node, "request", "status", name)
    assert shown.exit_code == 1
    assert "before its deadline" in shown.stderr
    assert names() == []


def test_same_key_makes_one_call_and_shows_its_answer_again(node: CallNode) -> None:
    with node.device_awake():
        shown = [
            edgistry(node, "call", HANDLE, "read", "--idempotency-key", "k").stdout
            for _ in range(2)
        ]
    assert shown == ["21.5", "21.5"]
    assert len(node.world.device.executed) == 1


def test_key_of_a_call_with_other_data_is_refused(node: CallNode) -> None:
    submitted(node, "--idempotency-key", "k", "--data", "one")
    again = edgistry(node, "call", HANDLE, "read", "--idempotency-key", "k", "--data", "two")
    assert (again.exit_code, "key-reused" in again.stderr) == (1, True)


def test_call_without_a_capability_says_where_to_get_one(node: CallNode, keyring: Keyring) -> None:
    keyring.remove("hut")
    result = edgistry(node, "call", HANDLE, "read")
    assert result.exit_code == 1
    assert f"edgistry grant request {HANDLE[:16]}" in result.stderr


def test_call_that_no_node_took_is_given_to_it_later(
    node: CallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgistry.adapters.service_caller._PAUSES_S", ())
    away = edgistry(node, "call", HANDLE, "read", "--node", "http://127.0.0.1:1")
    assert away.exit_code == 3
    [name] = names()
    assert name.startswith("unsent-")
    assert f"edgistry request status {name} --wait 60s" in away.stderr
    with node.device_awake():
        shown = edgistry(node, "request", "status", name, "--node", node.at, "--wait", "10s")
    assert (shown.exit_code, shown.stdout) == (0, "21.5")
    assert names() == []


def test_call_that_the_node_does_not_take_leaves_nothing_behind(
    node: CallNode, keyring: Keyring
) -> None:
    handle = ("B" if HANDLE[0] == "A" else "A") + HANDLE[1:]
    keyring.add("other", GRANT, place=handle)
    refused = edgistry(node, "call", handle, "read", "--idempotency-key", "k")
    assert (refused.exit_code, "no service" in refused.stderr) == (1, True), refused.stderr
    assert names() == []


def test_ctrl_c_before_the_node_has_confirmed_says_how_to_go_on(
    node: CallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_tracker: CallTracker, **_more: object) -> RequestAnswer:
        raise KeyboardInterrupt

    monkeypatch.setattr(CallTracker, "submit", interrupted)
    result = edgistry(node, "call", HANDLE, "read")
    [name] = names()
    assert (result.exit_code, f"edgistry request status {name}" in result.stderr) == (130, True)


def test_ticket_of_a_call_that_was_bound_anew_takes_the_place_of_the_first(
    node: CallNode,
) -> None:
    known: list[Ticket] = []
    tickets, name = Tickets.of_user(), submitted(node, "--idempotency-key", "k")
    first = tickets.get(name)
    node.do(node.world.device.wake())

    async def bound_anew() -> None:
        async with HttpClient(node.at) as http:
            following = Following(tickets)
            tracker = CallTracker(http, first.ticket)
            tracker.known_as(name)
            following.news(await tracker.look())
            caller = ServiceCaller(http, GRANT)
            for key in keys_of_attempts(b"k")[1:]:
                known.append(caller.ticket(HANDLE, "read", idempotency_key=key))
                following.keep(known[-1])
                following.news(await CallTracker(http, known[-1]).submit())

    asyncio.run(bound_anew())
    assert [kept.ticket for kept in tickets.all()] == known[-1:]
    again = edgistry(node, "call", HANDLE, "read", "--idempotency-key", "k", "--wait", "0s")
    assert (again.exit_code, len(names())) == (0, 1)


@pytest.mark.parametrize("ttl", ["0s", "8d"])
def test_ttl_that_cannot_be_is_named(node: CallNode, ttl: str) -> None:
    result = edgistry(node, "call", HANDLE, "read", "--ttl", ttl)
    assert (result.exit_code, "--ttl" in result.stderr) == (1, True)


def test_list_shows_how_calls_are_doing(node: CallNode) -> None:
    first, second = submitted(node), submitted(node, "--priority", "9")
    node.do(node.world.device.exchange(want_count=1))
    listed = answer_of(edgistry(node, "request", "list", "--json"))
    states = {each["id"]: each["state"] for each in listed["requests"]}
    assert states == {first: "QUEUED", second: "LEASED"}
    table = edgistry(node, "request", "list").stdout.splitlines()
    assert table[0].split("\t") == ["id", "state", "action", "handle", "until"]


def test_tickets_of_long_ago_are_forgotten(node: CallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(node)
    later = node.world.now_us + 26 * HOUR
    monkeypatch.setattr("client.cmd_request.now_us", lambda: later)
    assert answer_of(edgistry(node, "request", "list", "--json")) == {"requests": []}


@pytest.mark.parametrize("words", [("status",), ("cancel",), ("status", "--wait", "1s")])
def test_id_may_begin_like_an_option(node: CallNode, words: tuple[str, ...]) -> None:
    result = edgistry(node, "request", words[0], "-rM3VnfDkpYXPTICcgWV6g", *words[1:])
    assert (result.exit_code, "no request" in result.stderr) == (1, True)


def test_handle_may_begin_like_an_option(node: CallNode, keyring: Keyring) -> None:
    handle = "-" + HANDLE[1:]
    result = edgistry(node, "call", "--wait", "0s", handle, "read", "--data", "-x")
    assert result.exit_code == 1
    assert f"edgistry grant request {handle[:16]}" in result.stderr
    # Its beginning does as well, now that it was named here.
    result = edgistry(node, "call", "--wait", "0s", handle[:16], "read", "--data", "-x")
    assert f"edgistry grant request {handle[:16]}" in result.stderr


# --- any service --------------------------------------------------------------------------------


AREA = ("--any", "--type", "valve", "--cell", "87283082bffffff")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("call", "--any", "--cell", "87283082bffffff", "read"), "--any needs --type"),
        (("call", *AREA, "hut", "read"), "give an ACTION and no HANDLE"),
        (("call", *AREA, "--idempotency-key", "k", "read"), "does not go with --any"),
        (("call", *AREA, "--capability", "x", "read"), "does not go with --any"),
        (("call", "--any", "--type", "valve", "read"), "exactly one"),
        (("call", "hut"), "Missing argument"),
        (("call", "hut", "read", "--region", "bay"), "an area goes with --any"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(
    node: CallNode, words: tuple[str, ...], said: str
) -> None:
    result = edgistry(node, *words)
    assert result.exit_code == 2
    assert said in result.output


def test_a_node_without_services_has_nobody_to_call(node: CallNode) -> None:
    result = edgistry(node, "call", *AREA, "read")
    assert result.exit_code == 1
    assert Tickets.of_user().folder.exists() is False or not list(Tickets.of_user().all())


# --- tickets ------------------------------------------------------------------------------------


@pytest.fixture
def unsent() -> Ticket:
    caller = ServiceCaller(HttpClient("http://127.0.0.1:1"), GRANT)
    return caller.ticket(HANDLE, "read", ttl_s=60)


@pytest.mark.parametrize(
    ("is_new", "left"), [(True, 0), (False, 1)], ids=["never sent before", "perhaps taken before"]
)
def test_a_refused_call_keeps_its_ticket_if_a_node_may_have_taken_it_before(
    unsent: Ticket, is_new: bool, left: int
) -> None:
    tickets = Tickets.of_user()
    following = Following(tickets)

    def give() -> None:
        with following.waiting(wait_s=1.0, as_json=False):
            following.keep(unsent, is_new=is_new)
            raise UnknownHandleError("no more")

    with pytest.raises(UnknownHandleError):
        give()
    assert len(list(tickets.all())) == left


def test_a_ticket_stays_for_as_long_as_a_node_keeps_its_outcome(unsent: Ticket) -> None:
    tickets = Tickets.of_user()
    tickets.keep(unsent)
    end_us = unsent.request.envelope.deadline + 24 * HOUR
    tickets.remove_old(end_us)
    assert len(list(tickets.all())) == 1
    tickets.remove_old(end_us + 1)
    assert list(tickets.all()) == []
