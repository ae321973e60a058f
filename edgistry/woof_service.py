"""The operations on WooFs, carried out for requests that authority allows.

Rules kept here:

* A request goes verify → at most once → decide → one write, which holds what the operation
  changes, the trigger it fires, the strike of its sequence and the reply: a crash at any point
  loses none of them or all. So the identical envelope appends once, and reading it again cannot
  be replayed by who recorded it.
* A refusal is an answer with a tag, remembered like any other; what was staged for it is not
  written. EVICTED and NOT_YET carry in ``result`` the number to go on from. STORAGE alone, of what
  is to change something, is not remembered: it says nothing about the request, which may be
  executed when it is sent again.
* A scan answers with as many elements as fit into a reply, at least one, or says TOO_LARGE.
* A put that names a handler is refused unless there is one of that name here.
* What the runtime keeps for the operator, the namespace of dead letters, can be read like others,
  and changed by no request, whatever its capability allows: their numbers must not begin again.
  A program may keep more for itself (``check_change``).
* A stream is opened by the envelope of a scan, which is executed once like any other: nobody can
  open one with a recorded envelope. What authorised it must go on to hold.

Not handled here: the write and waiting for it (``adapters/woof_server.py``), operations on
authority itself (``authority.py``), sending a stream (``adapters/woof_stream.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from .authority import Authority
from .envelope import MAX_PAYLOAD, Operation, Status, reply_to
from .errors import (
    BadRequestError,
    ElementEvictedError,
    ElementNotYetError,
    NoRightError,
    Refused,
    RevokedError,
    TooLargeError,
)
from .faas_letters import LETTERS_NAMESPACE
from .issuer import Issuer
from .judge import judge
from .operations import (
    NEWEST,
    Extent,
    Scan,
    decode_get,
    decode_scan,
    decode_woof_shape,
    encode_elements,
    encode_extent,
)
from .replay import Outcome, Remembered, Running, Ticket
from .verifier import Checked
from .woof import evicted
from .woof_staging import Staging
from .woof_store import WoofStore

_ELEMENT_OVERHEAD: Final = 9 + 5 + 1
"""Bytes around an element in the reply to a scan, at most: number, length, pair."""
_LIST_OVERHEAD: Final = 5


CheckChange = Callable[[Operation, str], None]
"""Raises Refused if no request may change a target by an operation."""


def change_anything(_operation: Operation, _target: str) -> None:
    """Requests may change whatever their capabilities allow."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same request is being executed; ``reply`` will hold its reply, or why there is none."""

    checked: Checked
    reply: Future[bytes]


class WoofService:
    """Decides what requests do to the WooFs in ``woofs``.

    ``require_handler`` raises ``UnknownHandlerError`` unless there is a handler of that name,
    ``check_change`` what the program allows no request.
    """

    def __init__(
        self,
        woofs: WoofStore,
        authority: Authority,
        *,
        require_handler: Callable[[str], object],
        check_change: CheckChange = change_anything,
    ) -> None:
        self.woofs = woofs
        self.authority = authority
        self._require_handler = require_handler
        self._check_change = check_change

    def admit(self, data: bytes, *, now_us: int) -> bytes | Duplicate | Execution:
        """The reply to ``data``; or what is to be done for it, to be ended by the caller."""
        try:
            checked = self.authority.verifier.check(data, now_us=now_us)
            admission = self.authority.guard.admit(checked, now_us=now_us)
        except Refused as error:
            return reply_to(error)
        if isinstance(admission, Remembered):
            return admission.reply
        if isinstance(admission, Running):
            return Duplicate(checked, admission.reply)
        return Execution(self, admission, now_us)

    def read(self, checked: Checked) -> Outcome:
        """What a reading operation answers.

        Raises:
            Refused: why it cannot be answered.
        """
        envelope = checked.envelope
        name = _woof_in(envelope.target)
        if envelope.op == Operation.GET:
            number = decode_get(envelope.payload)
            if number == NEWEST:
                number, element = self.woofs.newest(name)
            else:
                element = self.woofs.get(name, number)
            return Outcome(result=number, payload=element)
        if envelope.op == Operation.LATEST:
            window = self.woofs.window(name)
            extent = Extent(earliest=window.earliest, latest=window.latest)
            return Outcome(payload=encode_extent(extent))
        return Outcome(payload=encode_elements(self._scan(name, decode_scan(envelope.payload))))

    def begin_stream(self, checked: Checked, last_seen: int | None) -> Outcome:
        """What opening a stream answers: in ``result`` the number of its first element, in the
        payload the WooF's id (u64).

        It is ACCEPTED: so nobody can pass it off as an element, nor as the answer to a scan.
        It goes on behind element ``last_seen`` if that is given, else from where the scan begins:
        from 0 means the newest ``count`` elements and then the new ones.

        Raises:
            Refused: why it cannot be opened.
        """
        if checked.envelope.op != Operation.SCAN:
            raise BadRequestError("a stream is opened by the envelope of a scan")
        name = _woof_in(checked.envelope.target)
        asked = decode_scan(checked.envelope.payload)
        info = self.woofs.info(name)
        window = info.window
        start = asked.start if last_seen is None else last_seen + 1
        if start == NEWEST:
            start = max(window.earliest, window.latest - asked.limit + 1)
        if start < window.earliest:
            raise evicted(name, start, window)
        if start > window.latest + 1:
            raise _not_yet(name, start, window.latest)
        woof_id = info.id.to_bytes(8, "big")
        return Outcome(status=Status.ACCEPTED, result=start, payload=woof_id)

    def check_still_allowed(self, checked: Checked, issuer: Issuer, *, now_us: int) -> None:
        """Return if ``checked``, which was allowed in the time of ``issuer``, would be so now.

        Raises:
            RevokedError, CaveatError: it would not.
        """
        verifier = self.authority.verifier
        if verifier.issuer is not issuer:
            raise RevokedError("the issuer has begun a new epoch")
        denied = verifier.denied
        for chain in checked.chains if denied else ():
            if not denied.isdisjoint((*chain.ids, *chain.rare.lineages)):
                raise RevokedError("the capability, or one it derives from, was revoked")
        judge(checked.envelope, checked.chains, now_us=now_us)

    def _scan(self, name: str, asked: Scan) -> list[tuple[int, bytes]]:
        window = self.woofs.window(name)
        start = asked.start
        if start == NEWEST:
            count = min(asked.limit, len(window))
            return _that_fit(self._newest(name, window.latest, count))
        if start < window.earliest:
            raise evicted(name, start, window)
        if start > window.latest + 1:
            raise _not_yet(name, start, window.latest)
        last = min(window.latest, start + asked.limit - 1)
        found = _that_fit(self.woofs.scan(name, start, last))
        if found and found[0][0] != start:
            raise evicted(name, start, self.woofs.window(name))
        return found

    def _newest(self, name: str, latest: int, count: int) -> Iterator[tuple[int, bytes]]:
        for number in range(latest, latest - count, -1):
            try:
                yield number, self.woofs.get(name, number)
            except ElementEvictedError:
                return  # by puts that came meanwhile

    def function_for(self, woof: str, handler: str) -> str:
        """The handler to run here for a request that names ``handler`` in a put into ``woof``.

        Raises:
            UnknownHandlerError: there is none.
        """
        self._require_handler(handler)
        return handler

    def change(self, checked: Checked, staging: Staging) -> Outcome:
        """Stage what a changing operation does.

        Raises:
            Refused: why it is not done; the staging is to be taken back.
        """
        envelope = checked.envelope
        target = envelope.target
        if target.partition("/")[0] == LETTERS_NAMESPACE:
            raise NoRightError(f"{target!r} is the runtime's own, and can only be read")
        self._check_change(Operation(envelope.op), target)
        if envelope.op == Operation.PUT:
            woof, wanted = _woof_in(target), envelope.handler
            function = self.function_for(woof, wanted) if wanted else None
            number = staging.put(woof, envelope.payload, handler=function)
            return Outcome(result=number)
        if envelope.op == Operation.NAMESPACE_CREATE:
            if not target or "/" in target:
                raise BadRequestError("the target of a namespace creation is the namespace's name")
            staging.create_namespace(target)
        elif envelope.op == Operation.WOOF_CREATE:
            shape = decode_woof_shape(envelope.payload)
            staging.create(_woof_in(target), shape.history, shape.element_size)
        elif envelope.op == Operation.DELETE:
            if "/" in target:
                staging.delete(target)
            elif target:
                staging.delete_namespace(target)
            else:
                raise BadRequestError("the target of a deletion is a WooF or a namespace")
        else:
            raise BadRequestError(f"operation {envelope.op} is not for WooFs")
        return Outcome()


class Execution:
    """One admitted request on its way. Ended exactly once, by ``done`` or ``abandon``."""

    __slots__ = ("_now_us", "_read", "_service", "_ticket", "checked", "reply", "status")

    def __init__(self, service: WoofService, ticket: Ticket, now_us: int) -> None:
        self.checked = ticket.checked
        self.reply = b""
        """Set by ``stage``; to be sent once that is durable."""
        self.status: int = Status.OK
        """What the reply says."""
        self._service = service
        self._ticket = ticket
        self._now_us = now_us
        self._read: Outcome | Refused | None = None

    def read(self, execute: Callable[[Checked], Outcome]) -> None:
        """Carry out what changes no WooF: it needs no lock."""
        try:
            self._read = self._perform(execute)
        except Refused as error:
            self._read = error

    def stage(self) -> Staging:
        """All that is to be written for the request. Called with the store's lock held.

        Raises:
            Refused: the store has failed; nothing is staged, and nothing is to be remembered.
        """
        staging = self._service.woofs.begin()
        try:
            outcome = self._read or self._perform(
                lambda checked: self._service.change(checked, staging)
            )
            if isinstance(outcome, Refused):
                raise outcome
            self.status = outcome.status
            self.reply = self.checked.reply(
                outcome.status, result=outcome.result, payload=outcome.payload, flat=outcome.flat
            )
            staging.add(outcome.changes)
        except Refused as error:
            staging.take_back()
            if self._read is None and error.wire_status == Status.STORAGE:
                raise
            staging = self._service.woofs.begin()
            self.status = error.wire_status
            self.reply = refusal_reply(self.checked, error)
        except BaseException:
            staging.take_back()
            raise
        staging.add(self._ticket.changes(self.reply))
        staging.size += len(self.reply)
        return staging

    def done(self) -> None:
        """What was staged is durable: duplicates get the reply from now on."""
        self._ticket.done(self.reply)

    def abandon(self) -> None:
        """Nothing was written: the same envelope may be sent again."""
        self._ticket.abandon()

    def _perform(self, execute: Callable[[Checked], Outcome]) -> Outcome:
        return self._service.authority.perform(self.checked, execute, now_us=self._now_us)


def refusal_reply(checked: Checked, error: Refused) -> bytes:
    """The reply that tells ``error``, with the number to go on from where there is one."""
    number = None
    if isinstance(error, ElementEvictedError):
        number = error.earliest
    elif isinstance(error, ElementNotYetError):
        number = error.latest
    if number is None:
        return checked.refusal(error)
    return checked.reply(error.wire_status, result=number)


def _not_yet(name: str, number: int, latest: int) -> ElementNotYetError:
    error = ElementNotYetError(f"WooF {name!r} ends at {latest}, before {number}")
    error.latest = latest
    return error


def _woof_in(target: str) -> str:
    if "/" not in target:
        raise BadRequestError("the target of this operation is a WooF: namespace/woof")
    return target


def _that_fit(elements: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The first ``elements`` whose encoding fits into one reply.

    Raises:
        TooLargeError: not even the first one does.
    """
    found: list[tuple[int, bytes]] = []
    size = _LIST_OVERHEAD
    for number, element in elements:
        size += len(element) + _ELEMENT_OVERHEAD
        if size > MAX_PAYLOAD:
            break
        found.append((number, element))
    else:
        return found
    if not found:
        raise TooLargeError(f"element {number} is too large for a scan; get it by its number")
    return found
