"""What an operator can ask about handlers and dead letters, over the API and the command line."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from abci_app.cli import program
from abci_app.handler_desk import HandlerDesk, parse_id
from abci_app.initialize import init_node
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.faas_runtime import HandlerRuntime
from edgistry.errors import InvalidValueError, MalformedError, NotFoundError
from edgistry.handlers import Context, HandlerTable, handler
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.transactions import RegionPut

from .node_thread import NodeThread
from .solo_node import SoloNode, open_solo

BINARY = b"\xff\xfe\x00"

works = False


@handler(attempts=1, concurrency=1)
async def alarm(context: Context, woof: str, seq: int, element: bytes) -> None:
    if not works:
        raise ValueError("sensor \x1b[31mbroken")
    await context.put("a/out", element)


@handler(isolation="process", concurrency=2)
def idle(context: object, woof: str, seq: int, element: bytes) -> None:
    """Never called."""


class Desk:
    """A node's desk with a runtime that runs, and a WooF to put into."""

    def __init__(self, node: SoloNode, store: KeyValue) -> None:
        self.node = node
        self.woofs = DurableWoofs(store)
        table = HandlerTable.from_names({"alarm": alarm, "idle": idle})
        self.runtime = HandlerRuntime(store, self.woofs, table)
        self.desk = HandlerDesk(self.runtime, module="tests", outbox=node.service.outbox)

    async def fail(self, *elements: bytes) -> None:
        """Let these become dead letters."""
        for element in elements:
            await self.woofs.put("a/in", element, handler="alarm")
        async with asyncio.timeout(30):
            await self.runtime.idle()

    async def refuse_transaction(self) -> None:
        """Let the chain refuse one."""
        await self.node.service.outbox.append([RegionPut(name="alp", version=5, cells=b"")])
        await self.node.settle()

    async def __aenter__(self) -> Desk:
        await self.woofs.create_namespace("a")
        await self.woofs.create("a/in", 100)
        await self.woofs.create("a/out", 100)
        self._running = asyncio.create_task(self.runtime.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait([self._running])
        await self.woofs.close()


@pytest.fixture(autouse=True)
def broken_again() -> Iterator[None]:
    global works
    works = False
    yield
    works = False


async def open_desk() -> Desk:
    store = MemoryKeyValue()
    return Desk(await open_solo(MemoryKeyValue(), store), store)


async def test_handlers_are_listed_with_those_that_are_missing() -> None:
    async with await open_desk() as world:
        await world.fail(b"x")
        await world.woofs.put("a/in", b"x", handler="gone")
        listed = {each.name: each for each in world.desk.handlers().handlers}
    assert sorted(listed) == ["alarm", "gone", "idle"]
    found = listed["alarm"]
    assert (found.kind, found.state, found.failed, found.dead) == ("async", "ok", 1, 1)
    assert (listed["gone"].state, listed["gone"].waiting) == ("missing", 1)
    assert (listed["idle"].isolation, listed["idle"].concurrency) == ("process", 2)


async def test_both_kinds_of_dead_letters_are_shown_alike() -> None:
    async with await open_desk() as world:
        await world.fail(b"first", b"second")
        await world.refuse_transaction()
        answer = world.desk.letters(10)
        assert [(each.id, each.what, each.about) for each in answer.dead_letters] == [
            ("h2", "alarm", "a/in 2"),
            ("h1", "alarm", "a/in 1"),
            ("t1", "region-put", "sequence 1"),
        ]
        assert not answer.more
        assert world.desk.letters(2).more
        assert [each.id for each in world.desk.letters(2).dead_letters] == ["h2", "h1"]
        shown = world.desk.letter("h2")
        assert (shown.content, shown.letter.bytes) == (b"second", 6)
        transaction = world.desk.letter("t1")
        assert len(transaction.content) == transaction.letter.bytes > 0
        assert "refused by the chain" in transaction.letter.reason


async def test_replayed_letters_are_tried_again() -> None:
    global works
    async with await open_desk() as world:
        await world.fail(b"1", b"2", b"3")
        works = True
        answer = await world.desk.replay(["h1", "h3"], every=False)
        await world.runtime.idle()
        assert answer.count == 2
        assert sorted(element for _, element in world.woofs.woofs.scan("a/out")) == [b"1", b"3"]
        assert [each.id for each in world.desk.letters(10).dead_letters] == ["h2"]


async def test_all_letters_are_replayed_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    global works
    monkeypatch.setattr("abci_app.handler_desk.AT_ONCE", 2)
    async with await open_desk() as world:
        await world.fail(*(b"%d" % number for number in range(5)))
        works = True
        assert (await world.desk.replay([], every=True)).count == 5
        await world.runtime.idle()
        assert len(list(world.woofs.woofs.scan("a/out"))) == 5


async def test_all_or_none_of_the_letters_that_are_named() -> None:
    async with await open_desk() as world:
        await world.fail(b"1")
        await world.refuse_transaction()
        for names, refusal in (
            (["h1", "h2"], NotFoundError),
            (["h1", "t1"], InvalidValueError),
            (["h1", "x1"], MalformedError),
        ):
            for act in (world.desk.replay, world.desk.purge):
                with pytest.raises(refusal):
                    await act(names, every=False)
        assert [each.id for each in world.desk.letters(10).dead_letters] == ["h1", "t1"]


async def test_purging_everything_leaves_nothing_of_either_kind() -> None:
    async with await open_desk() as world:
        await world.fail(b"1", b"2")
        await world.refuse_transaction()
        assert (await world.desk.purge(["h1"], every=False)).count == 1
        assert (await world.desk.purge([], every=True)).count == 2
        assert world.desk.letters(10).dead_letters == ()
        assert (await world.desk.purge([], every=True)).count == 0
        await world.refuse_transaction()
        assert [each.id for each in world.desk.letters(10).dead_letters] == ["t2"]


async def test_program_without_a_chain_has_letters_of_handlers_only() -> None:
    async with await open_desk() as world:
        desk = HandlerDesk(world.runtime, module="tests")
        await world.fail(b"1")
        assert [each.id for each in desk.letters(10).dead_letters] == ["h1"]
        with pytest.raises(NotFoundError):
            desk.letter("t1")
        assert (await desk.purge([], every=True)).count == 1


@pytest.mark.parametrize("name", ["", "h", "1", "h0", "h01", "H1", "h-1", "h1 ", "h" + "9" * 20])
def test_id_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(MalformedError):
        parse_id(name)


# --- the command line ---------------------------------------------------------------------------


class DeskThread(NodeThread):
    """A node with handlers."""

    world: Desk

    async def furnish(self, parts: AsyncExitStack, queues: KeyValue) -> HandlerDesk:
        self.world = await parts.enter_async_context(Desk(self.node, queues))
        return self.world.desk

    def fail(self, *elements: bytes) -> None:
        self.ask(self.world.fail(*elements))


@pytest.fixture(scope="module")
def started() -> Iterator[DeskThread]:
    with DeskThread.started() as node:
        yield node


@pytest.fixture
def node(started: DeskThread) -> Iterator[DeskThread]:
    yield started
    run(started, "dead-letters", "purge", "--all")


def run(node: DeskThread, *words: str) -> Result:
    return node.invoke(*words)


def run_json(node: DeskThread, *arguments: str) -> Any:
    result = run(node, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_command_lists_handlers(node: DeskThread) -> None:
    result = run(node, "handlers", "list")
    assert result.exit_code == 0
    header, first, second = result.stdout.splitlines()
    assert header.split() == [
        "HANDLER", "STATE", "WAITING", "RUNNING", "DONE", "FAILED", "DEAD", "HOW",
    ]  # fmt: skip
    assert first.split()[:2] == ["alarm", "ok"]
    assert "plain, isolated, 2 at a time, 5 tries of 30 s" in second
    answer = run_json(node, "handlers", "list")
    assert answer["module"] == "tests"
    assert [each["name"] for each in answer["handlers"]] == ["alarm", "idle"]


def test_command_lists_shows_and_replays_dead_letters(node: DeskThread) -> None:
    global works
    node.fail(b"42", BINARY)
    listed = run_json(node, "dead-letters", "list")["dead_letters"]
    (binary, text) = [each["id"] for each in listed]
    table = run(node, "dead-letters", "list").stdout
    assert "\x1b" not in table
    assert "ValueError: sensor \\x1b[31mbroken" in table
    shown = run(node, "dead-letters", "show", text).stdout
    assert "content   42" in shown
    assert "about     a/in" in shown
    assert f"content   hex {BINARY.hex()}" in run(node, "dead-letters", "show", binary).stdout
    detail = run_json(node, "dead-letters", "show", binary)
    assert base64.b64decode(detail["content"]) == BINARY
    works = True
    assert run(node, "dead-letters", "replay", text, binary).stdout == "replayed: 2\n"
    assert run_json(node, "dead-letters", "list")["dead_letters"] == []


def test_command_purges_what_is_named_or_everything(node: DeskThread) -> None:
    node.fail(b"1", b"2", b"3")
    newest = run_json(node, "dead-letters", "list")["dead_letters"][0]["id"]
    assert run(node, "dead-letters", "purge", newest).stdout == "purged: 1\n"
    assert run_json(node, "dead-letters", "purge", "--all") == {"count": 2}
    again = run(node, "dead-letters", "purge", "--all")
    assert (again.exit_code, again.stdout) == (1, "purged: 0\n")


def test_command_that_names_nothing_is_a_usage_error(node: DeskThread) -> None:
    for verb in ("replay", "purge"):
        for arguments in ((), ("h1", "--all")):
            result = run(node, "dead-letters", verb, *arguments)
            assert result.exit_code == 2
            assert "name dead letters, or say --all" in result.stderr


def test_command_refuses_what_is_not_there(node: DeskThread) -> None:
    result = run(node, "dead-letters", "show", "h999")
    assert result.exit_code == 1
    assert "there is no dead letter 999" in result.stderr
    assert run(node, "dead-letters", "show", "../status").exit_code == 1


def test_command_for_a_node_that_does_not_run_says_so(tmp_path: Path) -> None:
    root = tmp_path / "node"
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as directory:
        root = Path(directory) / "node"
        init_node(root, name="solo", engine="solo", base_port=27000, chain_id="solo-test")
        for command in (["handlers", "list"], ["dead-letters", "list"]):
            result = CliRunner().invoke(program, [*command, str(root)])
            assert result.exit_code == 3
            assert "edgistry-node run" in result.stderr
