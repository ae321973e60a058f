"""Handlers in processes of their own: what they may do, and how the program outlives them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgistry.adapters import faas_limits, faas_process, faas_spawned
from edgistry.adapters.faas_process import ProcessWorker
from edgistry.adapters.log import close_logging, setup_logging
from edgistry.errors import ConfigError
from edgistry.faas_letters import LETTERS_WOOF
from edgistry.faas_outcome import Answer, Outcome
from edgistry.handlers import Context, HandlerTable, handler
from edgistry.woof_staging import Staging
from edgistry.woof_triggers import Trigger

from . import isolated_handlers as isolated
from .faas_world import faas, until

SMALL_OUTPUT = 4096


async def reason(function: object, element: bytes = b"x") -> str:
    """Why this handler becomes a dead letter; whatever it did, another one runs after it."""

    @handler
    async def other(context: Context, woof: str, seq: int, element: bytes) -> None:
        await context.put("a/out", b"still here")

    name = function.__name__  # type: ignore[attr-defined]
    async with faas(function, other) as world:  # type: ignore[arg-type]
        await world.handle(element, handler=name)
        (found,) = world.reasons()
        await world.handle(b"y", handler="other")
        assert world.elements()[-1] == b"still here"
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("name", ["double", "double_async"])
async def test_isolated_handler_reads_puts_and_answers_as_any_other(name: str) -> None:
    answers: list[Outcome] = []

    def on_end(staging: Staging, trigger: Trigger, outcome: Outcome) -> None:
        answers.append(outcome)

    async with faas(getattr(isolated, name), on_end=on_end) as world:
        await world.handle(b"ab", handler=name)
        assert world.elements() == [b"abab1 1"]
        await world.handle(b"c", handler=name)
        assert world.elements() == [b"abab1 1", b"cc2 2"]
    assert answers == [Answer(answer=b"ab"), Answer(answer=b"c")]


async def test_many_puts_at_a_time_are_made_once_when_it_is_tried_again() -> None:
    async with faas(isolated.many_puts) as world:
        await world.handle(b"x", handler="many_puts")
        expected = {b"%d" % number for number in range(100)} | {b"not waited for"}
        assert len(world.elements()) == 101
        assert set(world.elements()) == expected
        assert world.reasons() == []


async def test_refused_put_that_nobody_waits_for_fails_the_try() -> None:
    assert await reason(isolated.lost_put) == "woof-missing: there is no WooF 'a/missing'"


async def test_process_is_used_again_and_keeps_no_secret_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGISTRY_TOKEN", "secret")
    async with faas(isolated.tells) as world:
        for _ in range(3):
            await world.handle(b"x", handler="tells")
        told = [element.decode().split() for element in world.elements()]
        assert len({pid for pid, *_ in told}) == 1
        assert [used for _, used, *_ in told] == ["1", "2", "3"]
        assert "EDGISTRY_TOKEN" not in told[0]
        assert int(told[0][0]) != os.getpid()


async def test_process_is_replaced_after_its_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faas_process, "MAX_USES", 2)
    async with faas(isolated.tells) as world:
        for _ in range(3):
            await world.handle(b"x", handler="tells")
        pids = [int(element.split()[0]) for element in world.elements()]
        assert pids[0] == pids[1] != pids[2]
        assert not is_alive(pids[0])


async def test_process_with_nothing_to_do_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faas_process, "IDLE_S", 0.01)
    async with faas(isolated.tells) as world:
        await world.handle(b"x", handler="tells")
        pid = int(world.elements()[0].split()[0])
        await until(lambda: not is_alive(pid))
        await world.handle(b"x", handler="tells")
        assert len(world.elements()) == 2


async def test_no_process_outlives_the_runtime() -> None:
    async with faas(isolated.tells, isolated.hangs) as world:
        await world.handle(b"x", handler="tells")
        await world.put(b"x", handler="hangs")
        await until(lambda: len(world.elements()) == 2)
        pids = [int(element.split()[0]) for element in world.elements()]
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("name", ["hangs", "hangs_async"])
async def test_handler_that_hangs_is_killed(name: str) -> None:
    async with faas(getattr(isolated, name)) as world:
        await world.handle(b"x", handler=name)
        assert world.reasons() == ["took more than 0.3 s"]
        assert not is_alive(int(world.elements()[0]))


async def test_handler_that_computes_too_long_is_killed() -> None:
    assert await reason(isolated.computes) == "used more than 1 s of processor time"


async def test_handler_that_hoards_memory_fails() -> None:
    assert await reason(isolated.memory_bomb) == "MemoryError"


async def test_memory_within_the_limit_can_be_used() -> None:
    async with faas(isolated.uses_some_memory) as world:
        await world.handle(b"x", handler="uses_some_memory")
        assert world.elements() == [b"%d" % (50 << 20)]


async def test_handler_can_start_no_process_and_signal_none() -> None:
    async with faas(isolated.forks) as world:
        await world.handle(b"x", handler="forks")
        assert world.elements() == [b"refused refused refused refused refused"]


async def test_fork_bomb_does_not_go_off() -> None:
    assert await reason(isolated.bomb) == "ChildProcessError: no child"


async def test_handler_may_start_threads() -> None:
    async with faas(isolated.starts_a_thread) as world:
        await world.handle(b"x", handler="starts_a_thread")
        assert world.elements() == [b"1"]


async def test_handler_that_ends_its_process_has_failed() -> None:
    assert await reason(isolated.exits) == "its process ended with exit code 7"
    assert await reason(isolated.asks_to_exit) == "SystemExit: bye"


async def test_handler_that_crashes_its_process_has_failed() -> None:
    assert await reason(isolated.crashes) == "its process was ended by SIGSEGV"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\x03\x90\x00",
        b"\x00\x00\x00\x01\x63\x90",
        b"\x00\x00\x00\x04\x06\x94\xc0\xc0\xc2",
        b"\x00\x00\x00\x01\x00\x90",
    ],
)
async def test_handler_that_talks_to_the_parent_itself_fails_at_most_itself(data: bytes) -> None:
    assert await reason(isolated.talks_itself, data) in (
        "wrote to its parent by itself",
        "wrote to its parent by itself (malformed)",
        "wrote to its parent by itself (too-large)",
    )


async def test_handler_that_closes_everything_has_failed() -> None:
    assert await reason(isolated.closes_everything) == "its process was ended by SIGKILL"


async def test_handler_writes_no_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert (await reason(isolated.writes_a_file, bytes(file))).startswith("OSError: [Errno 27]")
    assert not file.exists() or file.read_bytes() == b""


async def test_oversized_put_is_refused_in_the_child() -> None:
    assert (await reason(isolated.oversized)).startswith("too-large: an element of 65537 bytes")


async def test_module_that_cannot_be_loaded_in_the_child_fails_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGISTRY_TESTS", "1")
    from .unloadable_handlers import unloadable

    assert (await reason(unloadable)).startswith(
        "cannot be loaded: config: handlers module tests.edgistry.unloadable_handlers: "
        "RuntimeError: secrets are not passed on"
    )


async def test_process_that_cannot_be_started_is_a_failure_of_the_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_descriptor: int, _printed: int) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(faas_spawned, "_start", refuse)
    async with faas(isolated.exits) as world:
        await world.handle(b"x", handler="exits")
        assert world.reasons() == [
            "its process cannot be started: Resource temporarily unavailable"
        ]


# --- what it prints -----------------------------------------------------------------------------


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "log"
    setup_logging(level="info", path=path)
    yield path
    close_logging()
    logging.getLogger("edgistry").propagate = True


def lines_of(log_file: Path) -> list[str]:
    return log_file.read_text().splitlines()


async def test_what_it_prints_is_kept_for_the_operator_and_in_no_log(log_file: Path) -> None:
    async with faas(isolated.fails) as world:
        await world.handle(b"x", handler="fails")
        (letter,) = world.runtime.letters.newest(1)
        assert letter.record.output == b"password: hunter2\ntoken: abc\n"
        summary = world.woofs.woofs.get(LETTERS_WOOF, letter.number)
    lines = "\n".join(lines_of(log_file))
    assert "a handler failed for good" in lines
    for secret in ("hunter2", "abc", "no use"):
        assert secret not in lines
    assert b"hunter2" not in summary


async def test_only_the_end_of_what_it_prints_is_kept() -> None:
    async with faas(isolated.prints_a_lot) as world:
        await world.handle(b"x", handler="prints_a_lot")
        (letter,) = world.runtime.letters.newest(1)
        assert len(letter.record.output) == SMALL_OUTPUT
        assert letter.record.output.endswith(b"x\nthe end\n")


async def test_what_it_logs_says_whose_it_is(log_file: Path) -> None:
    async with faas(isolated.double) as world:
        await world.handle(b"x", handler="double")
    (line,) = [each for each in lines_of(log_file) if "missing" in each]
    assert "handler=double woof=a/in seq=1" in line
    assert "said_handler=forged" in line


# --- limits -------------------------------------------------------------------------------------


def test_handler_of_the_main_module_cannot_be_isolated() -> None:
    @handler(isolation="process")
    def function(context: object, woof: str, seq: int, element: bytes) -> None:
        """Pretends to be of the program that was started."""

    function.__module__ = "__main__"
    (made,) = HandlerTable.from_names({"function": function})
    with pytest.raises(ConfigError, match="a module of its own"):
        ProcessWorker(made)


def test_filter_is_made_for_known_machines_only() -> None:
    for machine in ("x86_64", "aarch64"):
        code = faas_limits._filter(machine)
        assert len(code) % 8 == 0
        assert len(code) // 8 < 4096
    assert faas_limits._filter("pdp11") == b""


def test_jumps_of_the_filter_stay_inside_it() -> None:
    for machine in ("x86_64", "aarch64"):
        code = faas_limits._filter(machine)
        steps = len(code) // 8
        for step in range(steps):
            operation = int.from_bytes(code[8 * step : 8 * step + 2], "little")
            if operation & 0x07 == 0x05:
                farthest = max(code[8 * step + 2], code[8 * step + 3])
                assert step + 1 + farthest < steps
