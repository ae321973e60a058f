"""What the tests of WooFs share: both stores, quick writes, and stores that fail on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pytest

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.errors import DiskFullError
from edgistry.kv import Change, KeyValue, MemoryKeyValue
from edgistry.woof_staging import Staging
from edgistry.woof_store import WoofStore

T = TypeVar("T")


def decide(woofs: WoofStore, store: KeyValue, decision: Callable[[Staging], T]) -> T:
    """Stage, write (not synced: no test of rules needs the disk's time) and settle."""
    with woofs.lock:
        staging = woofs.begin()
        try:
            answer = decision(staging)
        except BaseException:
            staging.take_back()
            raise
        store.write(staging.changes, sync=False)
        staging.settle()
    return answer


class World:
    """A store with its WooFs: decisions are written at once, and it can be started again."""

    def __init__(self, store: KeyValue, *, remembered_keys: int = 8) -> None:
        self.store = store
        self.remembered_keys = remembered_keys
        self.restart()

    def restart(self) -> None:
        """Forget everything that is not in the store."""
        self.woofs = WoofStore(self.store, remembered_keys=self.remembered_keys)

    def decide(self, decision: Callable[[Staging], T]) -> T:
        return decide(self.woofs, self.store, decision)

    def create(self, name: str, history: int, element_size: int = 0) -> bool:
        self.decide(lambda staging: staging.create_namespace(name.partition("/")[0]))
        return self.decide(lambda staging: staging.create(name, history, element_size))

    def put(
        self,
        name: str,
        element: bytes,
        *,
        handler: str | None = None,
        idempotency_key: bytes | None = None,
    ) -> int:
        return self.decide(
            lambda staging: staging.put(
                name, element, handler=handler, idempotency_key=idempotency_key
            )
        )


class FailingKeyValue(MemoryKeyValue):
    """Fails as often as ``failures`` says, like a full disk: nothing of the batch is there."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.writes = 0

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if self.failures:
            self.failures -= 1
            raise DiskFullError("no space in the test")
        self.writes += 1
        super().write(changes, sync=sync)


def change_places_before_a_scan(
    woofs: DurableWoofs, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When ``name`` is read next, the writer has just put another WooF, with one element, there."""
    scan = woofs.woofs.scan

    def change(staging: Staging) -> None:
        staging.delete(name)
        staging.create(name, 100)
        staging.put(name, b"of another one")

    def late(*arguments: Any) -> Iterator[tuple[int, bytes]]:
        monkeypatch.undo()
        woofs.commit_blocking(change)
        return scan(*arguments)

    monkeypatch.setattr(woofs.woofs, "scan", late)
