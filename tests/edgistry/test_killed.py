"""kill -9 at random moments during concurrent puts with handlers."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.faas_letters import HandlerLetters
from edgistry.kv import prefix_end
from edgistry.woof_keys import ATTEMPTS, EFFECTS
from edgistry.woof_store import WoofStore

from .faas_world import until
from .killing import Nursery, memory_directory
from .putting import (
    END,
    HANDLER,
    LAST_ROUND,
    LOG,
    MIDDLE,
    OUT,
    SHORT,
    SHORT_HISTORY,
    isolate_until_killed,
)
from .putting import put_until_killed as program


def check(directory: Path, acknowledged: dict[int, bytes], *, ended: bool = False) -> None:
    """What must hold after any kill; ``ended``: and once no invocation is left."""
    store = LevelKeyValue(directory / "db")
    woofs = WoofStore(store)
    names = [each.name for each in woofs.woofs("a")]
    if LOG not in names:  # the last of them to be created
        assert acknowledged == {}
        store.close()
        return
    log = dict(woofs.scan(LOG))
    assert list(log) == list(range(1, len(log) + 1))
    assert len(set(log.values())) == len(log), "an element was appended twice"
    assert acknowledged.items() <= log.items()
    window = woofs.window(SHORT)
    assert len(window) == len(list(woofs.scan(SHORT))) == min(SHORT_HISTORY, window.latest)

    fired = {element for element in log.values() if element.endswith(b"!")}
    put = {name: [element for _, element in woofs.scan(name)] for name in (OUT, MIDDLE, END)}
    for name, elements in put.items():
        assert len(set(elements)) == len(elements), f"a handler has put twice into {name}"
    waiting = {each.element for each in woofs.triggers(HANDLER)}
    assert fired == waiting | (set(put[OUT]) & set(put[MIDDLE])), "an invocation was forgotten"
    passing = {each.element for each in woofs.triggers("pass_on")}
    assert set(put[MIDDLE]) == passing | set(put[END]), "an invocation was forgotten"
    assert HandlerLetters(store).count() == 0
    if ended:
        assert woofs.handlers_waiting() == []
        assert fired == set(put[OUT]) == set(put[MIDDLE]) == set(put[END])
        for remembered in (EFFECTS, ATTEMPTS):
            assert list(store.scan(remembered, prefix_end(remembered))) == []
    store.close()


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_kills_lose_no_acknowledged_put_repeat_nothing_and_complete_every_trigger(
    kills: int,
) -> None:
    seeded = Random(kills)
    acknowledged: dict[int, bytes] = {}
    with memory_directory() as directory, Nursery() as nursery:
        for number in range(kills):
            for told in nursery.run_and_kill(program, directory, number, seeded):
                at, _, element = told.partition(b" ")
                # A number told twice must be that of the same element, put again by its key.
                assert acknowledged.setdefault(int(at), element) == element
            if number % 10 == 9:
                check(directory, acknowledged)
        nursery.run_to_the_end(program, directory, LAST_ROUND)
        check(directory, acknowledged, ended=True)
    assert len(acknowledged) > kills


async def test_process_of_an_isolated_handler_ends_with_the_program_that_is_killed() -> None:
    with memory_directory() as directory, Nursery() as nursery:
        (told,) = nursery.kill_after(isolate_until_killed, directory, 0, messages=1)

        def is_gone() -> bool:
            # A process that has ended and that nobody waited for yet has no command line.
            try:
                return not Path(f"/proc/{int(told)}/cmdline").read_bytes()
            except OSError:
                return True

        await until(is_gone)
