"""Staging: deciding changes to WooFs that are then written as one batch.

Rules kept here:

* Each decision sees those before it, written or not, so a number is given once.
* An element, its number and its handler's trigger are in the same batch, and so is everything the
  caller adds.
* Putting costs a bounded amount: the new element, at most one eviction, at most one forgotten key.
* A put whose idempotency key is known gets the number that its first one got. A key is remembered
  for the next ``REMEMBERED_KEYS`` puts into that WooF; one used in the name of a handler's
  invocation, until that invocation is forgotten.
* A WooF that is created again with equal parameters is left as it is; with others it is refused.
* A WooF is deleted at once, and its elements after that, some at a time. Another one of its name
  begins at number 1 and has another id.

Not handled here: the write itself, how a batch ends (``woof_batch.py``), what becomes of triggers
(``woof_triggers.py``), and who may do what.
"""

from __future__ import annotations

from .codec import encode
from .errors import (
    DivergedError,
    LimitExceededError,
    NamespaceNotEmptyError,
    WoofExistsError,
)
from .woof import (
    MAX_ELEMENT_BYTES,
    MAX_NUMBER,
    WoofId,
    check_element,
    check_key,
    check_namespace,
    check_parameters,
    split_name,
)
from .woof_keys import (
    END,
    GARBAGE,
    KEYS,
    KEYS_BY_NUMBER,
    LAST_ID,
    NAMESPACES,
    NUMBER_BYTES,
    WOOFS,
    GarbageRecord,
    WoofRecord,
    effects_of,
    elements_of,
    number_bytes,
    read_number,
    read_record,
)
from .woof_state import OpenWoof
from .woof_triggers import Trigger, TriggerStaging


class Staging(TriggerStaging):
    """Changes to WooFs that are being decided, for one atomic write."""

    _deleted: tuple[str, ...] = ()

    def woofs_changed(self) -> set[str]:
        """Names of the WooFs that get elements, or are deleted."""
        return {woof.name for woof, _ in self._numbers}.union(self._deleted)

    # --- namespaces and WooFs -------------------------------------------------------------------

    def create_namespace(self, name: str) -> bool:
        """Make sure that the namespace exists; whether it did not.

        Raises:
            InvalidValueError: the name is none.
        """
        key = NAMESPACES + check_namespace(name)
        if self._state.peek(key) is not None:
            return False
        self._set(key, b"")
        return True

    def delete_namespace(self, name: str) -> None:
        """Delete an empty namespace.

        Raises:
            MissingNamespaceError: it does not exist.
            NamespaceNotEmptyError: it has WooFs.
        """
        self._state.require_namespace(name)
        prefix = WOOFS + check_namespace(name) + b"/"
        if any(True for _ in self._state.peek_range(prefix, prefix[:-1] + b"0")):
            raise NamespaceNotEmptyError(f"namespace {name!r} has WooFs")
        self._set(NAMESPACES + check_namespace(name), None)

    def create(self, name: str, history: int, element_size: int = 0) -> bool:
        """Make sure that WooF ``name`` exists with these parameters; whether it did not.

        Raises:
            InvalidValueError: the name is none, or a parameter is out of its range.
            MissingNamespaceError: its namespace does not exist.
            WoofExistsError: it exists with other parameters.
        """
        namespace, _ = split_name(name)
        check_parameters(history, element_size)
        state = self._state
        state.require_namespace(namespace.decode())
        key = WOOFS + name.encode()
        value = state.peek(key)
        if value is not None:
            found = read_record(key, value, WoofRecord)
            if (found.history, found.element_size) != (history, element_size):
                raise WoofExistsError(
                    f"WooF {name!r} exists with history {found.history} and element size "
                    f"{found.element_size}, not {history} and {element_size}"
                )
            return False
        last = state.peek(LAST_ID)
        woof_id = WoofId(1 if last is None else read_number(last) + 1)
        record = WoofRecord(id=woof_id, history=history, element_size=element_size)
        self._set(LAST_ID, number_bytes(woof_id))
        self._set(key, encode(record))
        self.changes.append((elements_of(woof_id) + END, name.encode()))
        self._open(OpenWoof(name, record, 0, durable=False))
        return True

    def delete(self, name: str) -> None:
        """Delete WooF ``name`` with everything in it. Triggers that it fired stay.

        Raises:
            MissingWoofError: it does not exist.
        """
        state = self._state
        woof = state.current(name)
        window = woof.staged - woof.history + 1
        garbage = GarbageRecord(
            first=max(1, min(window, woof.staged - state.remembered_keys + 1)),
            last=woof.staged,
            elements_from=max(1, window),
        )
        self._set(WOOFS + name.encode(), None)
        self._set(GARBAGE + number_bytes(woof.id), encode(garbage))
        woof.deleted = True
        self._deleted = (*self._deleted, name)
        opened = state.open

        def undo() -> None:
            woof.deleted = False

        def done() -> None:
            # One of the same name may be on its way already: nobody sees this one behind it.
            woof.durable = False
            if opened.get(name) is woof:
                del opened[name]

        self._can_undo(undo, done)

    def sweep(self, limit: int) -> bool:
        """Remove up to ``limit`` numbers of deleted WooFs; whether there may be more."""
        state = self._state
        entries = state.peek_range(GARBAGE, GARBAGE + END + b"\xff")
        key, value = next(entries, (b"", b""))
        if not key:
            return False
        garbage = read_record(key, value, GarbageRecord)
        woof_id = WoofId(read_number(key[len(GARBAGE) :]))
        stop = min(garbage.last + 1, garbage.first + limit)
        prefix = elements_of(woof_id)
        for number in range(garbage.first, stop):
            if number >= garbage.elements_from:
                self.changes.append((prefix + number_bytes(number), None))
            self._forget_key(woof_id, number)
        if stop > garbage.last:
            self.changes.append((prefix + END, None))
            self._set(key, None)
        else:
            rest = GarbageRecord(first=stop, last=garbage.last, elements_from=garbage.elements_from)
            self._set(key, encode(rest))
        return True

    # --- elements -------------------------------------------------------------------------------

    def put(
        self,
        name: str,
        element: bytes,
        *,
        handler: str | None = None,
        idempotency_key: bytes | None = None,
        by: Trigger | None = None,
    ) -> int:
        """Append ``element`` to WooF ``name``; its number.

        ``handler`` is to run on it. With an ``idempotency_key`` that is known nothing is appended,
        and the number is that of the first put with it. ``by`` is the invocation in whose name
        this is done; its keys are its own.

        Raises:
            MissingWoofError: there is no such WooF.
            TooLargeError, InvalidValueError: it does not take this element, or a name is none.
            TriggerSettledError: ``by`` has ended.
            DivergedError: ``by`` has put with this key into another WooF before.
        """
        state = self._state
        woof = state.open.get(name)
        if woof is None or woof.deleted:
            woof = state.current(name)
        if type(element) is not bytes:
            element = bytes(memoryview(element))  # whoever has a bytearray may change it later
        if woof.element_size or len(element) > MAX_ELEMENT_BYTES:
            check_element(name, element, woof.element_size)
        known_at = b""
        if idempotency_key is not None:
            known_at = self._key_of(woof, check_key(idempotency_key), by)
            known = state.peek(known_at)
            if known is not None:
                return _known_number(woof, known)
        number = woof.staged + 1
        if number > MAX_NUMBER:
            raise LimitExceededError(f"WooF {name!r} has given its last number")
        if 0 < number - state.remembered_keys <= woof.keys_through:
            self._forget_key(woof.id, number - state.remembered_keys)
        if handler is not None:
            self._fire(handler, name, woof.id, number, element)
        # A put with neither handler nor key has staged nothing up to here, whatever was refused.
        changes = self.changes
        changes.append((woof.prefix + number.to_bytes(8, "big"), element))
        evicted = number - woof.history
        if evicted > 0:
            changes.append((woof.prefix + evicted.to_bytes(8, "big"), None))
        woof.staged = number
        self._numbers.append((woof, number))
        self.size += len(element)
        if known_at:
            self._remember_key(woof, known_at, number, by)
        return number

    def _key_of(self, woof: OpenWoof, key: bytes, by: Trigger | None) -> bytes:
        if by is None:
            return KEYS + number_bytes(woof.id) + key
        self._require_pending(by)
        return effects_of(by.woof_id, by.number) + key

    def _remember_key(self, woof: OpenWoof, at: bytes, number: int, by: Trigger | None) -> None:
        if by is not None:
            self._add_effect(by, at, number_bytes(woof.id) + number_bytes(number))
            return
        self._set(at, number_bytes(number))
        key = at[len(KEYS) + NUMBER_BYTES :]
        self._set(KEYS_BY_NUMBER + number_bytes(woof.id) + number_bytes(number), key)
        woof.keys_through = number

    def _forget_key(self, woof_id: WoofId, number: int) -> None:
        by_number = KEYS_BY_NUMBER + number_bytes(woof_id) + number_bytes(number)
        key = self._state.peek(by_number)
        if key is not None:
            self._set(by_number, None)
            self._set(KEYS + number_bytes(woof_id) + key, None)

    def _open(self, woof: OpenWoof) -> None:
        state = self._state
        before = woof.before = state.open.get(woof.name)
        state.keep(woof)

        def undo() -> None:
            if before is None:
                del state.open[woof.name]
            else:
                state.open[woof.name] = before

        def done() -> None:
            woof.durable = True
            woof.before = None

        self._can_undo(undo, done)


def _known_number(woof: OpenWoof, known: bytes) -> int:
    """The number that the first put with a key got."""
    if len(known) > NUMBER_BYTES and read_number(known[:NUMBER_BYTES]) != woof.id:
        raise DivergedError(f"what is put into {woof.name!r} went to another WooF when first tried")
    return read_number(known[-NUMBER_BYTES:])
