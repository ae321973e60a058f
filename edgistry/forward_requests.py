"""The requests that carry elements onward: made once, and made again to read their answers.

Rules kept here:

* The time in requests is the destination's. It tells it in answer to a probe: an envelope that can
  never be carried out, since its deadline lies before its sequence. No clock of ours need be right.
* The capability is narrowed to this forwarder, unless it forbids that: others who use it have a
  replay window of their own, and cannot push our answers out of the destination's memory.
* A stored request that is made again from what it says is the same, to the byte, or it belongs to
  another capability, destination or handler.

Time is a steady clock's, µs since any moment, and an argument. Not handled here: when a request is
made, and what becomes of it (``forwarding.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from .capability import BoundRequest, Capability
from .envelope import (
    BY_NODE,
    MAX_DEADLINE_AHEAD_US,
    Operation,
    Reply,
    Status,
    decode_envelope,
)
from .sequence import PROBE_DEADLINE, PROBE_SEQUENCE, Sequencer


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What is forwarded, and where to."""

    woof: str
    target: str
    """The WooF at the destination."""
    handler: str = ""
    """What the destination fires on each element; "" for nothing."""


class ForwardRequests:
    """Makes the requests of one forward, once ``use`` has told the capability.

    ``client`` is its 8-byte id at the destination; ``epoch`` and ``last`` are those of its last
    sequence number.
    """

    def __init__(self, forward: Forward, *, client: bytes, epoch: int, last: int) -> None:
        self.forward = forward
        self.sequencer = Sequencer(epoch=epoch, last=last)
        self.knows_time = False
        """Whether the destination has told its time, in answer to a probe."""
        self._client = client
        self._capability: Capability | None = None

    def use(self, capability: Capability) -> bool:
        """Make requests with ``capability`` from now on; whether it is another one than before.

        Raises:
            InvalidValueError, MalformedError: it is too long to be narrowed.
        """
        chain = capability.chain
        if not (chain.clients or chain.rare.sealed):
            capability = capability.derive(client=self._client)
        if self._capability is not None and capability.public == self._capability.public:
            return False
        self._capability = capability
        self.knows_time = False
        return True

    def make(self, element: bytes, now_us: int) -> BoundRequest:
        """A new request that appends ``element``.

        Raises:
            Refused: the destination would refuse it.
        """
        capability, forward, sequencer = self._in_use(), self.forward, self.sequencer
        capability.check(
            Operation.PUT,
            forward.target,
            element,
            client=self._client_of(capability),
            now_us=sequencer.time_us(now_us),
            handler=forward.handler,
        )
        sequence = sequencer.next(now_us)
        return self._bind(element, sequence, sequence + MAX_DEADLINE_AHEAD_US, sequencer.epoch)

    def make_again(self, encoded: bytes) -> BoundRequest | None:
        """The request in ``encoded``, ready to read its answer; ``None``: it is not one of ours."""
        envelope = decode_envelope(encoded)
        request = self._bind(
            envelope.payload, envelope.sequence, envelope.deadline, envelope.sequence_epoch
        )
        return request if request.encoded == encoded else None

    def make_probe(self) -> BoundRequest:
        """What asks for the destination's time, and does nothing."""
        return self._bind(b"", PROBE_SEQUENCE, PROBE_DEADLINE, self.sequencer.epoch)

    def learn(self, reply: Reply, now_us: int) -> bool:
        """Take the time, or the sequence to continue above, from ``reply``; whether it tells one.

        Sequences go on rising: a destination whose clock was set back takes them when it gets
        there, and nothing it has recorded before can be taken for new.
        """
        sequencer = self.sequencer
        status = reply.status & ~BY_NODE
        if status == Status.FUTURE:
            sequencer.offset_us = reply.sequence_floor - now_us
            self.knows_time = True
        elif status == Status.STALE:
            sequencer.last = max(sequencer.last, reply.sequence_floor)
        else:
            return False
        sequencer.epoch = reply.sequence_epoch
        return True

    def _bind(self, element: bytes, sequence: int, deadline: int, epoch: int) -> BoundRequest:
        capability, forward = self._in_use(), self.forward
        return capability.bind(
            Operation.PUT,
            forward.target,
            element,
            client=self._client_of(capability),
            sequence=sequence,
            deadline=deadline,
            sequence_epoch=epoch,
            handler=forward.handler,
        )

    def _client_of(self, capability: Capability) -> bytes:
        clients = capability.chain.clients
        return clients[0] if clients else self._client

    def _in_use(self) -> Capability:
        if self._capability is None:
            raise ValueError("a request without a capability")
        return self._capability
