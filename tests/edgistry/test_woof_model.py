"""WooFs against plain lists: any run of operations, failures and restarts, on both stores."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import (
    ElementEvictedError,
    ElementNotYetError,
    EmptyWoofError,
    InvalidValueError,
    MissingNamespaceError,
    MissingWoofError,
    NamespaceNotEmptyError,
    Refused,
    TooLargeError,
    WoofExistsError,
)
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.woof_staging import Staging
from edgistry.woof_store import WoofStore

NAMES = st.sampled_from(["a/x", "a/y", "b/x"])
HISTORIES = st.sampled_from([1, 1, 2, 3, 7])
KEYS = st.none() | st.sampled_from([b"k1", b"k2", b"k3"])
HANDLERS = st.none() | st.sampled_from(["h1", "h2"])
REMEMBERED = 5


@dataclass
class ModelWoof:
    """A list, and what was used to append to it."""

    history: int
    element_size: int
    elements: list[bytes] = field(default_factory=list)
    keys: dict[bytes, int] = field(default_factory=dict)

    @property
    def earliest(self) -> int:
        return max(1, len(self.elements) - self.history + 1)

    def readable(self) -> list[tuple[int, bytes]]:
        return [(n, e) for n, e in enumerate(self.elements, 1) if n >= self.earliest]


@dataclass
class Model:
    """Everything there is."""

    namespaces: set[str] = field(default_factory=set)
    woofs: dict[str, ModelWoof] = field(default_factory=dict)
    due: dict[str, list[bytes]] = field(default_factory=dict)

    def put(
        self, name: str, element: bytes, handler: str | None, key: bytes | None
    ) -> int | type[Refused]:
        woof = self.woofs.get(name)
        if woof is None:
            return MissingWoofError
        if woof.element_size and len(element) != woof.element_size:
            return TooLargeError if len(element) > woof.element_size else InvalidValueError
        if key is not None and key in woof.keys:
            return woof.keys[key]
        woof.elements.append(element)
        number = len(woof.elements)
        woof.keys = {k: n for k, n in woof.keys.items() if n > number - REMEMBERED}
        if key is not None:
            woof.keys[key] = number
        if handler is not None:
            self.due.setdefault(handler, []).append(element)
        return number

    def create(self, name: str, history: int, element_size: int) -> bool | type[Refused]:
        if name.partition("/")[0] not in self.namespaces:
            return MissingNamespaceError
        woof = self.woofs.get(name)
        if woof is None:
            self.woofs[name] = ModelWoof(history, element_size)
            return True
        if (woof.history, woof.element_size) != (history, element_size):
            return WoofExistsError
        return False

    def delete(self, name: str) -> type[Refused] | None:
        if self.woofs.pop(name, None) is None:
            return MissingWoofError
        return None

    def delete_namespace(self, name: str) -> type[Refused] | None:
        if name not in self.namespaces:
            return MissingNamespaceError
        if any(each.startswith(name + "/") for each in self.woofs):
            return NamespaceNotEmptyError
        self.namespaces.remove(name)
        return None


class WoofsAgainstLists(RuleBasedStateMachine):
    """Stagings pile up unwritten, are written together, fail, are taken back; programs restart."""

    @initialize(history=HISTORIES)
    def open(self, history: int) -> None:
        self.store = self.make_store()
        self.woofs = WoofStore(self.store, remembered_keys=REMEMBERED)
        self.model = Model()
        self.unwritten: list[Staging] = []
        self.after_writing = self.copy(self.model)
        self.create_namespace("a")
        self.create("a/x", history, 0)
        self.write()

    def make_store(self) -> KeyValue:
        return MemoryKeyValue()

    def reopen(self) -> None:
        """What closing and opening the store comes to."""

    @staticmethod
    def copy(model: Model) -> Model:
        woofs = {
            name: ModelWoof(woof.history, woof.element_size, list(woof.elements), dict(woof.keys))
            for name, woof in model.woofs.items()
        }
        due = {handler: list(elements) for handler, elements in model.due.items()}
        return Model(set(model.namespaces), woofs, due)

    def stage(self, decision: object, expected: object) -> None:
        """``after_writing`` has taken ``expected`` already; the store must answer the same."""
        assert callable(decision)
        with self.woofs.lock:
            staging = self.woofs.begin()
            try:
                answer: object = decision(staging)
            except Refused as refused:
                staging.take_back()
                answer = type(refused)
            else:
                self.unwritten.append(staging)
        assert answer == expected

    # --- deciding -------------------------------------------------------------------------------

    @rule(name=st.sampled_from(["a", "b"]))
    def create_namespace(self, name: str) -> None:
        expected = name not in self.after_writing.namespaces
        self.after_writing.namespaces.add(name)
        self.stage(lambda staging: staging.create_namespace(name), expected)

    @rule(name=st.sampled_from(["a", "b"]))
    def delete_namespace(self, name: str) -> None:
        expected = self.after_writing.delete_namespace(name)
        self.stage(lambda staging: staging.delete_namespace(name), expected)

    @rule(name=NAMES, history=HISTORIES, element_size=st.sampled_from([0, 0, 0, 2]))
    def create(self, name: str, history: int, element_size: int) -> None:
        expected = self.after_writing.create(name, history, element_size)
        self.stage(lambda staging: staging.create(name, history, element_size), expected)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        expected = self.after_writing.delete(name)
        self.stage(lambda staging: staging.delete(name), expected)

    @rule(name=NAMES, element=st.binary(max_size=3), handler=HANDLERS, key=KEYS)
    def put(self, name: str, element: bytes, handler: str | None, key: bytes | None) -> None:
        expected = self.after_writing.put(name, element, handler, key)
        self.stage(
            lambda staging: staging.put(name, element, handler=handler, idempotency_key=key),
            expected,
        )

    @rule(name=NAMES, elements=st.lists(st.binary(min_size=2, max_size=2), min_size=2, max_size=9))
    def put_many(self, name: str, elements: list[bytes]) -> None:
        if name not in self.after_writing.woofs:
            return
        expected = [self.after_writing.put(name, each, None, None) for each in elements]
        self.stage(lambda staging: [staging.put(name, each) for each in elements], expected)

    @rule(name=NAMES, element=st.binary(max_size=3), handler=HANDLERS, key=KEYS)
    def put_and_take_back(
        self, name: str, element: bytes, handler: str | None, key: bytes | None
    ) -> None:
        with self.woofs.lock:
            staging = self.woofs.begin()
            if name in self.after_writing.woofs:
                with_size = self.after_writing.woofs[name].element_size
                staging.put(name, bytes(with_size) or element, handler=handler, idempotency_key=key)
                staging.delete(name)
            staging.take_back()

    @rule(limit=st.integers(1, 4))
    def sweep(self, limit: int) -> None:
        with self.woofs.lock:
            staging = self.woofs.begin()
            staging.sweep(limit)
            self.unwritten.append(staging)

    @rule(handler=st.sampled_from(["h1", "h2"]), index=st.integers(0, 3))
    def finish(self, handler: str, index: int) -> None:
        self.write()
        due = list(self.woofs.triggers(handler))
        if index >= len(due):
            return
        del self.after_writing.due[handler][index]
        self.stage(lambda staging: staging.finish(due[index]), None)

    # --- writing --------------------------------------------------------------------------------

    @rule()
    def write(self) -> None:
        with self.woofs.lock:
            changes = [change for staging in self.unwritten for change in staging.changes]
            self.store.write(changes, sync=False)
            for staging in self.unwritten:
                staging.settle()
        self.unwritten = []
        self.model = self.copy(self.after_writing)

    @rule()
    def write_in_two_batches(self) -> None:
        if not self.unwritten:
            return
        first = self.unwritten.pop(0)
        with self.woofs.lock:
            self.store.write(first.changes, sync=False)
            first.settle()
        self.write()

    @rule()
    def fail(self) -> None:
        with self.woofs.lock:
            self.woofs.forget_unwritten()
        self.unwritten = []
        self.after_writing = self.copy(self.model)

    @rule()
    def restart(self) -> None:
        self.unwritten = []
        self.after_writing = self.copy(self.model)
        self.reopen()
        self.woofs = WoofStore(self.store, remembered_keys=REMEMBERED)

    # --- reading --------------------------------------------------------------------------------

    @rule(
        name=NAMES, first=st.integers(-2, 30), last=st.integers(-2, 30), count=st.integers(-1, 30)
    )
    def ranges_agree(self, name: str, first: int, last: int, count: int) -> None:
        woof = self.model.woofs.get(name)
        if woof is None:
            with pytest.raises(MissingWoofError):
                self.woofs.scan(name, first, last)
            return
        readable = woof.readable()
        assert list(self.woofs.scan(name, first, last)) == [
            each for each in readable if first <= each[0] <= last
        ]
        assert self.woofs.tail(name, count) == readable[::-1][: max(count, 0)]

    @invariant()
    def readers_see_what_is_written(self) -> None:
        assert self.woofs.namespaces() == sorted(self.model.namespaces)
        for namespace in ("a", "b"):
            known = sorted(n for n in self.model.woofs if n.startswith(namespace + "/"))
            assert [each.name for each in self.woofs.woofs(namespace)] == known
        for name, woof in self.model.woofs.items():
            latest = len(woof.elements)
            window = self.woofs.window(name)
            assert (window.earliest, window.latest) == (woof.earliest, latest)
            assert list(self.woofs.scan(name)) == woof.readable()
            for number in range(1, latest + 2):
                if woof.earliest <= number <= latest:
                    assert self.woofs.get(name, number) == woof.elements[number - 1]
                    continue
                kind: type[Refused] = ElementEvictedError
                if number > latest:
                    kind = ElementNotYetError if latest else EmptyWoofError
                with pytest.raises(kind):
                    self.woofs.get(name, number)
            if latest:
                assert self.woofs.newest(name) == (latest, woof.elements[-1])
        for handler, elements in self.model.due.items():
            assert [each.element for each in self.woofs.triggers(handler)] == elements


class WoofsOnDiskAgainstLists(WoofsAgainstLists):
    def make_store(self) -> KeyValue:
        self.directory = Path(tempfile.mkdtemp(prefix="edg"))
        return LevelKeyValue(self.directory / "db")

    def reopen(self) -> None:
        self.store.close()
        self.store = LevelKeyValue(self.directory / "db")

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.store.close()
            shutil.rmtree(self.directory)


TestWoofsAgainstLists = WoofsAgainstLists.TestCase
TestWoofsAgainstLists.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestWoofsOnDiskAgainstLists = WoofsOnDiskAgainstLists.TestCase
TestWoofsOnDiskAgainstLists.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None
)


@pytest.mark.soak
@pytest.mark.parametrize("machine", [WoofsAgainstLists, WoofsOnDiskAgainstLists])
def test_woofs_are_lists_in_thousands_of_runs(machine: type[WoofsAgainstLists]) -> None:
    # Other examples each time: the ones above are the same in every run.
    many = settings(
        max_examples=1000, stateful_step_count=60, deadline=None, derandomize=False, database=None
    )
    run_state_machine_as_test(machine, settings=many)
