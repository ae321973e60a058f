"""What clients can do at this node with requests and grants, wherever the device's home node is.

Rules kept here:

* Services of this node are its own desks' business. Everything else goes to the home node that the
  registry names. An entry node has no key: it can neither check what a client bound, nor make or
  change a reply. What it tells by itself has no tag.
* While the home node answers, it decides, and the client is told what it says. While it does not,
  the request is durable here before the client is told that it is queued.
* What is known is told to who sends it again, whatever has become of its deadline or its service.
  Only the home node can say that it does not know a request, and so that one past its deadline
  never ran.
* Clients learn nothing about the home node, not even whether it is there.
* "Too many" is said of a client's own requests. Where all clients together have filled what a node
  keeps, the request waits here; where it cannot, the node is unavailable, for whatever reason.

Not handled here: what happens later (``entry_courier``), transport (``http_requests``).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

from edgistry.codec import decode_json, replace
from edgistry.envelope import Envelope, Operation, decode_envelope
from edgistry.errors import (
    BadRequestError,
    FutureError,
    KeyReusedError,
    MalformedError,
    NotEndedError,
    Refused,
    ServiceFullError,
    StorageError,
    UnavailableError,
    UnknownRequestError,
)
from edgistry.grants_api import GrantAnswer, GrantBody
from edgistry.messages import MAX_QUEUED_ENVELOPE_BYTES, request_id
from edgistry.replay_window import MAX_AHEAD_US
from edgistry.requests_api import RequestAnswer
from edgistry.signed_request import MAX_BODY_BYTES, SignedRequest, client_tag
from edgistry.transactions import NodeId

from .asked import NO_FETCH_KEY, Asked, FetchHash, digest_of
from .entry_book import EntryBook
from .entry_courier import Courier
from .entry_records import (
    CANCELLED_HERE,
    EntryRecord,
    Stage,
    delivered,
    delivered_answer,
    ended,
)
from .handle_opening import KeyWait, OpeningKeys, service_of_signer
from .http_grants import PublicGrants
from .http_requests import PublicRequests
from .peer_link import PeerLink, is_away
from .schema import StoredService

PATIENCE_S: Final = 3.0
"""How long a client waits for its home node before its request is queued here."""

FindService = Callable[[bytes], StoredService | None]
"""The registry record with that key."""

_NOT_NOW: Final = "this node cannot take the request now"
_AWAY: Final = "the node that this service belongs to cannot be reached now"


class EntryDesk:
    """Implements ``PublicRequests`` for all services that the registry knows."""

    def __init__(
        self,
        local: PublicRequests,
        book: EntryBook,
        courier: Courier,
        *,
        node_id: NodeId,
        find: FindService,
    ) -> None:
        self._local = local
        self._book = book
        self._courier = courier
        self._node_id = node_id
        self._find = find

    async def submit(self, asked: Asked) -> tuple[RequestAnswer, bool]:
        """Have the home node queue what is ``asked``, or queue it here until it can.

        Raises:
            NotFoundError: no such service.
            UnavailableError: it cannot be reached from this node at all; or not now, and the
                request's deadline has passed.
            Refused: as ``RequestDesk.submit``, if the home node says so.
        """
        try:
            return await self._submit(asked)
        except ServiceFullError:
            raise UnavailableError(_NOT_NOW) from None

    async def _submit(self, asked: Asked) -> tuple[RequestAnswer, bool]:
        service = self._find(asked.service)
        is_local = service is None or service.home == self._node_id
        asked = await self._let_go(asked, is_local=is_local)
        if service is None or is_local:
            known = self._entered(asked) if service is None else None
            return await self._local.submit(asked) if known is None else self._known(known, asked)
        link = _link_to(self._courier.links, service.home)
        envelope = _envelope_in(asked)
        record = self._record(asked, envelope, service)
        async with self._book.lock(record.id):
            known = self._book.get(record.id)
            if known is None:
                _check_sequence(envelope, record.submitted_us)
                async with self._book.room(record, alias=asked.alias):
                    return await self._enter(link, record, asked.envelope)
        return self._known(known, asked)

    def _entered(self, asked: Asked) -> EntryRecord | None:
        """The request, if it entered here while its service was still listed."""
        try:
            client = decode_envelope(asked.envelope).client
        except MalformedError:
            return None
        return self._book.get(_id_of(asked, client))

    def _known(self, known: EntryRecord, asked: Asked) -> tuple[RequestAnswer, bool]:
        if known.fetch_hash != asked.fetch_hash:
            raise KeyReusedError("this idempotency key was used with another fetch key")
        return self._book.answer(known), False

    async def _let_go(self, asked: Asked, *, is_local: bool) -> Asked:
        """Acknowledge what does not go with ``asked`` to this node's own desk; the rest of it."""
        others = [each for each in asked.acknowledged if not is_local or self._book.get(each[0])]
        if not others:
            return asked
        # Together: their writes share syncs, and the request waits for them.
        await asyncio.gather(*(self._acknowledge_if_ended(*each) for each in others))
        rest = tuple(each for each in asked.acknowledged if each not in others)
        return dataclasses.replace(asked, acknowledged=rest)

    async def _acknowledge_if_ended(self, request: bytes, fetch_key: bytes) -> None:
        # On a full disk it is kept longer; how a known request is doing is told all the same.
        with contextlib.suppress(UnknownRequestError, NotEndedError, StorageError):
            await self.acknowledge(request, fetch_key)

    async def _enter(
        self, link: PeerLink, record: EntryRecord, envelope: bytes
    ) -> tuple[RequestAnswer, bool]:
        """A request that is new here; its lock is held, and there is room for it."""
        if link.seems_up:
            request = record.passed_request(envelope)
            try:
                answer, is_new = await link.pass_on(request, timeout_s=PATIENCE_S)
            except Refused as error:
                if not (is_away(error) or isinstance(error, ServiceFullError)):
                    raise
                record = _at(record, Stage.SENT)
            else:
                await self._note(self._passed(record, answer), answer=answer)
                return answer, is_new
        if record.deadline_us <= record.submitted_us:
            # It may have been taken before, by way of this node too, and carried out since.
            raise UnavailableError(f"{_AWAY}; only it knows whether it has this request")
        await self._note(record, envelope=envelope)
        self._courier.wake(record.home)
        return self._book.answer(record), True

    async def _note(
        self,
        record: EntryRecord,
        *,
        envelope: bytes | None = None,
        answer: RequestAnswer | None = None,
    ) -> None:
        """Raises as ``EntryBook.add``, but ``UnavailableError`` of what may have been taken."""
        try:
            await self._book.add(record, envelope=envelope, answer=answer)
        except StorageError as error:
            if record.stage == Stage.HELD:
                raise
            raise UnavailableError(
                f"the request may have been taken, and cannot be noted here: {error.detail}"
            ) from None

    def _passed(self, record: EntryRecord, answer: RequestAnswer) -> EntryRecord:
        passed = _at(record, Stage.PASSED)
        if not answer.final:
            return passed
        return ended(passed, answer, now_us=self._book.clock_us(), limits=self._book.limits)

    def _record(self, asked: Asked, envelope: Envelope, service: StoredService) -> EntryRecord:
        """What is asked, as a request that is only here."""
        return EntryRecord(
            id=_id_of(asked, envelope.client),
            home=service.home,
            service=asked.service,
            client=envelope.client,
            idempotency_key=asked.idempotency_key,
            fetch_hash=asked.fetch_hash,
            priority=asked.priority,
            not_before_us=asked.not_before_us,
            max_age_s=asked.max_age_s,
            size=len(asked.envelope),
            wake=service.wake,
            submitted_us=self._book.clock_us(),
            deadline_us=envelope.deadline,
            stage=int(Stage.HELD),
        )

    # --- afterwards -----------------------------------------------------------------------------

    async def fetch(
        self,
        request: bytes,
        fetch_key: bytes | FetchHash,
        *,
        wait_s: float = 0,
        known: str | None = None,
    ) -> RequestAnswer:
        """How a request is doing; waits as ``RequestDesk.fetch`` does, and raises as it does."""
        record = self._book.get(request)
        if record is None:
            return await self._local.fetch(request, fetch_key, wait_s=wait_s, known=known)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        with self._book.news_of(request) as news:
            while True:
                news.clear()
                record = _seen(self._book.get(request), fetch_key)
                left_s = max(0.0, until_s - loop.time())
                answer = await self._look(record, left_s, known)
                left_s = until_s - loop.time()
                if answer.final or left_s <= 0 or (known is not None and answer.state != known):
                    return answer
                with contextlib.suppress(TimeoutError):
                    # Not ``wait_for``, which can lose a cancellation that comes with the event.
                    async with asyncio.timeout(left_s):
                        await news.wait()

    async def _look(self, record: EntryRecord, wait_s: float, known: str | None) -> RequestAnswer:
        """How ``record`` is doing, as its home node says if it can be asked."""
        link = self._courier.links.get(NodeId(record.home))
        if record.stage != Stage.PASSED or link is None:
            return self._book.answer(record)
        if not link.seems_up:
            self._courier.missed(record.home)
            return self._book.answer(record)
        try:
            answer = await link.look(record.reference, wait_s=wait_s, known=known)
        except Refused as error:
            # It is away, or knows the request no longer: the courier finds out which.
            self._courier.missed(record.home)
            if not is_away(error) and not isinstance(error, UnknownRequestError):
                raise
            return self._book.answer(record)
        async with self._book.lock(record.id):
            current = self._book.get(record.id)
            if current is not None:
                current = await self._book.take(current, answer)
                return self._book.answer(current)
        return answer

    async def acknowledge(self, request: bytes, fetch_key: bytes) -> RequestAnswer:
        """The client has the outcome; raises as ``RequestDesk.acknowledge``."""
        if self._book.get(request) is None:
            return await self._local.acknowledge(request, fetch_key)
        async with self._book.lock(request):
            record = _seen(self._book.get(request), fetch_key)
            answer = self._book.answer(record)
            if not record.has_ended:
                raise NotEndedError(f"the request is {answer.state}: there is no outcome yet")
            if record.stage == Stage.DELIVERED:
                return answer
            # What this node tells by itself is not what the home node has to tell.
            untold = answer.reply is not None
            answer = delivered_answer(answer)
            after = delivered(
                record, now_us=self._book.clock_us(), limits=self._book.limits, untold=untold
            )
            await self._book.change(after, answer)
        self._courier.wake(record.home)
        return answer

    async def cancel(self, request: bytes, fetch_key: bytes) -> RequestAnswer:
        """Take a request back, for certain only if the answer says CANCELLED; raises as ``fetch``.

        The home node is told at once if it can be reached, and else when it can.
        """
        if self._book.get(request) is None:
            return await self._local.cancel(request, fetch_key)
        async with self._book.lock(request):
            record = _seen(self._book.get(request), fetch_key)
            if record.stage == Stage.HELD:
                await self._book.end(record, "CANCELLED", CANCELLED_HERE)
            elif not (record.has_ended or record.recalled):
                await self._book.recall(record)
        await self._courier.hurry(request)
        return self._book.answer(_seen(self._book.get(request), fetch_key))


class GrantForwarder:
    """Implements ``PublicGrants`` for all services that the registry knows."""

    def __init__(
        self,
        local: PublicGrants,
        links: Mapping[NodeId, PeerLink],
        *,
        node_id: NodeId,
        find: FindService,
        keys: OpeningKeys,
    ) -> None:
        self._local = local
        self._links = links
        self._node_id = node_id
        self._find = find
        self._keys = keys
        self._arrivals = KeyWait(keys)

    async def grant(self, request: SignedRequest) -> GrantAnswer:
        """What the home node grants; it is asked once, and not later: grants are for now.

        Raises:
            UnavailableError: it cannot be asked now.
            Refused: as ``GrantDesk.grant``.
        """
        body = decode_json(request.body, GrantBody, limit=MAX_BODY_BYTES)
        # Who signed is for the home node to check; a handle of anybody else does not open.
        tag = client_tag(request.client)
        await self._arrivals.until_here(body.handle)
        service = self._find(service_of_signer(self._keys, body.handle, tag))
        if service is None or service.home == self._node_id:
            return await self._local.grant(request)
        link = _link_to(self._links, service.home)
        try:
            return await link.grant(request)
        except Refused as error:
            if is_away(error):
                raise UnavailableError(_AWAY) from None
            raise


def _link_to(links: Mapping[NodeId, PeerLink], home: bytes) -> PeerLink:
    link = links.get(NodeId(home))
    if link is None:
        raise UnavailableError("this node has no link to the one that this service belongs to")
    return link


def _at(record: EntryRecord, stage: Stage) -> EntryRecord:
    """A record that was never stored, in that stage."""
    return replace(record, stage=int(stage))


def _id_of(asked: Asked, client: bytes) -> bytes:
    return request_id(
        record_key=asked.service, client=client, idempotency_key=asked.idempotency_key
    )


def _envelope_in(asked: Asked) -> Envelope:
    """The envelope, which a home node might take.

    Raises:
        MalformedError, AuthorityError: none would.
    """
    if len(asked.envelope) > MAX_QUEUED_ENVELOPE_BYTES:
        raise MalformedError(f"a request has at most {MAX_QUEUED_ENVELOPE_BYTES} bytes")
    envelope = decode_envelope(asked.envelope)
    if envelope.op == Operation.EXCHANGE:
        raise BadRequestError("an exchange goes to /v1/exchange")
    return envelope


def _check_sequence(envelope: Envelope, now_us: int) -> None:
    if envelope.sequence > now_us + MAX_AHEAD_US:
        raise FutureError(
            "the sequence is too far ahead of this node's clock",
            sequence_epoch=envelope.sequence_epoch,
            sequence_floor=now_us,
        )


def _seen(record: EntryRecord | None, fetch_key: bytes | FetchHash) -> EntryRecord:
    digest = digest_of(fetch_key)
    if record is None or digest == NO_FETCH_KEY or digest != record.fetch_hash:
        raise UnknownRequestError("there is no request with this id and fetch key")
    return record
