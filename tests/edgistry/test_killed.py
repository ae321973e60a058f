"""kill -9 at random moments during concurrent puts with handlers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.woof_keys import EFFECTS
from edgistry.woof_store import WoofStore

from .killing import Nursery, memory_directory
from .putting import HANDLER, LAST_ROUND, LOG, OUT, SHORT, SHORT_HISTORY, put_until_killed

KILLS = 200


def check(directory: Path, acknowledged: dict[int, bytes]) -> None:
    """What must hold after any kill."""
    store = LevelKeyValue(directory / "db")
    woofs = WoofStore(store)
    if LOG in [each.name for each in woofs.woofs("a")] if woofs.namespaces() else []:
        log = dict(woofs.scan(LOG))
        assert list(log) == list(range(1, len(log) + 1))
        assert max(Counter(log.values()).values(), default=0) <= 1
        assert acknowledged.items() <= log.items()
        due = {trigger.number: trigger.element for trigger in woofs.triggers(HANDLER)}
        assert due.items() <= log.items()
        done = set(woofs.scan(OUT))
        outputs = [element for _, element in done]
        assert len(set(outputs)) == len(outputs)
        fired = {element for element in log.values() if element.endswith(b"!")}
        assert fired == set(due.values()) | set(outputs)
        window = woofs.window(SHORT)
        assert len(window) == min(SHORT_HISTORY, window.latest)
        assert len(list(woofs.scan(SHORT))) == len(window)
    else:
        assert acknowledged == {}
    store.close()


def test_200_kills_lose_no_acknowledged_put_repeat_nothing_and_reuse_no_number() -> None:
    seeded = Random(9)
    acknowledged: dict[int, bytes] = {}
    with memory_directory() as directory, Nursery() as nursery:
        for number in range(KILLS):
            for told in nursery.run_and_kill(put_until_killed, directory, number, seeded):
                at, _, element = told.partition(b" ")
                # A number told twice must be that of the same element, put again by its key.
                assert acknowledged.setdefault(int(at), element) == element
            if number % 10 == 9:
                check(directory, acknowledged)
        nursery.run_to_the_end(put_until_killed, directory, LAST_ROUND)
        check(directory, acknowledged)
        store = LevelKeyValue(directory / "db")
        woofs = WoofStore(store)
        assert woofs.handlers_waiting() == []
        fired = sorted(e for _, e in woofs.scan(LOG) if e.endswith(b"!"))
        assert sorted(element for _, element in woofs.scan(OUT)) == fired
        assert list(store.scan(EFFECTS, EFFECTS + b"\xff")) == []
        store.close()
    assert len(acknowledged) > KILLS
