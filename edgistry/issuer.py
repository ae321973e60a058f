"""Issuers: who starts chains, and can therefore recompute them.

Rules kept here:

* An issuer's secret (32 bytes of OS randomness, an argument here) yields one key per epoch. The
  epoch key mints and verifies every capability of its epoch and none of another: that is what a
  device hands to its home node when they pair (paper §3.3).
* A grant to somebody is a root of its own, with a fresh random serial: two grants share no bytes
  that would name the issuer.
* Keys are in no ``repr``, ``str`` or exception.

Not handled here: verifying requests (``verifier.py``), remembering epochs (``denials.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .blocks import epoch_key, header_bytes, root_block
from .capability import Capability
from .capability_chain import CURRENT_EPOCH, Chain, Entry
from .caveats import Caveat
from .errors import InvalidValueError, WrongEpochError
from .mac import KEY_BYTES
from .rights import ALL_RIGHTS, EVERYTHING

ROOT: Sequence[Entry] = (Entry(ALL_RIGHTS, EVERYTHING),)
"""Every right on everything the issuer owns."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """The key of one issuer for one epoch."""

    epoch: int
    _key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.epoch < CURRENT_EPOCH:
            raise InvalidValueError(f"epoch {self.epoch}: use 0 to {CURRENT_EPOCH - 1}")
        if len(self._key) != KEY_BYTES:
            raise InvalidValueError(f"an epoch key has {KEY_BYTES} bytes")

    @classmethod
    def from_secret(cls, secret: bytes, *, epoch: int) -> Issuer:
        """The issuer that holds this 32-byte secret, in ``epoch``.

        Raises:
            InvalidValueError: not 32 bytes, or an epoch outside 0 … 0xFFFFFFFE.
        """
        return cls(epoch, epoch_key(secret, epoch))

    def danger_key(self) -> bytes:
        """The epoch key: whoever has it can mint every capability of this epoch."""
        return self._key

    def __repr__(self) -> str:
        return f"<Issuer of epoch {self.epoch}>"

    def mint(
        self,
        *,
        serial: int,
        entries: Sequence[Entry] = ROOT,
        caveats: Iterable[Caveat] = (),
        hide_epoch: bool = False,
    ) -> Capability:
        """A root capability: a grant of its own. ``serial`` is 32 random bits, the caller's.

        With ``hide_epoch`` the header says "the current epoch" instead of its number, for grants
        through anonymous handles.

        Raises:
            InvalidValueError, MalformedError: a value outside its field.
        """
        header = header_bytes(epoch=CURRENT_EPOCH if hide_epoch else self.epoch, serial=serial)
        chain = Chain.parse(header + root_block(entries, tuple(caveats)))
        return self.holding(chain)

    def holding(self, chain: Chain) -> Capability:
        """The delegable form of any chain of this issuer: it can compute every secret state.

        Raises:
            WrongEpochError: the chain belongs to another epoch.
        """
        self.check_epoch(chain)
        return Capability(chain, chain.last_state(self._key))

    def check_epoch(self, chain: Chain) -> None:
        """Raises ``WrongEpochError`` unless ``chain`` claims this epoch, or the current one."""
        if chain.epoch not in (self.epoch, CURRENT_EPOCH):
            raise WrongEpochError(f"signed in epoch {chain.epoch}; the issuer is in {self.epoch}")

    def state_of(self, chain: Chain) -> bytes:
        """The last secret state of ``chain`` under this key (for verifying)."""
        return chain.last_state(self._key)
