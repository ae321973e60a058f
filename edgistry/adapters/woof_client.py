"""WooFs of a node, for who holds a capability: typed calls, asynchronous and blocking.

Rules kept here:

* The methods and refusals are those of a local WooF; a put that returns is durable on the node.
* Retries are safe: see ``woof_caller.py``.
* What the node answers is read strictly; an answer of another form is refused.

Not handled here: the way requests travel, discovery (``node_client.py``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from ..capability import Capability
from ..envelope import Operation, Status
from ..errors import BadReplyError, ElementEvictedError, InvalidValueError, TooLargeError
from ..operations import (
    NEWEST,
    Extent,
    Scan,
    decode_elements,
    decode_extent,
    encode_get,
    encode_scan,
    encode_woof_shape,
)
from ..woof import MAX_NUMBER, check_element, check_namespace, split_name
from ..woof_replies import status_of
from .woof_caller import WoofCaller
from .woof_follow import Following

SCANNED_AT_ONCE: Final = 1024
"""Elements asked for in one scan; the node answers with as many of them as fit into 64 KiB."""

_MAX_COUNT: Final = (1 << 32) - 1


class WoofClient:
    """The operations on WooFs, carried out by ``caller``.

    All methods may raise ``CannotReachError``, ``TimedOutError``, what a capability does not allow
    (``AuthorityError``) and ``InvalidValueError`` for what is no name of a WooF.
    """

    def __init__(self, caller: WoofCaller | None) -> None:
        self._caller = caller

    @property
    def capability(self) -> Capability:
        """What authorises the requests.

        Raises:
            InvalidValueError: the client was made without one.
        """
        return self._woofs.capability

    async def create_namespace(self, name: str) -> None:
        """Make sure that the namespace exists."""
        check_namespace(name)
        await self._woofs.call(Operation.NAMESPACE_CREATE, name)

    async def delete_namespace(self, name: str) -> None:
        """Delete an empty namespace.

        Raises:
            MissingNamespaceError: there is none. NamespaceNotEmptyError: it has WooFs.
        """
        check_namespace(name)
        await self._woofs.call(Operation.DELETE, name)

    async def create(self, woof: str, history: int, element_size: int = 0) -> None:
        """Make sure that ``woof`` exists and keeps ``history`` elements.

        ``element_size`` is the size of every element in bytes; 0: they differ.

        Raises:
            MissingNamespaceError: its namespace does not exist.
            WoofExistsError: it exists with other parameters.
        """
        split_name(woof)
        payload = encode_woof_shape(history=history, element_size=element_size)
        await self._woofs.call(Operation.WOOF_CREATE, woof, payload)

    async def delete(self, woof: str) -> None:
        """Delete ``woof`` with everything in it.

        Raises:
            MissingWoofError: there is none.
        """
        split_name(woof)
        await self._woofs.call(Operation.DELETE, woof)

    async def put(self, woof: str, element: bytes, *, handler: str = "") -> int:
        """Append ``element``; its number, once it is durable. ``handler`` is to run on it.

        Raises:
            MissingWoofError: there is none.
            TooLargeError, InvalidValueError: it does not take this element.
            UnknownHandlerError: the node has no such handler.
            OutcomeUnknownError: it is there, or not; see ``woof_caller.py``.
        """
        split_name(woof)
        check_element(woof, element, 0)
        reply = await self._woofs.call(Operation.PUT, woof, bytes(element), handler=handler)
        return reply.result

    async def get(self, woof: str, number: int | None = None) -> bytes:
        """Element ``number``, or the newest one.

        Raises:
            MissingWoofError, EmptyWoofError, ElementEvictedError, ElementNotYetError: why there is
                none.
        """
        if number is None:
            return (await self.newest(woof))[1]
        _check_number(number)
        split_name(woof)
        return (await self._woofs.call(Operation.GET, woof, encode_get(number))).payload

    async def newest(self, woof: str) -> tuple[int, bytes]:
        """The newest element and its number.

        Raises:
            MissingWoofError, EmptyWoofError: there is none.
        """
        split_name(woof)
        reply = await self._woofs.call(Operation.GET, woof, encode_get(NEWEST))
        return reply.result, reply.payload

    async def extent(self, woof: str) -> Extent:
        """The numbers of the oldest and the newest readable element; (1, 0) when it is empty.

        Raises:
            MissingWoofError: there is none.
        """
        split_name(woof)
        return decode_extent((await self._woofs.call(Operation.LATEST, woof)).payload)

    async def latest(self, woof: str) -> int:
        """The number of the newest element; 0 when ``woof`` is empty. Raises as ``extent``."""
        return (await self.extent(woof)).latest

    async def earliest(self, woof: str) -> int:
        """The number of the oldest readable element. Raises as ``extent``."""
        return (await self.extent(woof)).earliest

    async def scan_some(
        self, woof: str, first: int, count: int = SCANNED_AT_ONCE
    ) -> list[tuple[int, bytes]]:
        """Up to ``count`` elements from number ``first`` on, in order: as many as one reply holds.

        None when ``first`` is the next number to be given.

        Raises:
            MissingWoofError: there is no such WooF.
            ElementEvictedError, ElementNotYetError: there is no element ``first``.
            TooLargeError: element ``first`` does not fit with its number; ``get`` it.
        """
        _check_number(first)
        split_name(woof)
        found = await self._scan(woof, Scan(first, count))
        if [number for number, _ in found] != list(range(first, first + len(found))):
            raise BadReplyError("the elements in the reply to a scan are not those asked for")
        return found

    async def scan(
        self, woof: str, first: int | None = None, last: int | None = None
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Elements ``first`` to ``last`` in order with their numbers.

        By default from the earliest one to the one that is the newest now.

        Raises:
            MissingWoofError: there is no such WooF.
            ElementEvictedError, ElementNotYetError: there is no element ``first``, or the history
                has moved past the next one meanwhile.
        """
        extent = await self.extent(woof)
        number = extent.earliest if first is None else first
        end = extent.latest if last is None else min(last, extent.latest)
        if number > extent.latest + 1:
            await self.get(woof, number)  # raises why not
        while number <= end:
            for each in await self._from(woof, number, end - number + 1):
                yield each
                number = each[0] + 1

    async def tail(self, woof: str, count: int) -> list[tuple[int, bytes]]:
        """The newest ``count`` readable elements with their numbers, newest first.

        Raises:
            MissingWoofError: there is no such WooF.
        """
        split_name(woof)
        if count < 1:
            await self.extent(woof)
            return []
        try:
            found = await self._scan(woof, Scan(NEWEST, min(count, _MAX_COUNT)))
        except TooLargeError:
            found = [await self.newest(woof)]
        if not _are_going_down(found):
            raise BadReplyError("the elements in the reply to a scan are not those asked for")
        if found and len(found) < count:
            last = found[-1][0] - 1
            found += reversed(await self._left(woof, last - (count - len(found)) + 1, last))
        return found

    def follow(
        self, woof: str, first: int | None = None, *, tail: int = 0
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Each element from number ``first`` on with its number, in order, for ever.

        Without ``first``: the newest ``tail`` ones, and those that are put from now on. Broken
        connections are made anew; nothing is left out or given twice. Close it (``aclose``) to
        stop early.

        Raises (while iterating):
            MissingWoofError: there is no such WooF, or no longer.
            ElementEvictedError: the history has moved past the next element.
            ElementNotYetError: elements before ``first`` are not put yet.
            CannotReachError, TimedOutError, UnavailableError: the node is away for too long.
            AuthorityError: the capability does not allow it, or no longer.
        """
        split_name(woof)
        if first is not None:
            _check_number(first)
        if not 0 <= tail <= _MAX_COUNT:
            raise InvalidValueError(f"tail is {tail}; use 0 to {_MAX_COUNT}")
        caller = self._woofs
        return Following(
            caller, woof, first=first, tail=tail, patience_s=caller.timeout_s
        ).elements()

    async def _left(self, woof: str, first: int, last: int) -> list[tuple[int, bytes]]:
        """Elements ``first`` to ``last``, or from the earliest that is left."""
        found: list[tuple[int, bytes]] = []
        number = max(first, 1)
        while number <= last:
            try:
                found += await self._from(woof, number, last - number + 1)
                number = found[-1][0] + 1
            except ElementEvictedError as gone:
                if gone.earliest is None or gone.earliest <= number:
                    raise
                found, number = [], gone.earliest
        return found

    async def _from(self, woof: str, first: int, count: int) -> list[tuple[int, bytes]]:
        """Some elements from ``first`` on, at least that one."""
        try:
            found = await self.scan_some(woof, first, min(count, SCANNED_AT_ONCE))
        except TooLargeError:
            found = []
        return found or [(first, await self.get(woof, first))]

    async def _scan(self, woof: str, scan: Scan) -> list[tuple[int, bytes]]:
        reply = await self._woofs.call(Operation.SCAN, woof, encode_scan(scan))
        if status_of(reply) == Status.ACCEPTED or (reply.status == Status.OK and reply.result):
            # The same envelope opens a stream: what is in an element there is no list of elements.
            raise BadReplyError("a reply of a stream in place of the reply to a scan")
        return decode_elements(reply.payload)

    @property
    def _woofs(self) -> WoofCaller:
        if self._caller is None:
            raise InvalidValueError("WooFs need a capability: NodeClient(node, capability)")
        return self._caller


def _are_going_down(found: list[tuple[int, bytes]]) -> bool:
    numbers = [number for number, _ in found]
    return not numbers or numbers == list(range(numbers[0], numbers[0] - len(numbers), -1))


def _check_number(number: int) -> None:
    if not 1 <= number <= MAX_NUMBER:
        raise InvalidValueError(f"elements are numbered from 1, so there is no element {number}")
