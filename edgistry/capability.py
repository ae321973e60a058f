"""Capabilities as their holders use them: derive narrower ones, bind requests, read replies.

A ``Capability`` is the public bytes of a chain and its last secret state: whoever has both may use
it, and may pass on a narrower one without asking anybody (paper §3.1)::

    reader = capability.derive(allow=Right.GET | Right.LATEST, object_name="sensors/temp",
                               not_after_us=tomorrow)
    request = reader.bind(Operation.GET, "sensors/temp", NEWEST, client=me, sequence=now_us,
                          deadline=now_us + 60_000_000)
    reply = request.open_reply(send(request.encoded))

Rules kept here:

* ``derive`` only narrows; what would widen is refused before any bytes exist.
* The secret state never travels: ``bind`` proves it by a tag, and the reply proves the issuer by
  another (paper §3.2). It is in no ``repr``, ``str`` or exception; ``danger_bytes`` gives it out.
* Time, sequence numbers and client ids are arguments.

Not handled here: minting (``issuer.py``), verifying (``verifier.py``), text and files
(``captext.py``), choosing sequence numbers (``sequence.py``).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from . import caveats as make
from .blocks import ChildEntry, append_block, child_block, next_state
from .capability_chain import CURRENT_EPOCH, Chain, Entry
from .caveats import Caveat
from .codec import encode
from .envelope import (
    ENVELOPE_VERSION,
    MAX_CAPABILITIES,
    MAX_U64,
    Envelope,
    Flag,
    Operation,
    Reply,
    Status,
    check_envelope,
    decode_reply,
    envelope_tag,
    mask_state,
    max_payload,
    reply_tag,
    with_tag,
)
from .errors import (
    BadReplyError,
    CaveatError,
    InvalidValueError,
    MalformedError,
    TooLargeError,
    UnprovenRefusalError,
    WidenedError,
)
from .judge import Question, judge
from .mac import KEY_BYTES, SIGNED_HEADER_BYTES, TAG_BYTES, USE_SEVERAL_KEYS
from .rights import covers, names_of

__all__ = ["BoundRequest", "Capability", "ChildEntry", "Entry", "request_key"]


@dataclass(frozen=True, slots=True)
class Capability:
    """Authority in the delegable form: a bearer secret. Make them with ``derive`` or an issuer."""

    chain: Chain
    _state: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Capability:
        """The capability in its delegable form: public bytes, then the 32 secret ones.

        Nobody but the issuer can tell whether the secret belongs to the public bytes.

        Raises:
            MalformedError: the public bytes are no chain.
        """
        if len(data) <= KEY_BYTES:
            raise MalformedError(f"{len(data)} bytes are too few for a capability")
        return cls(Chain.parse(bytes(data[:-KEY_BYTES])), bytes(data[-KEY_BYTES:]))

    def danger_bytes(self) -> bytes:
        """The delegable form, with the secret: for files of mode 0600 and protected channels."""
        return self.chain.public + self._state

    @property
    def public(self) -> bytes:
        """The public bytes: what travels in requests."""
        return self.chain.public

    @property
    def id(self) -> bytes:
        """The public id, 16 bytes: what ``require`` and revocation name it by."""
        return self.chain.id

    @property
    def serial(self) -> int:
        """The number of the grant that this capability descends from."""
        return self.chain.serial

    @property
    def epoch(self) -> int | None:
        """The issuer's epoch it was signed under; ``None``: whichever is current."""
        return None if self.chain.epoch == CURRENT_EPOCH else self.chain.epoch

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What it grants, before caveats."""
        return self.chain.entries

    def __repr__(self) -> str:
        return f"<Capability {self.id.hex()}>"

    __str__ = __repr__

    def derive(
        self,
        *,
        allow: int | None = None,
        object_name: str | None = None,
        entries: Sequence[ChildEntry] | None = None,
        caveats: Iterable[Caveat] = (),
        not_after_us: int | None = None,
        not_before_us: int | None = None,
        client: bytes | None = None,
        handlers: Iterable[str] = (),
        max_payload: int | None = None,
        require: Iterable[bytes] = (),
        seal: bool = False,
        veil: bool = False,
    ) -> Capability:
        """A capability that grants at most what this one does, with one more block.

        ``allow`` keeps these rights only (all by default) and ``object_name`` (a full name) keeps
        what lies at or below it; every entry is narrowed so, and those left with nothing are
        dropped. ``entries`` says the same entry by entry instead. The other arguments are caveats
        (times in µs since 1970, client ids of 8 bytes, public ids of 16, lengths in bytes);
        ``caveats`` takes them ready-made. Nobody is contacted (paper §3.1).

        Raises:
            WidenedError: a right or an object that this capability does not grant.
            CaveatError: this capability is sealed.
            InvalidValueError, MalformedError: a value outside its field, or more than 16 blocks,
                32 entries or 2048 public bytes.
        """
        if self.chain.rare.sealed:
            raise CaveatError("the capability is sealed: nothing derives from it", caveat="sealed")
        if entries is None:
            entries = _narrowed_entries(self.chain, allow, object_name)
        elif allow is not None or object_name is not None:
            raise InvalidValueError("give either entries, or allow and object_name")
        added = [*caveats, *map(make.handler, handlers), *map(make.require, require)]
        if not_after_us is not None:
            added.append(make.not_after(not_after_us))
        if not_before_us is not None:
            added.append(make.not_before(not_before_us))
        if client is not None:
            added.append(make.client(client))
        if max_payload is not None:
            added.append(make.max_payload(max_payload))
        if seal:
            added.append(make.SEALED)
        if veil:
            added.append(make.VEIL)
        return self.extended(child_block(entries, added))

    def extended(self, block: bytes) -> Capability:
        """The capability with one more ready-made ``block`` (its bytes with the length field).

        Raises:
            InvalidValueError, MalformedError: the result is no chain.
        """
        chain = Chain.parse(append_block(self.public, block))
        return Capability(chain, next_state(self._state, block))

    def check(
        self,
        operation: int,
        target: str,
        payload: bytes = b"",
        *,
        client: bytes,
        now_us: int,
        handler: str = "",
        beside: Sequence[Capability] = (),
    ) -> None:
        """Pass if the issuer would authorise this at ``now_us``, as far as a holder can tell.

        Raises:
            BadRequestError, CaveatError, NoRightError: it would not, for this reason. Revocation,
            epochs and replay only the issuer knows.
        """
        question = Question(operation, target, handler, client, payload)
        judge(question, [self.chain, *(other.chain for other in beside)], now_us=now_us)

    def bind(
        self,
        operation: Operation,
        target: str,
        payload: bytes = b"",
        *,
        client: bytes,
        sequence: int,
        deadline: int,
        sequence_epoch: int = 0,
        handler: str = "",
        flags: int = 0,
        beside: Sequence[Capability] = (),
    ) -> BoundRequest:
        """A request that this capability authorises, ready to travel over a channel in clear.

        ``sequence`` is the client's time and ``deadline`` the last moment of execution, both µs
        since 1970; each sequence is used once. ``beside`` are capabilities of the same issuer that
        this one requires (at most 3). Whether it would be authorised is not checked: see ``check``.

        Raises:
            TooLargeError: more payload than the operation takes.
            InvalidValueError, MalformedError: another field outside its format or limit.
        """
        if len(payload) > max_payload(operation):
            raise TooLargeError(
                f"{len(payload)} bytes of payload; at most {max_payload(operation)} are taken"
            )
        holders = (self, *beside)
        if len(holders) > MAX_CAPABILITIES:
            raise InvalidValueError(f"at most {MAX_CAPABILITIES} capabilities in one envelope")
        _check_numbers(sequence, deadline, sequence_epoch, flags, client)
        envelope = Envelope(
            version=ENVELOPE_VERSION,
            flags=int(flags),
            op=int(operation),
            target=target,
            handler=handler,
            sequence_epoch=sequence_epoch,
            sequence=sequence,
            deadline=deadline,
            client=client,
            capabilities=tuple(holder.public for holder in holders),
            payload=payload,
            tag=bytes(TAG_BYTES),
        )
        check_envelope(envelope)
        return BoundRequest.sealed(envelope, request_key_of(holders))


def _check_numbers(
    sequence: int, deadline: int, sequence_epoch: int, flags: int, client: bytes
) -> None:
    if not (0 <= sequence <= MAX_U64 and 0 <= deadline <= MAX_U64):
        raise InvalidValueError("sequence and deadline are times in µs, 64 unsigned bits")
    if not 0 <= sequence_epoch <= 0xFFFFFFFF:
        raise InvalidValueError("a sequence epoch has 32 unsigned bits")
    if not 0 <= flags <= (Flag.FLATTEN | Flag.DEVICE_ONLY):
        raise InvalidValueError(f"unknown flags in {flags}")
    if len(client) != make.CLIENT_BYTES:
        raise InvalidValueError(f"a client id has {make.CLIENT_BYTES} bytes, not {len(client)}")


def _narrowed_entries(chain: Chain, allow: int | None, object_name: str | None) -> list[ChildEntry]:
    """Entries of a child block that keep ``allow`` on what lies at or below ``object_name``."""
    found = []
    for index, (rights, name) in enumerate(chain.entries):
        kept = rights if allow is None else rights & int(allow)
        if object_name is None:
            narrow = ""
        elif covers(name, object_name):
            narrow = object_name[len(name) :].removeprefix("/") if name else object_name
        else:
            continue
        if kept or (rights == 0 and allow is None):
            found.append(ChildEntry(index, kept, narrow))
    granted = 0
    for entry in found:
        granted |= entry.rights
    where = "" if object_name is None else f" on {object_name or 'everything'!r}"
    if allow is not None and int(allow) & ~granted:
        missing = " and ".join(names_of(int(allow) & ~granted)) or "undefined rights"
        raise WidenedError(f"the capability does not grant {missing}{where}")
    if not found:
        raise WidenedError(f"the capability grants nothing{where}")
    return found


def request_key(states: Sequence[bytes]) -> bytes:
    """The key of an envelope's tag, from the last state of each of its capabilities in order."""
    if len(states) == 1:
        return states[0]
    return sha256(USE_SEVERAL_KEYS + b"".join(states)).digest()


def request_key_of(holders: Sequence[Capability]) -> bytes:
    """The key of an envelope's tag, from its capabilities in order. As secret as they are."""
    return request_key([holder._state for holder in holders])


@dataclass(frozen=True, slots=True)
class BoundRequest:
    """A request as its sender keeps it: the bytes to send, and the key that proves the reply.

    Resending ``encoded`` unchanged is safe at any time: the issuer executes it at most once and
    gives the same reply again.
    """

    envelope: Envelope
    encoded: bytes
    _key: bytes = field(repr=False)

    @classmethod
    def sealed(cls, envelope: Envelope, key: bytes) -> BoundRequest:
        """``envelope`` with its tag computed under ``key``."""
        bound = with_tag(envelope, envelope_tag(key, envelope))
        return cls(bound, encode(bound), key)

    def __repr__(self) -> str:
        return f"<BoundRequest op {self.envelope.op} on {self.envelope.target!r}>"

    def open_reply(self, data: bytes) -> Reply:
        """The reply in ``data``, proven to come from a holder of this capability's keys.

        That is the issuer, or one who could have stood in its place: its home node, and whoever
        delegated the capability.

        Raises:
            UnprovenRefusalError: the generic refusal, which anybody could have sent.
            BadReplyError: not a reply to this request, or changed on the way.
        """
        try:
            reply = decode_reply(data)
        except MalformedError as error:
            raise BadReplyError(f"not a reply: {error}") from None
        if not reply.rtag:
            raise UnprovenRefusalError("refused, without proof of who refused it")
        if not self._proves(reply):
            raise BadReplyError("the reply's tag does not verify")
        return reply

    def _proves(self, reply: Reply) -> bool:
        expected = reply_tag(self._key, self.envelope.tag, reply)
        return hmac.compare_digest(expected, reply.rtag)

    def open_flat(self, reply: Reply) -> Capability | None:
        """The flattened capability that came with ``reply`` (of ``open_reply``), if one did.

        Raises:
            BadReplyError: ``flat`` is not one block of the same grant.
        """
        if not reply.flat or reply.status & 0x7FFF != Status.OK:
            return None
        return _unmasked(self, reply.flat)


def _unmasked(request: BoundRequest, flat: bytes) -> Capability:
    try:
        chain = Chain.parse(flat[:-KEY_BYTES])
    except MalformedError as error:
        raise BadReplyError(f"not a flattened capability: {error}") from None
    header = request.envelope.capabilities[0][:SIGNED_HEADER_BYTES]
    if chain.public[:SIGNED_HEADER_BYTES] != header or len(chain.ends) != 1:
        raise BadReplyError("not a flattened capability of this grant")
    state = mask_state(request._key, request.envelope.tag, flat[-KEY_BYTES:])
    return Capability(chain, state)
