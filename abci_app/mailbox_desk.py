"""What an operator can ask about mailboxes, and do with requests that never arrived.

Rules kept here:

* Counts, times and sizes are shown; what is asked and answered is not: it is between client and
  device.
* What is named is done for all that are named, or for none; ``every`` means all that can be.

Not handled here: transport (``admin_mailbox``), the rules (``mailbox.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, cast

from edgistry.api import block_time_text
from edgistry.errors import MalformedError, NotFoundError
from edgistry.kv import prefix_end
from edgistry.requests_api import StateName

from .exchange_desk import ExchangeDesk
from .mailbox_api import (
    DeadRequests,
    MailboxDetail,
    MailboxEntry,
    MailboxList,
    RequestEntry,
    RequestsDone,
)
from .mailbox_boxes import Decision
from .mailbox_records import DEVICES, LETTERS, RequestRecord
from .mailbox_states import State
from .mailbox_writer import MailboxWriter

AT_ONCE: Final = 200
"""Requests that are replayed or purged in one write."""

_ID: Final = re.compile("[0-9a-f]{32}")


class MailboxDesk:
    """The operator's side of the mailboxes of ``writer``."""

    def __init__(self, writer: MailboxWriter, exchanges: ExchangeDesk) -> None:
        self._writer = writer
        self._exchanges = exchanges

    # --- looking --------------------------------------------------------------------------------

    def mailboxes(self, limit: int) -> MailboxList:
        """Up to ``limit`` mailboxes: of devices that have come, or for which something waits."""
        boxes = self._writer.boxes
        with self._writer.lock:
            devices = sorted({*boxes.devices(), *self._seen()})
            entries = [self._entry(device) for device in devices[:limit]]
            return MailboxList(
                mailboxes=tuple(entries),
                outstanding=len(boxes.live),
                more=len(devices) > limit,
            )

    def mailbox(self, device: str, limit: int) -> MailboxDetail:
        """The mailbox of ``device``, with up to ``limit`` requests.

        Raises:
            NotFoundError: no such device has come, and nothing waits for it.
        """
        boxes = self._writer.boxes
        with self._writer.lock:
            waiting = sorted(boxes.box(device).requests.values(), key=lambda each: each.order)
            if not waiting and device not in self._seen():
                raise NotFoundError(f"there is no mailbox of a device {device[:40]!r}")
            return MailboxDetail(
                mailbox=self._entry(device),
                requests=tuple(map(_entry_of, waiting[:limit])),
                more=len(waiting) > limit,
            )

    def dead(self, limit: int) -> DeadRequests:
        """Up to ``limit`` requests that never arrived."""
        with self._writer.lock:
            found = self._writer.mailbox.letters(limit + 1)
        return DeadRequests(requests=tuple(map(_entry_of, found[:limit])), more=len(found) > limit)

    # --- doing ----------------------------------------------------------------------------------

    async def replay(self, ids: Sequence[str], *, every: bool) -> RequestsDone:
        """Try these dead requests again, or all that can be.

        Raises:
            MalformedError, NotFoundError: one is none; none was replayed.
            ExpiredError, InvalidValueError: it is too late for one; none was replayed.
        """
        mailbox, now_us = self._writer.mailbox, self._writer.clock_us()

        def replay(decision: Decision, requests: Sequence[bytes]) -> int:
            return mailbox.replay(decision, requests, now_us=now_us)

        def can_be(record: RequestRecord) -> bool:
            return record.state == State.DEAD and record.deadline_us > now_us

        return await self._do(replay, ids, every=every, can_be=can_be)

    async def purge(self, ids: Sequence[str], *, every: bool) -> RequestsDone:
        """Forget these dead requests, or all; their clients are still told.

        Raises:
            MalformedError, NotFoundError: one is none; none was purged.
        """
        return await self._do(
            self._writer.mailbox.purge, ids, every=every, can_be=lambda _record: True
        )

    async def _do(
        self,
        do: Callable[[Decision, Sequence[bytes]], int],
        ids: Sequence[str],
        *,
        every: bool,
        can_be: Callable[[RequestRecord], bool],
    ) -> RequestsDone:
        if not every:
            named = [_parse_id(each) for each in ids]
            return RequestsDone(
                count=await self._writer.commit(lambda decision: do(decision, named))
            )
        count = 0
        for some in _in_parts(self._dead_ids()):

            def decide(decision: Decision, some: Sequence[bytes] = some) -> int:
                known = (self._writer.boxes.lookup(each) for each in some)
                return do(decision, [each.id for each in known if each and can_be(each)])

            count += await self._writer.commit(decide)
        return RequestsDone(count=count)

    # --- entries --------------------------------------------------------------------------------

    def _seen(self) -> set[str]:
        """Devices that have come."""
        entries = self._writer.store.scan(DEVICES, prefix_end(DEVICES))
        return {key[len(DEVICES) :].decode() for key, _ in entries}

    def _dead_ids(self) -> list[bytes]:
        entries = self._writer.store.scan(LETTERS, prefix_end(LETTERS))
        return [key[len(LETTERS) :] for key, _ in entries]

    def _entry(self, device: str) -> MailboxEntry:
        boxes = self._writer.boxes
        box, known = boxes.box(device), boxes.device(device)
        states = [each.outcome for each in box.requests.values()]
        submitted = [each.submitted_us for each in box.requests.values()]
        return MailboxEntry(
            device=device,
            queued=states.count(State.QUEUED),
            leased=states.count(State.LEASED),
            acked=states.count(State.ACKED),
            bytes=box.size,
            oldest=block_time_text(min(submitted)) if submitted else "",
            seen=block_time_text(known.seen_us) if known.seen_us else "",
            back_in_s=known.back_in_s,
            exchanges=known.exchanges,
            awake_ms=known.awake_ms,
            sent=known.sent,
            received=known.received,
            conflicts=self._exchanges.conflicts.get(device, 0),
        )


def _entry_of(record: RequestRecord) -> RequestEntry:
    return RequestEntry(
        id=record.id.hex(),
        device=record.device,
        state=cast(StateName, record.outcome.name),
        client=record.client.hex(),
        priority=record.priority,
        attempts=record.attempts,
        bytes=record.size,
        submitted=block_time_text(record.submitted_us),
        deadline=block_time_text(record.deadline_us),
        recalled=record.recalled,
        reason=record.reason,
    )


def _parse_id(text: str) -> bytes:
    if not _ID.fullmatch(text):
        raise MalformedError(f"request {text[:40]!r}: an id has 32 hexadecimal digits")
    return bytes.fromhex(text)


def _in_parts(requests: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    return (requests[start : start + AT_ONCE] for start in range(0, len(requests), AT_ONCE))
