"""An issuer at work: requests in, replies out, and the operations on authority itself.

Rules kept here:

* Every request takes the same way: verify → at most once → execute → one durable write → reply.
  ``answer`` is total: any bytes get a reply, and denial is an answer.
* Mint, sequence fix and revoke are carried out here, everything else by the caller's function.
* A capability may revoke what was derived from it; one that may revoke on the object "" any.
* On success, and if the client asks for it, a flattened capability goes with the reply.

Not handled here: other operations, transport, and the issuer's secret (``issuer.py``).
"""

from __future__ import annotations

import threading
from dataclasses import replace

from .capability_chain import Chain
from .denials import Denials
from .envelope import Flag, Operation, Status, reply_to
from .errors import (
    BadRequestError,
    CannotFlattenError,
    InvalidValueError,
    MalformedError,
    NoRightError,
    Refused,
)
from .flatten import flatten_chain, flattened_with
from .issuer import Issuer
from .kv import Change, KeyValue
from .mac import HEADER_BYTES, SIGNED_HEADER_BYTES
from .operations import decode_sequence_fix
from .replay import Execute, Outcome, ReplayGuard
from .rights import Right
from .verifier import DEFAULT_MEMO, Checked, Verifier


class Authority:
    """Checks and answers requests to one issuer, remembering durably what it must.

    Safe to use from many threads. ``label`` tells issuers that share a store apart (a device id,
    at most 255 bytes); several of them may share one ``guard``.
    """

    def __init__(
        self,
        store: KeyValue,
        issuer: Issuer,
        *,
        label: bytes = b"",
        guard: ReplayGuard | None = None,
        memo: int = DEFAULT_MEMO,
    ) -> None:
        self.guard = guard or ReplayGuard(store)
        self._store = store
        self._denials = Denials(store, label=label)
        self._lock = threading.Lock()
        if self._denials.epoch is None or self._denials.epoch < issuer.epoch:
            self._begin(issuer.epoch)
        elif self._denials.epoch > issuer.epoch:
            raise InvalidValueError(
                f"the issuer's key is of epoch {issuer.epoch}, the store of {self._denials.epoch}"
            )
        self.verifier = Verifier(issuer, label=label, denied=self._denials.ids, memo=memo)

    @classmethod
    def from_secret(
        cls, store: KeyValue, secret: bytes, *, label: bytes = b"", memo: int = DEFAULT_MEMO
    ) -> Authority:
        """The authority of the issuer with this 32-byte secret, in the epoch that is stored."""
        epoch = Denials(store, label=label).epoch or 0
        return cls(store, Issuer.from_secret(secret, epoch=epoch), label=label, memo=memo)

    @property
    def issuer(self) -> Issuer:
        """The issuer in its current epoch."""
        return self.verifier.issuer

    def begin_epoch(self, issuer: Issuer) -> None:
        """Work with the key of a later epoch: everything signed before is dead, durably.

        Should the store fail, its error passes through, the old epoch goes on with its deny set,
        and the call may be repeated.

        Raises:
            InvalidValueError: the epoch is not later.
        """
        with self._lock:
            self._begin(issuer.epoch)
            self.verifier.replace(issuer=issuer, denied=())

    def _begin(self, epoch: int) -> None:
        self._store.write(self._denials.begin(epoch), sync=True)
        self._denials.begun(epoch)

    def deny(self, public_id: bytes) -> list[Change]:
        """Revoke the capability with this id and all derived from it; the changes to write.

        In force at once.

        Raises:
            DenySetFullError: 256 are revoked already in this epoch.
        """
        with self._lock:
            changes = self._denials.deny(public_id)
            self.verifier.replace(denied=self._denials.ids)
            return changes

    def answer(self, data: bytes, execute: Execute, *, now_us: int) -> bytes:
        """The reply to the request in ``data``; ``execute`` runs at most once for each request.

        Blocks until the reply is durable. What is not a ``Refused`` passes through from
        ``execute`` and the store; then nothing was written.
        """
        try:
            checked = self.verifier.check(data, now_us=now_us)
            return self.guard.once(
                checked,
                lambda request: self.perform(request, execute, now_us=now_us),
                now_us=now_us,
            )
        except Refused as error:
            return reply_to(error)

    def perform(self, checked: Checked, execute: Execute, *, now_us: int) -> Outcome:
        """Execute an admitted request, with everything that authority adds to its outcome.

        For callers that admit requests and write the batch themselves.

        Raises:
            Refused: why the request cannot be executed; to be told by ``checked.refusal``.
        """
        operation = checked.envelope.op
        if operation == Operation.MINT:
            flattened = flattened_with(checked.chain, _block_in(checked))
            return Outcome(flat=checked.flat(flattened))
        if operation == Operation.REVOKE:
            outcome = Outcome(changes=self.deny(_revoked_id(checked)))
        elif operation == Operation.SEQUENCE_FIX:
            outcome = Outcome(changes=self._fix(checked, now_us))
        else:
            outcome = execute(checked)
        if outcome.status == Status.OK and not outcome.flat:
            flat = self.flat(checked)
            return replace(outcome, flat=flat) if flat else outcome
        return outcome

    def flat(self, checked: Checked) -> bytes:
        """``flat`` for a successful reply: empty unless it is asked for and possible."""
        if not checked.envelope.flags & Flag.FLATTEN:
            return b""
        try:
            return checked.flat(flatten_chain(checked.chain))
        except CannotFlattenError:
            return b""

    def _fix(self, checked: Checked, now_us: int) -> list[Change]:
        fix = decode_sequence_fix(checked.envelope.payload)
        return self.guard.fix(
            label=checked.label,
            serial=fix.serial,
            client=fix.client,
            floor=fix.floor,
            now_us=now_us,
        )


def _block_in(checked: Checked) -> bytes:
    block = checked.envelope.payload
    if len(block) < 2 or int.from_bytes(block[:2], "big") != len(block) - 2:
        raise BadRequestError("a mint needs exactly one block with its length")
    return block


def _revoked_id(checked: Checked) -> bytes:
    """The id of the capability that a revocation names, if its authoriser may revoke it."""
    try:
        named = Chain.parse(checked.envelope.payload)
    except MalformedError as error:
        raise BadRequestError(f"a revocation needs public bytes: {error}") from None
    own = checked.chain
    revokes_any = any(rights & Right.REVOKE and not name for rights, name in own.granted)
    descends = (
        named.public[:SIGNED_HEADER_BYTES] == own.public[:SIGNED_HEADER_BYTES]
        and named.public[HEADER_BYTES:].startswith(own.public[HEADER_BYTES:])
        and len(named.public) > len(own.public)
    )
    if not (descends or revokes_any):
        raise NoRightError("a capability may revoke only what was derived from it")
    return named.id
