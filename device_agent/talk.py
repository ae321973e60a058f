"""One side of the talk between a device and one of its nodes: what it sends, what answers mean.

Rules kept here:

* Every exchange has an envelope of its own, with a payload that no other run of the agent can have:
  a recorded reply proves nothing to a later request, so neither does the time in it.
* A node says by FUTURE what time it is, and by STALE where to go on; both are followed. To a device
  whose clock is far behind the node can only say EXPIRED. Then the device asks with a sequence so
  far ahead that the answer must be FUTURE, and that the request can never be executed.
* Only what has a valid tag is believed, and no time that a calendar does not have.

Pure: time is an argument. Not handled here: transport and retries (``agent.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgistry.capability import BoundRequest
from edgistry.envelope import Operation, Status
from edgistry.errors import BadReplyError, MalformedError, TooLargeError, TwoAgentsError
from edgistry.messages import (
    MESSAGES_VERSION,
    Account,
    ExchangeDown,
    ExchangeUp,
    RequestResult,
    decode_down,
    encode_up,
)
from edgistry.pairing import device_object
from edgistry.sequence import Sequencer
from edgistry.woof_replies import check_done, status_of

from .homes import Home

LIFETIME_US: Final = 60_000_000
"""How long a node may take to execute an exchange."""

FAR_AHEAD_US: Final = 1 << 62
"""The year 148 000: no clock gets there."""

LATEST_US: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999. Behind it neither calendars nor sequences go on."""

_ANYBODY: Final = bytes(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the device wants of an exchange."""

    count: int
    """Requests, at most."""
    size: int
    """Bytes of requests, at most."""
    back_in_s: int = 0
    """When it will wake next; 0 when it does not know."""
    is_home_away: bool = False
    """Nodes that come before this one do not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The node did nothing; ask once more."""

    node_us: int | None
    """The node's time, if it has proven it."""
    probe: bool = False
    """Ask for the time first."""


class Talk:
    """The talk of device ``device_id`` with ``home``.

    ``instance`` are 8 random bytes, drawn when the agent started.
    """

    def __init__(self, home: Home, device_id: str, *, instance: bytes) -> None:
        self.home = home
        self._target = device_object(device_id)
        self._instance = instance
        self._counter = 0
        self._open: dict[bytes, int] = {}
        """Counters of exchanges that have not ended, by their tags."""
        self._sequencer = Sequencer()
        named = home.capability.chain.clients
        self._client = named[0] if named else _ANYBODY

    def request(
        self,
        wish: Wish,
        results: Sequence[RequestResult],
        account: Account,
        *,
        now_us: int,
    ) -> BoundRequest:
        """The next exchange; to be told when it has ended."""
        sequence = self._sequencer.next(now_us)
        return self._bound(self._up(wish, results, account), sequence, sequence + LIFETIME_US)

    def ended(self, request: BoundRequest) -> None:
        """What came of ``request`` is durable here, or it was given up."""
        self._open.pop(request.envelope.tag, None)

    def probe(self) -> BoundRequest:
        """A request that only asks for the time; to be told when it has ended."""
        up = self._up(Wish(count=0, size=0), (), Account())
        return self._bound(up, FAR_AHEAD_US, FAR_AHEAD_US)

    def _up(self, wish: Wish, results: Sequence[RequestResult], account: Account) -> ExchangeUp:
        self._counter += 1
        return ExchangeUp(
            version=MESSAGES_VERSION,
            instance=self._instance,
            counter=self._counter,
            want_count=wish.count,
            want_bytes=wish.size,
            back_in_s=wish.back_in_s,
            results=tuple(results),
            account=account,
            settled=min([self._counter, *self._open.values()]) - 1,
            is_home_away=wish.is_home_away,
        )

    def _bound(self, up: ExchangeUp, sequence: int, deadline: int) -> BoundRequest:
        request = self.home.capability.bind(
            Operation.EXCHANGE,
            self._target,
            encode_up(up),
            client=self._client,
            sequence=sequence,
            deadline=deadline,
            sequence_epoch=self._sequencer.epoch,
        )
        self._open[request.envelope.tag] = up.counter
        return request

    def understood(self, request: BoundRequest, data: bytes) -> ExchangeDown | Again:
        """What the node says in reply to ``request``.

        Raises:
            UnprovenRefusalError, BadReplyError: nothing that can be believed.
            TwoAgentsError: another agent has taken this one's place.
            Refused: the node refuses, and has proven that it does.
        """
        reply = request.open_reply(data)
        status = status_of(reply)
        if status == Status.FUTURE:
            node_us = _time(reply.sequence_floor)
            self._sequencer.follow(reply, now_us=node_us)
            return Again(node_us=node_us)
        if status == Status.STALE:
            self._sequencer.follow(reply, now_us=0)
            return Again(node_us=None)
        if status == Status.EXPIRED:
            return Again(node_us=None, probe=True)
        if status == Status.BUSY:
            raise TwoAgentsError(
                f"another agent polls as this device at {self.home.url}; this one was replaced"
            )
        check_done(request.envelope, reply)
        try:
            down = decode_down(reply.payload)
        except (MalformedError, TooLargeError) as error:
            raise BadReplyError(f"the reply is no answer to an exchange: {error}") from None
        _time(down.now_us)
        return down


def _time(node_us: int) -> int:
    if node_us > LATEST_US:
        raise BadReplyError("the node's time is beyond the year 9999")
    return node_us
