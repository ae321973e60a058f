"""``edgistry call --any`` against a node with several devices, in another thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.cli import program
from client.tickets import Tickets
from tests.abci_app.any_world import AREA, AnyWorld, any_world

PATIENCE_S = 30.0


class Served:
    """A node in a thread; its devices wake all the time, or never."""

    def __init__(self, *, depth: int = 1000) -> None:
        self.awake = True
        self._depth = depth
        self.at = ""
        self.world: AnyWorld | None = None
        self._started = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        async with any_world(3, depth=self._depth) as world:
            self.at, self.world = world.at, world
            self._started.set()
            while not self._stop.is_set():
                if self.awake:
                    await world.wake(0, 1, 2)
                await asyncio.sleep(0.01)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Served() as served:
        yield served


def call(node: Served, *words: str) -> Result:
    options = ("call", "--any", "--type", "valve", "--cell", AREA, *words)
    return CliRunner().invoke(program, list(options), env={"EDGISTRY_NODE": node.at})


def test_one_of_the_services_answers_and_no_ticket_is_left(node: Served) -> None:
    result = call(node, "open", "--data", "now")
    assert result.exit_code == 0, result.output
    assert node.world is not None
    ((number, target),) = node.world.executed
    assert target == "valve/open"
    assert result.stdout.strip() == node.world.devices[number].id
    assert list(Tickets.of_user().all()) == []


def test_a_call_that_nobody_waits_for_keeps_its_ticket_and_is_fetched_later(node: Served) -> None:
    node.awake = False
    pending = call(node, "read", "--wait", "0s", "--json")
    assert pending.exit_code == 0, pending.output
    number = json.loads(pending.stdout)["id"]
    assert [kept.name for kept in Tickets.of_user().all()] == [number]
    node.awake = True
    words = ["request", "status", number, "--wait", "20s"]
    result = CliRunner().invoke(program, words, env={"EDGISTRY_NODE": node.at})
    assert result.exit_code == 0, result.output
    assert node.world is not None
    assert len(node.world.executed) == 1


def test_nobody_of_that_kind_is_a_refusal(node: Served) -> None:
    result = call(node, "dance")
    assert result.exit_code == 1
    assert "no-member" in result.output


def test_a_call_that_went_from_one_to_another_leaves_no_ticket_of_those_that_had_no_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Served(depth=1) as node:
        node.awake = False
        waiting = [call(node, "open", "--wait", "0s", "--json") for _ in range(3)]
        assert {each.exit_code for each in waiting} == {0}
        full = call(node, "open")
        assert (full.exit_code, "service-full" in full.output) == (1, True)
    kept = sorted(json.loads(each.stdout)["id"] for each in waiting)
    assert sorted(each.name for each in Tickets.of_user().all()) == kept


def test_what_is_missing_is_named(node: Served) -> None:
    words = ["call", "--any", "--type", "valve", "--cell", AREA]
    result = CliRunner().invoke(program, words)
    assert (result.exit_code, "Missing argument 'ACTION'" in result.output) == (2, True)
    result = CliRunner().invoke(program, ["call"])
    assert (result.exit_code, "Missing argument 'HANDLE'" in result.output) == (2, True)
