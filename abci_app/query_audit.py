"""The node's log of what was asked of it: a WooF, written behind the answers.

Rules kept here:

* An answer waits for nothing here: entries are kept in memory for ``FLUSH_S``, then written
  together. A node that dies loses that second. What comes faster than ``MAX_WAITING`` in that time
  is counted, and not kept.
* The newest ``history`` entries are kept, and none for longer than ``days`` and an hour. What is
  too old is removed by writing what is younger into a WooF anew, in one write; numbers begin at 1.
* Pseudonyms come from a key of this node's (``audit_api``); nothing else says who asked.

Not handled here: which questions there are (``doors``), what is kept of them (``audit_api``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import Request, Response
from edgistry.adapters.in_thread import in_thread
from edgistry.adapters.log import get_logger
from edgistry.errors import MalformedError, MissingWoofError, Refused
from edgistry.mac import USE_PSEUDONYM, mac
from edgistry.woof_staging import Staging

from .audit_api import (
    MAX_READ_BODY,
    QueryList,
    QueryRow,
    asked_about,
    decode_row,
    encode_row,
    entry_of,
    pseudonym,
)
from .config import NodeConfig

WOOF: Final = "audit/queries"
FLUSH_S: Final = 1.0
TIDY_S: Final = 3600.0
MAX_WAITING: Final = 5_000
MAX_HISTORY: Final = 1_000_000
_DAY_US: Final = 86_400_000_000

logger = get_logger("edgistry.node.audit")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question that is still to be written down."""

    time_us: int
    operation: str
    query: Mapping[str, str]
    body: bytes | None
    """``None``: too long to be read again."""
    status: int
    size: int
    who: bytes


class QueryAudit:
    """The log in ``woofs``. ``key`` (32 bytes) is this node's secret for pseudonyms."""

    def __init__(
        self,
        woofs: DurableWoofs,
        *,
        key: bytes,
        history: int,
        days: int,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._woofs = woofs
        self._key = key
        self._history = history
        self._days = days
        self._clock_us = clock_us
        self._waiting: list[_Asked] = []
        self.lost = 0

    def note(self, name: str, request: Request, response: Response | None, who: bytes) -> None:
        """Keep that ``who`` asked ``request`` (a ``doors.Note``)."""
        if len(self._waiting) >= MAX_WAITING:
            self.lost += 1
            return
        status, size = (0, 0) if response is None else (response.status, len(response.body))
        body = request.body if len(request.body) <= MAX_READ_BODY else None
        self._waiting.append(_Asked(self._clock_us(), name, request.query, body, status, size, who))

    async def run(self) -> None:
        """Write down what was asked until cancelled; then what is left."""
        await self._quietly(self.tidy())
        tidied_s = time.monotonic()
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                await self._quietly(self.flush())
                if time.monotonic() - tidied_s >= TIDY_S:
                    tidied_s = time.monotonic()
                    await self._quietly(self.tidy())
        finally:
            await self._quietly(self.flush())

    async def flush(self) -> None:
        """Write down what waits, durably.

        Raises:
            Refused: it could not be written; it is lost.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        elements = [encode_row(self._row(each)) for each in waiting]

        def put(staging: Staging) -> None:
            for element in elements:
                staging.put(WOOF, element)

        await self._woofs.commit(put)

    async def tidy(self) -> None:
        """Make sure that the WooF is there as it should be, without what is too old."""
        oldest_us = self._clock_us() - self._days * _DAY_US
        # There may be a million of them to look at.
        kept = await in_thread(self._younger_than, oldest_us)
        if self._is_as_it_should_be(len(kept)):
            return

        def remake(staging: Staging) -> None:
            staging.create_namespace(WOOF.partition("/")[0])
            with contextlib.suppress(MissingWoofError):
                staging.delete(WOOF)
            staging.create(WOOF, self._history)
            for element in kept[-self._history :]:
                staging.put(WOOF, element)

        await self._woofs.commit(remake)

    def newest(self, limit: int) -> QueryList:
        """The newest ``limit`` questions, newest first; those of the last second may be missing."""
        rows = []
        for _, element in self._woofs.woofs.tail(WOOF, limit):
            try:
                rows.append(entry_of(decode_row(element)))
            except MalformedError:  # somebody else has put it there
                continue
        return QueryList(queries=tuple(rows), lost=self.lost)

    def _younger_than(self, oldest_us: int) -> list[bytes]:
        """The elements that are to stay, oldest first."""
        try:
            newest_first = self._woofs.woofs.tail(WOOF, MAX_HISTORY)
        except MissingWoofError:
            return []
        return [each for _, each in reversed(newest_first) if _time_of(each) > oldest_us]

    def _is_as_it_should_be(self, kept: int) -> bool:
        try:
            info = self._woofs.woofs.info(WOOF)
            window = self._woofs.woofs.window(WOOF)
        except MissingWoofError:
            return False
        return info.history == self._history and len(window) == kept

    def _row(self, asked: _Asked) -> QueryRow:
        type_name, area = asked_about(asked.query, asked.body)
        return QueryRow(
            time_us=asked.time_us,
            who=pseudonym(self._key, asked.who),
            operation=asked.operation,
            type=type_name,
            area=area,
            status=asked.status,
            size=asked.size,
        )

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Refused as error:
            logger.warning("questions could not be kept", reason=str(error))


def _time_of(element: bytes) -> int:
    try:
        return decode_row(element).time_us
    except MalformedError:
        return 0


def open_query_audit(config: NodeConfig, woofs: DurableWoofs, *, seed: bytes) -> QueryAudit | None:
    """The log that node.toml asks for; ``seed`` is that of the node's registry key."""
    audit = config.audit
    if not audit.queries:
        return None
    # The seed is the one secret of its own that every node has; nobody learns it from this.
    key = mac(seed, USE_PSEUDONYM + b"key")
    return QueryAudit(woofs, key=key, history=audit.history, days=audit.days)
