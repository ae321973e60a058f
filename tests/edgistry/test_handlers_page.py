"""docs/handlers.md: its handlers do what it says, and its numbers are the real ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgistry.adapters.faas_module import load_handlers
from edgistry.adapters.faas_workers import MAX_LEFT_BEHIND
from edgistry.errors import DivergedError, UnknownHandlerError
from edgistry.faas import ALONE_AFTER, MAX_INTERRUPTIONS
from edgistry.faas_letters import LETTERS_WOOF, MAX_LETTERS, MAX_OUTPUT_BYTES
from edgistry.handlers import HandlerTable, Limits

from .faas_world import faas

TEXT = (Path(__file__).parents[2] / "docs" / "handlers.md").read_text(encoding="utf-8")
CODE = "".join(re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))


@pytest.fixture
def handlers(tmp_path: Path) -> Iterator[HandlerTable]:
    """Those of the page, in a file as it says."""
    before, path = set(sys.modules), list(sys.path)
    (tmp_path / "greenhouse.py").write_text(CODE)
    yield load_handlers("greenhouse", tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


async def test_three_hot_readings_in_a_row_raise_an_alarm_and_a_line_for_people(
    handlers: HandlerTable,
) -> None:
    async with faas(*(each.function for each in handlers)) as world:
        await world.woofs.create_namespace("greenhouse")
        for name in ("greenhouse/readings", "greenhouse/alarms", "greenhouse/reports"):
            await world.woofs.create(name, 100)
        for reading in (b"39", b"41.5", b"42", b"40.5", b"20"):
            await world.put(reading, handler="watch", woof="greenhouse/readings")
            await world.idle()
        assert world.elements("greenhouse/alarms") == [b"40.5"]
        assert world.elements("greenhouse/reports") == [b"40.5 degrees, alarm 1"]
        await world.put(b"hot", handler="report", woof="greenhouse/alarms")
        await world.idle()
        assert world.reasons() == ["GiveUpError: no number"]


async def test_mean_for_devices_is_that_of_the_last_ten_readings(handlers: HandlerTable) -> None:
    found = handlers.require_for_devices("ten_minute_mean")
    assert (found.isolation, [each.name for each in handlers if each.for_devices]) == (
        "process",
        ["ten_minute_mean"],
    )
    async with faas(found.function) as world:
        await world.woofs.create_namespace("greenhouse")
        await world.woofs.create("greenhouse/means", 100)
        for reading in range(12):
            await world.handle(b"%d" % reading, handler="ten_minute_mean")
        assert world.elements("greenhouse/means")[-1] == b"6.50"
        assert world.reasons() == []


def test_numbers_of_the_page_are_the_real_ones() -> None:
    limits = Limits()
    for words in (
        f"`memory_mb` ({limits.memory_mb})",
        f"`cpu_s` for each element ({limits.cpu_s})",
        f"last {MAX_OUTPUT_BYTES >> 10} KiB",
        f"{MAX_LETTERS // 1000} 000 are kept",
        f"`{LETTERS_WOOF}`",
        f"(`{UnknownHandlerError.code}`)",
        f"(`{DivergedError.code}`)",
    ):
        assert words in TEXT
    assert (ALONE_AFTER, MAX_INTERRUPTIONS, MAX_LEFT_BEHIND) == (2, 10, 8), (
        "the page says the second time, the tenth time, and after eight"
    )
