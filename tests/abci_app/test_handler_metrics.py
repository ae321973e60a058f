"""What a node's metrics say about its handlers."""

from __future__ import annotations

from collections.abc import Callable

from abci_app.handler_metrics import watch_handlers
from edgistry.handlers import Context, handler
from tests.edgistry.faas_world import Faas, copy, faas, until
from tests.edgistry.woof_tools import FailingKeyValue


def figures(world: Faas) -> dict[str, float]:
    """All of them, as somebody who looks now sees them."""
    read: dict[str, Callable[[], float]] = {}

    def watch(name: str, help_text: str, value: Callable[[], float]) -> None:
        assert help_text.endswith(".")
        read[name.removeprefix("handlers_")] = value

    watch_handlers(watch, world.runtime)
    return {name: value() for name, value in read.items()}


@handler(attempts=2, first_wait_s=0.001)
async def fails(context: Context, woof: str, seq: int, element: bytes) -> None:
    raise ValueError


async def test_figures_are_those_of_all_handlers_together() -> None:
    async with faas(copy, fails) as world:
        await world.handle(b"1", b"2", handler="copy")
        await world.handle(b"3", handler="fails")
        assert figures(world) == {
            "running": 0,
            "done": 2,
            "failed": 2,
            "dead": 1,
            "left_behind": 0,
            "backlog": 0,
            "halted": False,
        }


async def test_backlog_is_from_the_oldest_that_is_due_to_the_newest() -> None:
    async with faas() as world:  # none of these handlers is there
        assert figures(world)["backlog"] == 0
        for name in ("one", "one", "one", "other"):
            await world.put(b"x", handler=name)
        assert figures(world)["backlog"] == 4
        oldest, second, _ = world.woofs.woofs.triggers("one")
        await world.woofs.commit(lambda staging: staging.finish(second))
        assert figures(world)["backlog"] == 4
        await world.woofs.commit(lambda staging: staging.finish(oldest))
        assert figures(world)["backlog"] == 2


async def test_disk_that_takes_no_more_writes_is_seen() -> None:
    store = FailingKeyValue()

    @handler
    async def puts(context: Context, woof: str, seq: int, element: bytes) -> None:
        store.failures = 1_000_000
        await context.put("a/out", b"x")

    async with faas(puts, store=store) as world:
        await world.put(b"x", handler="puts")
        await until(lambda: figures(world)["halted"])
        assert figures(world)["backlog"] == 1
