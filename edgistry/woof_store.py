"""Named WooFs in namespaces, over one key-value store.

Rules kept here:

* Readers see what is written, and exactly the window of ``woof.py``. What the window has and the
  store has not is damage, and told as such: a reader never steps over a gap unawares.
* Reading costs what is read: no log is loaded, opening reads nothing.
* Deciding and writing are apart: ``begin`` gives a ``Staging``; the caller writes its changes,
  in the order in which stagings began, and says how that ended.

Not handled here: the write, waiting for it, and being told of new elements
(``adapters/durable_woofs.py``); who may do what.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ElementLostError
from .kv import Change, KeyValue, prefix_end
from .woof import MAX_NUMBER, Window, WoofId, check_namespace, check_readable, evicted
from .woof_keys import END, GARBAGE, NAMESPACES, WOOFS, number_bytes, read_number
from .woof_staging import Staging
from .woof_state import REMEMBERED_KEYS, OpenWoof, WoofState, missing
from .woof_triggers import Trigger, handlers_waiting, triggers_of


@dataclass(frozen=True, slots=True, kw_only=True)
class WoofInfo:
    """What can be told of a WooF without its elements."""

    name: str
    id: WoofId
    """Differs from that of an earlier WooF of the same name."""
    history: int
    element_size: int
    """Bytes of every element; 0: they differ."""
    window: Window


class WoofStore:
    """The WooFs in ``store``.

    Safe to read from many threads. Stagings are begun and ended with ``lock`` held.
    """

    def __init__(
        self,
        store: KeyValue,
        *,
        lock: threading.Lock | None = None,
        remembered_keys: int = REMEMBERED_KEYS,
    ) -> None:
        self.lock = lock or threading.Lock()
        self.store = store
        self._state = WoofState(store, self.lock, remembered_keys)

    # --- deciding -------------------------------------------------------------------------------

    def begin(self) -> Staging:
        """A new batch of decisions, made upon all those before it."""
        return Staging(self._state)

    def forget_unwritten(self) -> None:
        """A write has failed: nothing that was staged counts, and the store is asked again.

        Every staging that was not settled is void; its changes must not be written.
        """
        self._state.forget_unwritten()

    # --- what there is --------------------------------------------------------------------------

    def namespaces(self) -> list[str]:
        """Names of the namespaces, sorted."""
        entries = self.store.scan(NAMESPACES, prefix_end(NAMESPACES))
        return [key[len(NAMESPACES) :].decode() for key, _ in entries]

    def woofs(self, namespace: str) -> list[WoofInfo]:
        """The WooFs of ``namespace``, sorted by name; none when there is no such namespace."""
        prefix = WOOFS + check_namespace(namespace) + b"/"
        entries = self.store.scan(prefix, prefix_end(prefix))
        return [self.info(key[len(WOOFS) :].decode()) for key, _ in entries]

    def info(self, name: str) -> WoofInfo:
        """What can be told of WooF ``name``.

        Raises:
            InvalidValueError, MissingWoofError: there is no such WooF.
        """
        woof = self._state.visible(name)
        return WoofInfo(
            name=name,
            id=woof.id,
            history=woof.history,
            element_size=woof.element_size,
            window=woof.window,
        )

    def window(self, name: str) -> Window:
        """The numbers that can be read.

        Raises:
            InvalidValueError, MissingWoofError: there is no such WooF.
        """
        return self._state.visible(name).window

    def latest(self, name: str) -> int:
        """The number of the newest element; 0 when the WooF is empty. Raises as ``window``."""
        return self._state.visible(name).written

    def earliest(self, name: str) -> int:
        """The number of the oldest readable element; 1 when empty. Raises as ``window``."""
        return self.window(name).earliest

    # --- elements -------------------------------------------------------------------------------

    def get(self, name: str, number: int) -> bytes:
        """Element ``number``.

        Raises:
            MissingWoofError, EmptyWoofError, ElementEvictedError, ElementNotYetError,
            InvalidValueError: why there is no such element.
            ElementLostError: it should be there, and is not.
        """
        woof = self._state.open.get(name)
        if woof is None or not woof.durable:
            woof = self._state.visible(name)
        latest = woof.written
        if not 0 < number <= latest or number <= latest - woof.history:
            check_readable(name, number, woof.window)
        element = self.store.get(woof.prefix + number.to_bytes(8, "big"))
        if element is None:
            woof = self._now(woof)
            if number <= woof.staged - woof.history:
                raise evicted(name, number, woof.window)
            raise lost(name, number)
        return element

    def newest(self, name: str) -> tuple[int, bytes]:
        """The newest element and its number.

        Raises:
            InvalidValueError, MissingWoofError, EmptyWoofError, ElementLostError: as ``get``.
        """
        woof = self._state.visible(name)
        number = woof.written
        if number == 0:
            check_readable(name, 1, woof.window)
        element = self.store.get(woof.prefix + number_bytes(number))
        if element is not None:
            return number, element
        # With a history of 1, a put that is just being written has evicted it: take that one.
        backwards = self.store.scan(woof.prefix, woof.prefix + END, reverse=True)
        for key, element in backwards:
            return read_number(key[len(woof.prefix) :]), element
        self._now(woof)
        raise lost(name, number)

    def scan(
        self, name: str, first: int = 1, last: int = MAX_NUMBER
    ) -> Iterator[tuple[int, bytes]]:
        """Readable elements with ``first`` <= number <= ``last``, in order, with their numbers.

        The window is that of the moment of the call; elements evicted before they are reached are
        left out, from the beginning.

        Raises:
            InvalidValueError, MissingWoofError: there is no such WooF.
            ElementLostError: (while iterating) one should be there, and is not.
        """
        woof = self._state.visible(name)
        window = woof.window
        return self._range(woof, max(first, window.earliest), min(last, window.latest))

    def tail(self, name: str, count: int) -> list[tuple[int, bytes]]:
        """The newest ``count`` readable elements with their numbers, newest first.

        Raises as ``scan``.
        """
        woof = self._state.visible(name)
        window = woof.window
        low = max(window.earliest, window.latest - max(0, count) + 1)
        found = list(self._range(woof, low, window.latest))
        found.reverse()
        return found

    def _range(self, woof: OpenWoof, low: int, high: int) -> Iterator[tuple[int, bytes]]:
        if low > high:
            return
        expected = low
        at = len(woof.prefix)
        start, stop = woof.prefix + number_bytes(low), woof.prefix + number_bytes(high + 1)
        for key, element in self.store.scan(start, stop):
            number = read_number(key[at:])
            if number != expected:
                self._check_gap(woof, expected, number)
            expected = number + 1
            yield number, element
        if expected <= high:
            self._check_gap(woof, expected, high + 1)

    def _check_gap(self, woof: OpenWoof, expected: int, found: int) -> None:
        """Return if all numbers from ``expected`` to before ``found`` are evicted by now."""
        woof = self._now(woof)
        first = max(expected, woof.staged - woof.history + 1)
        if first < found:
            error = lost(woof.name, first)
            error.resume_at = found
            raise error

    def _now(self, woof: OpenWoof) -> OpenWoof:
        """The same WooF as memory has it now.

        Raises:
            MissingWoofError: it is deleted.
        """
        now = self._state.visible(woof.name)
        if now.id != woof.id:
            raise missing(woof.name)
        return now

    # --- triggers -------------------------------------------------------------------------------

    def handlers_waiting(self) -> list[str]:
        """Handlers that have written triggers."""
        return handlers_waiting(self.store)

    def triggers(self, handler: str, *, after: int = 0) -> Iterator[Trigger]:
        """Written triggers of ``handler`` that arrived after number ``after``, in that order."""
        return triggers_of(self.store, handler, after=after)

    @property
    def has_garbage(self) -> bool:
        """Whether elements of deleted WooFs are still to be removed (``Staging.sweep``)."""
        return any(True for _ in self.store.scan(GARBAGE, prefix_end(GARBAGE)))


def lost(name: str, number: int) -> ElementLostError:
    """The refusal of an element that damage has taken."""
    error = ElementLostError(f"element {number} of WooF {name!r} is lost: its file was damaged")
    error.resume_at = number + 1
    return error


def write_now(store: KeyValue, staging: Staging) -> None:
    """Write ``staging`` durably and settle it: for programs without other writers.

    A write that fails raises what the store raises; ``WoofStore.forget_unwritten`` is then due.
    """
    changes: list[Change] = staging.changes
    if changes:
        store.write(changes, sync=True)
    staging.settle()
