"""The requests of a node in memory, and what is decided about them until it is durable.

Rules kept here:

* In memory is what has not ended; the rest is in the store and is read there.
* Each decision sees those before it, written or not. A decision ends in one of three ways:
  ``settle`` (it is written), ``take_back`` (it will not be, and no later one has begun), or
  ``Boxes.reload`` (a write has failed: the store is asked again).
* A start costs one pass over the small records; envelopes and replies are not read.

Not handled here: what is decided (``mailbox.py``, ``mailbox_exchange.py``), and the write.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Final, cast

from edgistry.codec import encode, replace
from edgistry.kv import Change, KeyValue, prefix_end

from .mailbox_records import (
    DEVICES,
    ENVELOPES,
    FORGETTING,
    LETTERS,
    RECORDS,
    REPLIES,
    SENT,
    DeviceRecord,
    RequestRecord,
    forgetting_key,
    read_device,
    read_request,
)
from .mailbox_states import OUTSTANDING, State, check_move, path_between

_STALE_FACTOR: Final = 16
"""The agenda is made anew when it has so many entries for each request."""

_RECORD_BYTES: Final = 200
"""About what the record of a request takes in a batch."""


_SETTLED: Final = object()


class Box:
    """What waits for one device."""

    __slots__ = ("requests", "size")

    def __init__(self) -> None:
        self.requests: dict[bytes, RequestRecord] = {}
        """Those that have not ended, by id."""
        self.size = 0
        """Bytes of their envelopes."""


class Count:
    """How many requests one party has at one service."""

    __slots__ = ("outstanding", "unfetched")

    def __init__(self) -> None:
        self.outstanding = 0
        self.unfetched = 0


class Boxes:
    """All requests of one node. Whoever decides holds a lock, the caller's."""

    def __init__(self, store: KeyValue) -> None:
        self.store = store
        self.reload()

    def reload(self) -> None:
        """Know what the store says, and nothing else."""
        self.live: dict[bytes, RequestRecord] = {}
        self._boxes: dict[str, Box] = {}
        self._counts: dict[tuple[bytes, bytes], Count] = {}
        """By service and party: services of one device must not be told by what they refuse."""
        self._unsettled: dict[bytes, RequestRecord | None] = {}
        self._devices: dict[str, DeviceRecord] = {}
        self.unwritten: set[bytes] = set()
        """New requests that are not durable yet: nobody may be told of them."""
        self._sent: dict[bytes, bytes] = {}
        """Ids of these, by the digests of their envelopes."""
        self._due: list[tuple[int, bytes]] = []
        self._followers: dict[bytes, set[bytes]] = {}
        self.next_order = 0
        for _, value in self.store.scan(RECORDS, prefix_end(RECORDS)):
            record = read_request(value)
            self._count(record, +1)
            if record.state in OUTSTANDING:
                self._keep(record)
                self.next_order = max(self.next_order, record.order + 1)

    # --- looking --------------------------------------------------------------------------------

    def lookup(self, request: bytes) -> RequestRecord | None:
        """The request with this id as it was last decided, or ``None``."""
        found = self.live.get(request)
        if found is not None:
            return found
        # In one step: who only looks holds no lock, and the writer's thread may settle it now.
        unsettled = self._unsettled.get(request, _SETTLED)
        if unsettled is not _SETTLED:
            return cast(RequestRecord | None, unsettled)
        value = self.store.get(RECORDS + request)
        return None if value is None else read_request(value)

    def box(self, device: str) -> Box:
        """What waits for ``device``; not to be changed."""
        return self._boxes.get(device) or Box()

    def device(self, device: str) -> DeviceRecord:
        """What is known of ``device``."""
        known = self._devices.get(device)
        if known is None:
            value = self.store.get(DEVICES + device.encode())
            known = DeviceRecord() if value is None else read_device(value)
            self._devices[device] = known
        return known

    def count(self, service: bytes, party: bytes) -> Count:
        """What ``party`` has at the service with that record key; not to be changed."""
        return self._counts.get((service, party)) or Count()

    def followers(self, leader: bytes) -> list[RequestRecord]:
        """Requests that wait for the answer to ``leader``, in order of arrival."""
        found = [self.live[each] for each in self._followers.get(leader, ())]
        return sorted(found, key=lambda each: each.order)

    def leader_for(self, device: str, content: bytes) -> RequestRecord | None:
        """A request for the same answer that the device has not been given yet."""
        for record in self.box(device).requests.values():
            is_first = record.content == content and not record.leader
            is_waiting = record.state == State.QUEUED and not record.held and not record.recalled
            if is_first and is_waiting and record.not_before_us <= record.submitted_us:
                return record
        return None

    def devices(self) -> list[str]:
        """Devices for which something waits, sorted."""
        return sorted(self._boxes)

    def due(self, now_us: int) -> RequestRecord | None:
        """One that has not ended and is to be looked at by now, if there is one."""
        due = self._due
        while due and due[0][0] <= now_us:
            at, request = due[0]
            record = self.live.get(request)
            if record is not None and record.due_us() == at:
                return record
            heapq.heappop(due)
        return None

    def over(self, now_us: int) -> Iterator[tuple[bytes, bytes]]:
        """(key, id) of requests that may be forgotten by now, as far as the store knows."""
        stop = FORGETTING + (now_us + 1).to_bytes(8, "big")
        for key, _ in self.store.scan(FORGETTING, stop):
            yield key, key[len(FORGETTING) + 8 :]

    def envelope(self, request: bytes) -> bytes | None:
        """The envelope of a request, if it is still there."""
        return self.store.get(ENVELOPES + request)

    def sent_as(self, digest: bytes) -> bytes | None:
        """The id under which the envelope with this digest came."""
        return self._sent.get(digest) or self.store.get(SENT + digest)

    # --- changing (by decisions) ----------------------------------------------------------------

    def _set(self, request: bytes, record: RequestRecord | None) -> None:
        before = self.lookup(request)
        if before is not None:
            self._count(before, -1)
            if before.state in OUTSTANDING:
                self._drop(before)
        if record is None or record.state not in OUTSTANDING:
            self._unsettled[request] = record
        else:
            self._unsettled.pop(request, None)
            self._keep(record)
        if record is not None:
            self._count(record, +1)

    def _keep(self, record: RequestRecord) -> None:
        self.live[record.id] = record
        box = self._boxes.get(record.device)
        if box is None:
            box = self._boxes[record.device] = Box()
        box.requests[record.id] = record
        box.size += record.size
        if record.leader:
            self._followers.setdefault(record.leader, set()).add(record.id)
        if len(self._due) > _STALE_FACTOR * len(self.live) + _STALE_FACTOR:
            self._due = [(each.due_us(), each.id) for each in self.live.values()]
            heapq.heapify(self._due)
        else:
            heapq.heappush(self._due, (record.due_us(), record.id))

    def _drop(self, record: RequestRecord) -> None:
        del self.live[record.id]
        box = self._boxes[record.device]
        del box.requests[record.id]
        box.size -= record.size
        if record.leader:
            followers = self._followers[record.leader]
            followers.discard(record.id)
            if not followers:
                del self._followers[record.leader]
        if not box.requests:
            del self._boxes[record.device]

    def _count(self, record: RequestRecord, by: int) -> None:
        if record.state == State.DELIVERED or not record.service:
            return
        where = (record.service, record.party)
        count = self._counts.get(where)
        if count is None:
            count = self._counts[where] = Count()
        if record.state in OUTSTANDING:
            count.outstanding += by
        else:
            count.unfetched += by
        if not (count.outstanding or count.unfetched):
            del self._counts[where]

    def _settled(self, decided: dict[bytes, RequestRecord | None]) -> None:
        for request, record in decided.items():
            if request in self._unsettled and self._unsettled[request] is record:
                del self._unsettled[request]


class Decision:
    """What is decided at one time, for one atomic write (a ``Work`` of the group committer)."""

    def __init__(
        self, boxes: Boxes, *, on_settled: Callable[[Decision], None] | None = None
    ) -> None:
        self.boxes = boxes
        self.changes: list[Change] = []
        self.size = 0
        self.decided: dict[bytes, RequestRecord | None] = {}
        """The requests it is about, as they will be."""
        self.queued_for: set[str] = set()
        """Devices that get something to do by it."""
        self._on_settled = on_settled
        self._before: list[tuple[bytes, RequestRecord | None, bool]] = []
        self.new: dict[bytes, bytes] = {}
        """Envelopes of the requests that begin with it, by id."""
        self._digests: list[bytes] = []
        self._devices_before: list[tuple[str, DeviceRecord]] = []

    def add(self, record: RequestRecord, envelope: bytes) -> None:
        """A new request."""
        self.boxes.next_order += 1
        self._write(record)
        self.new[record.id] = envelope
        self.boxes.unwritten.add(record.id)
        self.boxes._sent[record.digest] = record.id
        self._digests.append(record.digest)
        self.changes.append((ENVELOPES + record.id, envelope))
        self.changes.append((SENT + record.digest, record.id))
        self.size += len(envelope)
        self.queued_for.add(record.device)

    def change(self, record: RequestRecord, **fields: object) -> RequestRecord:
        """Change what is known of ``record``, but not its state; as it is then."""
        changed = replace(record, **fields)
        self._write(changed)
        return changed

    def move(self, record: RequestRecord, *path: State, **fields: object) -> RequestRecord:
        """Let ``record`` go along ``path`` within what has not ended; as it is then."""
        check_move(record.outcome, *path)
        if path[-1] == State.QUEUED or record.overtaken:
            self.queued_for.add(record.device)  # overtaken: others may have waited for it
        return self.change(record, state=int(path[-1]), **fields)

    def end(
        self,
        record: RequestRecord,
        state: State,
        *,
        now_us: int,
        keep_until_us: int,
        reply: bytes = b"",
        reason: str = "",
    ) -> RequestRecord:
        """``record`` ends in ``state``, by the moves that this implies; as it is then.

        The envelope stays where nobody has answered it, since the node may have to. Requests that
        still wait for its answer go to the device themselves.
        """
        path_between(record.outcome, state)
        keep = max(keep_until_us, record.deadline_us)
        ended = replace(
            record,
            state=int(state),
            held=False,
            ended_us=now_us,
            keep_until_us=keep,
            reason=reason,
        )
        self._write(ended)
        self.changes.append((forgetting_key(keep, record.id), b""))
        if reply:
            self.changes.append((REPLIES + record.id, reply))
            self.changes.append((ENVELOPES + record.id, None))
            self.size += len(reply)
        if state == State.DEAD:
            self.changes.append((LETTERS + record.id, b""))
        if record.overtaken:
            self.queued_for.add(record.device)  # others may have waited for it
        for follower in self.boxes.followers(record.id):
            self.change(follower, leader=b"")
            self.queued_for.add(follower.device)
        return ended

    def deliver(self, record: RequestRecord, *, keep_until_us: int) -> RequestRecord:
        """The client has the outcome; only the id stays known, so that it means no second one."""
        check_move(record.outcome, State.DELIVERED)
        keep = max(keep_until_us, record.deadline_us)
        delivered = replace(record, state=int(State.DELIVERED), keep_until_us=keep)
        self._write(delivered)
        self.changes.append((forgetting_key(record.keep_until_us, record.id), None))
        self.changes.append((forgetting_key(keep, record.id), b""))
        self.changes.append((REPLIES + record.id, None))
        self.changes.append((ENVELOPES + record.id, None))
        return delivered

    def revive(self, record: RequestRecord) -> RequestRecord:
        """Let a dead one be tried again."""
        order = self.boxes.next_order
        self.boxes.next_order += 1
        self.changes.append((LETTERS + record.id, None))
        self.changes.append((forgetting_key(record.keep_until_us, record.id), None))
        return self.move(record, State.QUEUED, attempts=0, order=order, reason="")

    def bury(self, record: RequestRecord) -> None:
        """Take a dead one from the list, and its envelope with it."""
        self.changes.append((LETTERS + record.id, None))
        self.changes.append((ENVELOPES + record.id, None))

    def forget(self, record: RequestRecord) -> None:
        """Nothing is known of ``record`` any more."""
        request = record.id
        self._remember(request)
        self.boxes._set(request, None)
        self.decided[request] = None
        self.changes += [(key + request, None) for key in (RECORDS, ENVELOPES, REPLIES, LETTERS)]
        self.changes.append((SENT + record.digest, None))
        self.changes.append((forgetting_key(record.keep_until_us, request), None))
        self.size += _RECORD_BYTES

    def tell_device(self, device: str, record: DeviceRecord | None) -> None:
        """What is known of ``device`` from now on; ``None``: nothing."""
        self._devices_before.append((device, self.boxes.device(device)))
        self.boxes._devices[device] = record or DeviceRecord()
        value = None if record is None else encode(record)
        self.changes.append((DEVICES + device.encode(), value))
        self.size += _RECORD_BYTES

    def settle(self) -> None:
        """It is written."""
        self.boxes._settled(self.decided)
        self._forget_new()
        if self._on_settled is not None:
            self._on_settled(self)

    def take_back(self) -> None:
        """It will not be written, and no later one has begun."""
        for device, known in reversed(self._devices_before):
            self.boxes._devices[device] = known
        for request, record, unsettled in reversed(self._before):
            self.boxes._set(request, record)
            if not unsettled:
                self.boxes._unsettled.pop(request, None)
        self._forget_new()
        self.changes.clear()

    def _forget_new(self) -> None:
        """The new requests are in the store, or never will be."""
        self.boxes.unwritten.difference_update(self.new)
        for digest in self._digests:
            self.boxes._sent.pop(digest, None)

    def _write(self, record: RequestRecord) -> None:
        self._remember(record.id)
        self.boxes._set(record.id, record)
        self.decided[record.id] = record
        self.changes.append((RECORDS + record.id, encode(record)))
        self.size += _RECORD_BYTES

    def _remember(self, request: bytes) -> None:
        if request not in self.decided:
            unsettled = request in self.boxes._unsettled
            self._before.append((request, self.boxes.lookup(request), unsettled))
