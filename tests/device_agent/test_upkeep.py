"""What a device keeps no longer than it must."""

from __future__ import annotations

from collections.abc import Iterable

from device_agent.device import UPKEEP_EVERY_S, Upkeep
from edgistry.authority import Authority
from edgistry.errors import StorageError
from edgistry.kv import Change, MemoryKeyValue
from edgistry.replay import Outcome

from .device_world import ISSUER, NOW_US, Requests

MINUTE_US = 60_000_000


class FullDisk(MemoryKeyValue):
    is_full = False

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if self.is_full:
            raise StorageError("no space left")
        super().write(changes, sync=sync)


class Kept:
    """A device that has answered one request, which expires in a minute."""

    def __init__(self) -> None:
        self.store = FullDisk()
        self.authority = Authority(self.store, ISSUER)
        self.upkeep = Upkeep(self.authority.guard)
        self.answer()

    def answer(self) -> None:
        request = Requests().bind(deadline=NOW_US + MINUTE_US)
        self.authority.answer(request.encoded, lambda _: Outcome(), now_us=NOW_US)

    def windows(self) -> int:
        return len(list(self.store.scan(b"replay/H", b"replay/I")))


def test_window_is_dropped_when_its_requests_have_expired() -> None:
    kept = Kept()
    kept.upkeep.look(1.0, now_us=NOW_US + MINUTE_US)
    assert kept.windows() == 1
    kept.upkeep.look(2.0, now_us=NOW_US + 2 * MINUTE_US)
    assert kept.windows() == 1, "it was looked after a second ago"
    kept.upkeep.look(1.0 + UPKEEP_EVERY_S, now_us=NOW_US + 2 * MINUTE_US)
    assert kept.windows() == 0


def test_without_a_proven_time_nothing_is_taken_for_expired() -> None:
    kept = Kept()
    kept.upkeep.look(1.0, now_us=None)
    assert kept.windows() == 1
    kept.upkeep.look(2.0, now_us=NOW_US + 2 * MINUTE_US)
    assert kept.windows() == 0, "and no turn is lost by that"


def test_full_disk_does_not_stop_the_device() -> None:
    kept = Kept()
    kept.store.is_full = True
    kept.upkeep.look(1.0, now_us=NOW_US + 2 * MINUTE_US)
    assert kept.windows() == 1
