"""Verifying requests: from received bytes to an authorised request, or an exact refusal.

Rules kept here:

* Order: decode → chains → tag → deny set → caveats → rights. Before the tag has verified, every
  refusal is answered alike (``GENERIC_REFUSAL``); afterwards the exact reason is told in a reply
  with a tag (paper §3.2).
* All capabilities of an envelope verify and pass the deny set; the first one authorises.
* The memo keeps, by public bytes, what was computed for chains whose request verified and was not
  denied. It is bounded, holds one epoch and one deny set, and goes away with them as a whole:
  a request that is being verified meanwhile cannot put an old state into the new memo.
* Verifying changes nothing else: whoever has no valid capability costs no state.

Replay protection is the next step and not handled here: a request that passed ``check`` is
executed only through ``replay.py``.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterable, Sequence
from typing import Final

from .capability import request_key
from .capability_chain import CURRENT_EPOCH, Chain
from .envelope import (
    MAX_U64,
    Envelope,
    Status,
    decode_envelope,
    encode_reply,
    envelope_message,
    mask_state,
    max_payload,
)
from .errors import (
    BadTagError,
    InvalidValueError,
    Refused,
    ResynchroniseError,
    RevokedError,
    TooLargeError,
)
from .issuer import Issuer
from .judge import judge
from .mac import ID_BYTES, TAG_BYTES, chain_state, mac

DEFAULT_MEMO: Final = 1024
"""Chains remembered by default: a few MB at most, enough for the callers of one node."""


class _SignedChain(Chain):
    """A chain with its last secret state, which no ``repr`` shows."""

    __slots__ = ("_state",)

    _state: bytes


class Checked:
    """A request that authority allows: what an executor works on, and how it answers.

    ``Verifier.check`` makes them. The key of the request stays inside.
    """

    __slots__ = ("_issuer", "_signed", "envelope", "label")

    def __init__(
        self, label: bytes, envelope: Envelope, signed: list[_SignedChain], issuer: Issuer
    ) -> None:
        self.label = label
        """The label of the verifier that checked it: whose resources the target names."""
        self.envelope = envelope
        self._signed = signed
        self._issuer = issuer

    @property
    def chain(self) -> Chain:
        """The chain that authorises: the first capability."""
        return self._signed[0]

    @property
    def chains(self) -> Sequence[Chain]:
        """All capabilities of the envelope in order."""
        return self._signed

    @property
    def is_veiled(self) -> bool:
        """Whether replies must carry result 0 (the veil caveat)."""
        return any(chain.rare.veil for chain in self._signed)

    def reply(
        self,
        status: int,
        *,
        result: int = 0,
        payload: bytes = b"",
        flat: bytes = b"",
        sequence_epoch: int = 0,
        sequence_floor: int = 0,
    ) -> bytes:
        """The bytes of a reply with its tag. Under a veil the result becomes 0.

        Raises:
            InvalidValueError: a number outside its field.
            TooLargeError: a payload above 64 KiB, 1 MiB for an exchange.
        """
        if not 0 <= result <= MAX_U64:
            raise InvalidValueError("a result has 64 unsigned bits")
        limit = max_payload(self.envelope.op)
        if len(payload) > limit:
            raise TooLargeError(f"a reply of {len(payload)} bytes; the limit is {limit}")
        return encode_reply(
            self._key(),
            self.envelope.tag,
            status=status,
            result=0 if self.is_veiled else result,
            sequence_epoch=sequence_epoch,
            sequence_floor=sequence_floor,
            payload=payload,
            flat=flat,
        )

    def refusal(self, error: Refused) -> bytes:
        """The bytes of the reply that tells ``error``, with its tag."""
        if isinstance(error, ResynchroniseError):
            return self.reply(
                error.wire_status,
                sequence_epoch=error.sequence_epoch,
                sequence_floor=error.sequence_floor,
            )
        return self.reply(error.wire_status)

    def flat(self, flattened: Chain) -> bytes:
        """``flat`` for a reply: the public bytes of ``flattened``, then its secret state masked.

        The mask depends on the key and the tag of this request, so only who bound the request (or
        could have) can take it off.
        """
        state = self._issuer.state_of(flattened)
        return flattened.public + mask_state(self._key(), self.envelope.tag, state)

    def _key(self) -> bytes:
        return request_key([chain._state for chain in self._signed])

    def _is_authentic(self) -> bool:
        # The only place where a request's tag is compared. Secrets stay in this frame, which
        # raises nothing.
        envelope = self.envelope
        signed = self._signed
        key = signed[0]._state if len(signed) == 1 else self._key()
        tag = mac(key, envelope_message(envelope))[:TAG_BYTES]
        return hmac.compare_digest(tag, envelope.tag)

    def __repr__(self) -> str:
        return f"<Checked op {self.envelope.op} on {self.envelope.target!r} by {self.chain!r}>"


class _Generation:
    """One epoch key and one deny set, with what was computed under them."""

    __slots__ = ("denied", "issuer", "memo")

    def __init__(self, issuer: Issuer, denied: frozenset[bytes]) -> None:
        self.issuer = issuer
        self.denied = denied
        self.memo: dict[bytes, _SignedChain] = {}

    def sign(self, public: bytes) -> _SignedChain:
        """The chain in ``public`` with the state that it has under this key.

        That says nothing yet about who made ``public``: only a tag proves it.
        """
        chain = _SignedChain.parse(public)
        issuer = self.issuer
        if chain.epoch != issuer.epoch and chain.epoch != CURRENT_EPOCH:
            issuer.check_epoch(chain)
        chain._state = chain_state(issuer._key, public, chain.ends)
        return chain


class Verifier:
    """Checks requests to one issuer. Safe to use from many threads."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        label: bytes = b"",
        denied: Iterable[bytes] = (),
        memo: int = DEFAULT_MEMO,
    ) -> None:
        """``label`` tells verifiers of one process apart (a device id, say): it is never sent.

        ``denied`` are public ids (16 bytes); ``memo`` is the number of chains to remember, 0 for
        none.
        """
        self.label = label
        self._memo_limit = memo
        self._lock = threading.Lock()
        self._generation = _Generation(issuer, frozenset(denied))

    @property
    def issuer(self) -> Issuer:
        """The issuer, with its current epoch."""
        return self._generation.issuer

    @property
    def denied(self) -> frozenset[bytes]:
        """The public ids that are denied, with everything derived from them."""
        return self._generation.denied

    def replace(self, *, issuer: Issuer | None = None, denied: Iterable[bytes]) -> None:
        """Work with another epoch key, another deny set, or both; the memo starts empty."""
        self._generation = _Generation(issuer or self._generation.issuer, frozenset(denied))

    def check(self, data: bytes, *, now_us: int) -> Checked:
        """The request in ``data``, if its capabilities authorise it at ``now_us`` (µs since 1970).

        Every refusal raised after the tag has verified carries its ``reply``; ``reply_to(error)``
        gives what to send in any case.

        Raises:
            MalformedError: no envelope, or a chain in it is not well-formed.
            WrongEpochError, BadTagError: not signed by this issuer for this request.
            RevokedError, BadRequestError, CaveatError, NoRightError: authentic, but not allowed.
        """
        generation = self._generation
        checked, fresh = self._authentic(generation, data)
        try:
            if fresh:
                self._admit(generation, fresh)
            judge(checked.envelope, checked.chains, now_us=now_us)
        except Refused as error:
            error.reply = checked.refusal(error)  # type: ignore[attr-defined]
            raise
        return checked

    def reopen(self, data: bytes) -> Checked:
        """The request in ``data``, which was checked and admitted before: to give its final reply.

        Caveats, rights and the deny set are not looked at again: what was accepted is answered,
        also when its capability has ended since. Never execute what this returns.

        Raises:
            MalformedError: no envelope, or a chain in it is not well-formed.
            WrongEpochError, BadTagError: not signed by this issuer in this epoch for it.
        """
        checked, _ = self._authentic(self._generation, data)
        return checked

    def _authentic(
        self, generation: _Generation, data: bytes
    ) -> tuple[Checked, list[_SignedChain]]:
        """The request in ``data`` if its tag verifies, and those of its chains not in the memo."""
        envelope = decode_envelope(data)
        memo = generation.memo
        signed = []
        fresh = []
        for public in envelope.capabilities:
            chain = memo.get(public)
            if chain is None:
                chain = generation.sign(public)
                fresh.append(chain)
            signed.append(chain)
        checked = Checked(self.label, envelope, signed, generation.issuer)
        if not checked._is_authentic():
            raise BadTagError("the tag does not verify")
        return checked, fresh

    def _admit(self, generation: _Generation, fresh: list[_SignedChain]) -> None:
        """Refuse denied chains, and remember the others."""
        if generation.denied:
            for chain in fresh:
                if not generation.denied.isdisjoint((*chain.ids, *chain.rare.lineages)):
                    raise RevokedError("the capability, or one it derives from, was revoked")
        if self._memo_limit:
            for chain in fresh:
                self._remember(generation.memo, chain)

    def _remember(self, memo: dict[bytes, _SignedChain], chain: _SignedChain) -> None:
        with self._lock:
            while len(memo) >= self._memo_limit:
                del memo[next(iter(memo))]
            memo[chain.public] = chain


def check_id(public_id: bytes) -> bytes:
    """``public_id``, if it has 16 bytes.

    Raises:
        InvalidValueError: it has not.
    """
    if len(public_id) != ID_BYTES:
        raise InvalidValueError(f"a public id has {ID_BYTES} bytes, not {len(public_id)}")
    return public_id


__all__ = ["Checked", "Status", "Verifier", "check_id"]
