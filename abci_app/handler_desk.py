"""What an operator can ask about handlers and dead letters, and do with dead letters.

Rules kept here:

* Dead letters of handlers and transactions that the chain refused are shown alike. Only those of
  handlers can be tried again: a transaction is signed for one place in the chain, which is taken.
* What is named is done for all that are named, or for none. Everything is done bit by bit.

Not handled here: transport (``admin_handlers``), running handlers (``edgistry.adapters``).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from edgistry.adapters.faas_runtime import HandlerRuntime, HandlerStatus
from edgistry.errors import InvalidValueError, MalformedError, NotFoundError
from edgistry.faas_letters import Letter
from edgistry.transactions import Kind, parse_transaction

from .dead_letters import DeadLetter
from .handlers_api import (
    DeadLetterDetail,
    DeadLetterEntry,
    DeadLetterList,
    HandlerEntry,
    HandlerList,
    HandlerState,
    LettersAnswer,
)
from .outbox import Outbox

AT_ONCE = 100
"""Dead letters that are replayed or purged in one write: at most some 6 MB."""

_ID = re.compile(r"([ht])([1-9][0-9]{0,18})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HandlerDesk:
    """The operator's side of ``runtime``, whose handlers ``module`` has.

    ``outbox`` is the node's; a program without a chain has none.
    """

    def __init__(
        self, runtime: HandlerRuntime, *, module: str, outbox: Outbox | None = None
    ) -> None:
        self._runtime = runtime
        self._module = module
        self._outbox = outbox

    # --- looking --------------------------------------------------------------------------------

    def handlers(self) -> HandlerList:
        """All handlers, and those that are missing."""
        entries = [self._handler(each) for each in self._runtime.status()]
        return HandlerList(module=self._module, handlers=tuple(entries))

    def letters(self, limit: int) -> DeadLetterList:
        """Up to ``limit`` dead letters."""
        found = [_of_handler(each) for each in self._runtime.letters.newest(limit + 1)]
        if len(found) <= limit and self._outbox is not None:
            newest = self._outbox.dead_letters.newest_numbered(limit + 1 - len(found))
            found += [_of_transaction(number, each) for number, each in newest]
        return DeadLetterList(dead_letters=tuple(found[:limit]), more=len(found) > limit)

    def letter(self, name: str) -> DeadLetterDetail:
        """The dead letter called ``name``.

        Raises:
            MalformedError: no dead letter can be called so.
            NotFoundError: there is none, or no longer.
        """
        kind, number = parse_id(name)
        if kind == "h":
            found = self._runtime.letters.get(number)
            return DeadLetterDetail(
                letter=_of_handler(found),
                content=found.record.element,
                printed=found.record.output.decode("utf-8", "replace"),
            )
        transaction = self._transaction(number)
        return DeadLetterDetail(
            letter=_of_transaction(number, transaction),
            content=transaction.transaction,
            printed="",
        )

    def _transaction(self, number: int) -> DeadLetter:
        if self._outbox is None:
            raise NotFoundError(f"there is no dead letter t{number}: nothing goes to a chain here")
        return self._outbox.dead_letters.get(number)

    def _handler(self, status: HandlerStatus) -> HandlerEntry:
        handler, counts = status.handler, status.counts
        return HandlerEntry(
            name=status.name,
            kind="unknown" if handler is None else "async" if handler.is_async else "plain",
            isolation="none" if handler is None else handler.isolation,
            for_devices=handler is not None and handler.for_devices,
            state=self._state(status),
            waiting=status.waiting,
            running=counts.running,
            done=counts.done,
            failed=counts.failed,
            dead=counts.dead,
            left_behind=counts.left_behind,
            concurrency=handler.concurrency if handler else 0,
            timeout_s=handler.timeout_s if handler else 0.0,
            attempts=handler.retry.attempts if handler else 0,
        )

    def _state(self, status: HandlerStatus) -> HandlerState:
        if status.handler is None:
            return "missing"
        if self._runtime.halted is not None:
            return "halted"
        return "stuck" if status.stuck else "ok"

    # --- doing ----------------------------------------------------------------------------------

    async def replay(self, names: Sequence[str], *, every: bool) -> LettersAnswer:
        """Let handlers try these elements again, or those of ``every`` dead letter.

        Raises:
            MalformedError, NotFoundError: one is not there; none was replayed.
            InvalidValueError: one is a transaction; none was replayed.
            UnknownHandlerError: the handler of one is missing.
        """
        numbers = self._runtime.letters.numbers() if every else _of_handlers(names, "replayed")
        return await _bit_by_bit(self._runtime.replay, numbers, whole=not every)

    async def purge(self, names: Sequence[str], *, every: bool) -> LettersAnswer:
        """Forget these dead letters, or ``every`` one, for ever.

        Raises:
            MalformedError, NotFoundError: one is not there; none was purged.
            InvalidValueError: one is a transaction; none was purged.
        """
        if not every:
            numbers = _of_handlers(names, "purged one by one; --all purges everything")
            return await _bit_by_bit(self._runtime.purge, numbers, whole=True)
        numbers = self._runtime.letters.numbers()
        answer = await _bit_by_bit(self._runtime.purge, numbers, whole=False)
        transactions = 0 if self._outbox is None else await self._outbox.purge_dead_letters()
        return LettersAnswer(count=answer.count + transactions)


def parse_id(name: str) -> tuple[str, int]:
    """Kind and number of the dead letter called ``name``.

    Raises:
        MalformedError: no dead letter can be called so.
    """
    match = _ID.fullmatch(name)
    if match is None:
        raise MalformedError(
            f"dead letter {name[:40]!r}: ids are h or t and a number, as the list shows them"
        )
    return match[1], int(match[2])


def _of_handlers(names: Sequence[str], done: str) -> list[int]:
    numbers = []
    for name in names:
        kind, number = parse_id(name)
        if kind == "t":
            raise InvalidValueError(f"{name} is a transaction, which cannot be {done}")
        numbers.append(number)
    return numbers


async def _bit_by_bit(
    do: Callable[[Sequence[int]], Awaitable[int]], numbers: Sequence[int], *, whole: bool
) -> LettersAnswer:
    """``do`` it for all of ``numbers``; in one go where it must be all or none."""
    size = len(numbers) if whole else AT_ONCE
    count = 0
    for start in range(0, len(numbers), max(size, 1)):
        count += await do(numbers[start : start + size])
    return LettersAnswer(count=count)


def _of_handler(letter: Letter) -> DeadLetterEntry:
    record = letter.record
    died = _EPOCH + timedelta(microseconds=record.died_us)
    return DeadLetterEntry(
        id=f"h{letter.number}",
        what=record.handler,
        about=f"{record.woof} {record.number}",
        attempts=record.attempts,
        died=died.isoformat(timespec="seconds").replace("+00:00", "Z"),
        bytes=len(record.element),
        reason=record.reason,
    )


def _of_transaction(number: int, letter: DeadLetter) -> DeadLetterEntry:
    kind = Kind(parse_transaction(letter.transaction).kind)
    return DeadLetterEntry(
        id=f"t{number}",
        what=kind.name.lower().replace("_", "-"),
        about=f"sequence {letter.sequence}",
        attempts=1,
        died="",
        bytes=len(letter.transaction),
        reason=letter.reason,
    )
