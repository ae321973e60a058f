"""Forwarding: each element of a WooF onward to another runtime, exactly once and in order.

Rules kept here:

* The request that carries an element is durable before it is sent, and is sent unchanged until an
  answer proves what became of it: the destination carries it out at most once, and gives the same
  answer to every copy. So neither a crash nor an outage, of either side, loses or doubles one.
* One request is sent at a time: elements arrive in order. Up to 32 are made durable together,
  fewer than the 64 answers that the destination remembers.
* A new request for an element is made only when an answer proves that the old one was not carried
  out. When no answer can tell any more (the request has outlived its week, or the capability was
  changed under it), nothing is guessed: forwarding stops, and the operator says what is there.
* What the history has moved past before it was forwarded is counted as gone; what the destination
  does not take, as refused. Neither stops the elements behind it.

Time is a steady clock's, µs since any moment, and an argument; so is chance, from 0 to 1. Not
handled here: sending, waiting, reading the WooF (``adapters/forwarder.py``), what requests are
(``forward_requests.py``), what answers mean (``forward_answers.py``), where it rests
(``forward_records.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from . import forward_records as records
from .capability import BoundRequest, Capability
from .codec import replace
from .envelope import Reply, decode_envelope
from .errors import AuthorityError, CaveatError, InvalidValueError, Refused
from .forward_actions import Action, Ask, Authorise, Collect, Rest, State, Store
from .forward_answers import Verdict, verdict_of, words_for
from .forward_records import ForwardRecord
from .forward_requests import Forward, ForwardRequests
from .kv import Change
from .woof import Window, WoofId

MAX_BEGUN: Final = 32
"""Elements whose requests are made durable together."""
MAX_BEGUN_BYTES: Final = 256 * 1024

FIRST_REST_US: Final = 100_000
LONGEST_REST_US: Final = 10_000_000
"""After failures in a row rests double, from the first to the longest; chance shortens each by up
to a half, so that many who wait for one destination do not come back together."""


@dataclass(slots=True)
class _Begun:
    """An element whose request is under way."""

    number: int
    encoded: bytes
    request: BoundRequest | None
    """``None``: it was not made with the capability in use."""


class Forwarding:
    """One forward. Do what ``next`` says, tell what came of it, and again.

    ``record`` and ``begun`` are what is stored (``forward_records``).
    """

    def __init__(
        self, forward: Forward, record: ForwardRecord, begun: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        self.forward = forward
        self.record = record
        """How far it is; what is stored may lag behind by the requests under way."""
        self.reason = ""
        """Why it does not go on; empty while it does."""
        self.refusal = ""
        """The newest element that was refused, and why."""
        self._requests = ForwardRequests(
            forward, client=record.client, epoch=record.sequence_epoch, last=record.sequence
        )
        self._begun = deque(_Begun(number, encoded, None) for number, encoded in begun)
        self._doubt_through = begun[-1][0] if begun else 0
        """Requests up to this number may have been carried out, for all that we know."""
        self._in_doubt = False
        self._authorised = False
        self._to_renew = False
        self._dry = False
        self._asked: _Begun | None = None
        self._failures = 0
        self._rest_until_us: int | None = None
        self._stored = record
        self._unwritten: list[Change] = []
        self._ended: list[int] = []

    # --- what to do -----------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the forward is about."""
        if self._in_doubt:
            return State.IN_DOUBT
        if not self._requests.knows_time:
            return State.STARTING
        return State.SENDING if self._begun else State.READING

    @property
    def begun(self) -> list[int]:
        """Numbers of the elements whose requests are under way."""
        return [each.number for each in self._begun]

    def next(self, now_us: int) -> Action:
        """What to do now."""
        if self._rest_until_us is not None and now_us < self._rest_until_us:
            return Rest(self._rest_until_us)
        self._rest_until_us = None
        if not self._authorised:
            return Authorise()
        if self._in_doubt:
            # A capability that was changed may be put back: then the destination can be asked.
            self._authorised = False
            self._rest_until_us = now_us + LONGEST_REST_US
            return Rest(self._rest_until_us)
        if not self._requests.knows_time:
            self._asked = None
            return Ask(self._requests.make_probe().encoded)
        if self._to_renew and not self._renew(now_us):
            return Rest(self._rest_until_us or now_us)
        if self._unwritten or (self._dry and self._is_ahead_of_the_store):
            return Store(self._changes())
        if self._begun:
            self._asked = self._begun[0]
            return Ask(self._asked.encoded)
        return Collect(wait=self._dry)

    @property
    def _is_ahead_of_the_store(self) -> bool:
        return bool(self._ended) or self.record != self._stored

    def _changes(self) -> tuple[Change, ...]:
        name = self.forward.woof
        ended = records.end(name, self._ended)
        return (*ended, *self._unwritten, records.progress(name, self.record))

    def stored(self) -> None:
        """The changes that ``next`` gave last are durable."""
        self._stored, self._ended, self._unwritten = self.record, [], []

    def farewell(self) -> tuple[Change, ...]:
        """What to store before the program ends, so that what was answered is not asked again."""
        if self._unwritten or not self._is_ahead_of_the_store:
            return ()
        return self._changes()

    # --- authority ------------------------------------------------------------------------------

    def use(self, capability: Capability) -> None:
        """Go on with ``capability``.

        Raises:
            InvalidValueError, MalformedError: it cannot be used to forward.
        """
        changed = self._requests.use(capability)
        self._authorised = True
        if not changed or not self._begun:
            return
        for each in self._begun:
            each.request = self._requests.make_again(each.encoded)
        if all(each.request for each in self._begun):
            self._in_doubt = False
        else:
            self._make_anew("the capability, or what is forwarded to, was changed meanwhile")

    def _make_anew(self, why: str) -> None:
        """The requests under way have become useless: make others, where nothing forbids it."""
        if self._begun[0].number <= self._doubt_through:
            self._in_doubt = True
            self.reason = f"element {self._begun[0].number} may be there or not: {why}"
        else:
            self._to_renew = True

    def _renew(self, now_us: int) -> bool:
        """New requests for all elements under way; whether there are."""
        try:
            elements = [decode_envelope(each.encoded).payload for each in self._begun]
            made = [self._requests.make(element, now_us) for element in elements]
        except Refused as error:
            self._rest(error.detail, now_us, 1.0)
            self._authorised = False
            return False
        self._to_renew = False
        self._doubt_through = 0
        for each, request in zip(self._begun, made, strict=True):
            each.request, each.encoded = request, request.encoded
            self._begin(each)
        return True

    # --- the source -----------------------------------------------------------------------------

    def begin_at(self, woof_id: WoofId, window: Window) -> int:
        """The first element to read from the WooF as it is now, if it is still there."""
        if woof_id != self.record.woof_id:
            # The first one, or another one of the same name: it begins at number 1.
            self.record = replace(self.record, woof_id=woof_id, through=0)
        if window.latest < self.record.through:
            # The store was put back to an earlier state: these numbers are given once more.
            self.record = replace(self.record, through=window.latest)
        return self.record.through + 1

    def lost(self, through: int) -> None:
        """Elements up to this number, not yet collected, cannot be read any more."""
        self._miss(through)

    def wait(self, why: str, *, until_us: int) -> None:
        """What was to be done is not possible here, and nothing was sent: try again then."""
        self.reason = why
        self._rest_until_us = until_us

    def _miss(self, through: int) -> None:
        gone = through - self.record.through
        if gone > 0:
            self.record = replace(self.record, through=through, gone=self.record.gone + gone)

    def collected(
        self, elements: Sequence[tuple[int, bytes]], *, now_us: int, chance: float
    ) -> None:
        """Take ``elements``, read from where ``begin_at`` said, on their way; those that fit.

        What was not there any more, before the first of them, is counted as gone.
        """
        self._dry = not elements
        self.reason = ""
        size = 0
        for number, element in elements[:MAX_BEGUN]:
            size += len(element)
            after = self._begun[-1].number if self._begun else self.record.through
            if self._begun and (size > MAX_BEGUN_BYTES or number != after + 1):
                return
            if not self._begun:
                self._miss(number - 1)
            try:
                request = self._requests.make(element, now_us)
            except Refused as error:
                if self._begun:
                    return  # those before it come first
                if isinstance(error, CaveatError) and error.caveat == "max_payload":
                    self._pass_over(number, error.detail)
                    continue
                self._authorised = False
                self._rest(error.detail, now_us, chance)
                return
            self._begun.append(_Begun(number, request.encoded, request))
            self._begin(self._begun[-1])

    def _begin(self, begun: _Begun) -> None:
        sequencer = self._requests.sequencer
        self.record = replace(self.record, sequence=sequencer.last, sequence_epoch=sequencer.epoch)
        self._unwritten += records.begin(self.forward.woof, [(begun.number, begun.encoded)])

    # --- what came of it ------------------------------------------------------------------------

    def answered(self, data: bytes, *, now_us: int, chance: float) -> None:
        """The destination, or somebody in its place, has answered with ``data``."""
        asked, self._asked = self._asked, None
        request = self._requests.make_probe() if asked is None else asked.request
        if request is None:
            raise ValueError("an answer to a request that cannot have been sent")
        try:
            reply = request.open_reply(data)
        except AuthorityError as error:
            # Somebody else may have said so: it tells nothing about the element.
            self._asked = asked
            self.failed(error, now_us=now_us, chance=chance)
            self._authorised = False
            return
        if asked is None:
            self._probed(reply, now_us, chance)
        else:
            self._judge(asked, reply, now_us, chance)

    def failed(self, error: Refused, *, now_us: int, chance: float) -> None:
        """What was to be done could not be done, or it is not known whether it was."""
        asked, self._asked = self._asked, None
        if asked is not None:
            self._doubt_through = max(self._doubt_through, asked.number)
        self._rest(error.detail, now_us, chance)

    def _probed(self, reply: Reply, now_us: int, chance: float) -> None:
        told = self._requests.learn(reply, now_us)
        if self._requests.knows_time:
            self._goes_on()
            return
        self._rest(words_for(reply), now_us, chance)
        self._authorised = told

    def _judge(self, asked: _Begun, reply: Reply, now_us: int, chance: float) -> None:
        """The first element under way has got a proven answer."""
        verdict = verdict_of(reply)
        if verdict is Verdict.DELIVERED:
            self._deliver(reply.result)
        elif verdict is Verdict.REFUSED:
            self._pass_over(asked.number, words_for(reply))
        elif verdict is Verdict.AGAIN:
            self._authorised = False
            self._rest(words_for(reply), now_us, chance)
        elif verdict is Verdict.SPENT:
            # It comes first, so none of the requests behind it has ever been sent.
            self._to_renew = True
            self._rest(words_for(reply), now_us, chance)
        else:
            self._rest(words_for(reply), now_us, chance)
            self._requests.learn(reply, now_us)
            self._requests.knows_time = False
            self._make_anew(words_for(reply))

    def _deliver(self, landed: int) -> None:
        number = self._leave()
        record = self.record
        self.record = replace(record, through=number, delivered=record.delivered + 1, landed=landed)
        self._goes_on()

    def _pass_over(self, number: int, why: str) -> None:
        if self._begun:
            self._leave()
        self.refusal = f"element {number}: {why}"
        self.record = replace(self.record, through=number, refused=self.record.refused + 1)
        self._goes_on()

    def _leave(self) -> int:
        """The first element under way needs no more forwarding."""
        number = self._begun.popleft().number
        self._ended.append(number)
        self._dry = False
        return number

    def _goes_on(self) -> None:
        self._failures = 0
        self.reason = ""

    def _rest(self, why: str, now_us: int, chance: float) -> None:
        self.reason = why
        longest = min(FIRST_REST_US << min(self._failures, 20), LONGEST_REST_US)
        self._rest_until_us = now_us + round(longest * (1 - min(max(chance, 0.0), 1.0) / 2))
        self._failures += 1

    # --- the operator ---------------------------------------------------------------------------

    def settle(self, through: int) -> None:
        """The elements under way up to number ``through`` are at the destination, the others not.

        Raises:
            InvalidValueError: nothing is in doubt, or not about this number.
        """
        if not self._in_doubt:
            raise InvalidValueError(f"nothing of {self.forward.woof!r} is in doubt")
        low, high = self._begun[0].number - 1, self._begun[-1].number
        if not low <= through <= high:
            raise InvalidValueError(f"elements {low + 1} to {high} are in doubt: use {low}-{high}")
        while self._begun and self._begun[0].number <= through:
            self._deliver(self.record.landed)
        self._in_doubt = False
        self._to_renew = bool(self._begun)
        self._rest_until_us = None
        self._goes_on()
