"""Capabilities as text: the one-line form of files and messages, and what people read.

Rules kept here:

* ``edgcap1:`` and unpadded base64url of the delegable form. One text per capability: padding,
  other alphabets and stray bits are refused; white space around it is not part of it.
* ``danger_text`` is the only function that writes a secret. Everything for people shows public
  ids instead.

Not handled here: files and their modes, the keyring (the ``edgistry`` command).
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from .blocks import Block, blocks_of
from .capability import Capability
from .capability_chain import CURRENT_EPOCH, MAX_PUBLIC_BYTES, Chain
from .caveats import Caveat, CaveatType
from .codec import Document
from .errors import MalformedError
from .mac import KEY_BYTES
from .rights import ALL_RIGHTS, names_of

PREFIX: Final = "edgcap1:"
MAX_TEXT: Final = len(PREFIX) + (MAX_PUBLIC_BYTES + KEY_BYTES) * 4 // 3 + 2


def danger_text(capability: Capability) -> str:
    """The capability with its secret, as one line of ASCII."""
    return PREFIX + urlsafe_b64encode(capability.danger_bytes()).rstrip(b"=").decode()


def parse_text(text: str) -> Capability:
    """The capability in ``text`` (of ``danger_text``; white space around it is ignored).

    Raises:
        MalformedError: any other text. It never quotes the text, which may hold a secret.
    """
    body = text.strip()
    if len(body) > MAX_TEXT or not body.startswith(PREFIX):
        raise MalformedError(f"no capability text: it begins with {PREFIX!r}")
    encoded = body[len(PREFIX) :]
    try:
        data = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError):
        raise MalformedError("the capability text is not base64url") from None
    if urlsafe_b64encode(data).rstrip(b"=").decode() != encoded:
        raise MalformedError("the capability text is not canonical unpadded base64url")
    return Capability.from_bytes(data)


class EntryView(Document):
    """Rights on an object, for people."""

    rights: tuple[str, ...]
    object: str


class CaveatView(Document):
    """A caveat, for people: times as UTC, ids as hex."""

    name: str
    value: str


class BlockView(Document):
    """A block with the public id of the chain up to it."""

    id: str
    entries: tuple[EntryView, ...]
    caveats: tuple[CaveatView, ...]


class CapabilityView(Document):
    """Everything public about a capability. ``epoch`` is ``None`` for the issuer's current one."""

    id: str
    epoch: int | None
    serial: int
    public_bytes: int
    blocks: tuple[BlockView, ...]


def view(chain: Chain) -> CapabilityView:
    """What people and scripts may see of ``chain``."""
    return CapabilityView(
        id=chain.id.hex(),
        epoch=None if chain.epoch == CURRENT_EPOCH else chain.epoch,
        serial=chain.serial,
        public_bytes=len(chain.public),
        blocks=tuple(
            _block_view(block, prefix_id)
            for block, prefix_id in zip(blocks_of(chain), chain.ids, strict=True)
        ),
    )


def _block_view(block: Block, prefix_id: bytes) -> BlockView:
    return BlockView(
        id=prefix_id.hex(),
        entries=tuple(
            EntryView(rights=tuple(names_of(entry.rights)), object=entry.object)
            for entry in block.entries
        ),
        caveats=tuple(
            CaveatView(name=caveat.name, value=caveat_text(caveat)) for caveat in block.caveats
        ),
    )


def tree(chain: Chain) -> list[str]:
    """The capability as lines of a tree: who may do what, until when; never a secret."""
    shown = view(chain)
    epoch = "the current epoch" if shown.epoch is None else f"epoch {shown.epoch}"
    lines = [f"capability {shown.id}", f"  grant {shown.serial:08x} of {epoch}"]
    for depth, block in enumerate(shown.blocks):
        indent = "  " * (depth + 1)
        lines.append(f"{indent}{'issued' if depth == 0 else 'derived'} {block.id}")
        for entry in block.entries:
            lines.append(f"{indent}  may {_rights_text(entry.rights)} on {_object_text(entry)}")
        for caveat in block.caveats:
            lines.append(f"{indent}  only if {_condition_text(caveat)}")
    return lines


def _rights_text(rights: tuple[str, ...]) -> str:
    if len(rights) == len(names_of(ALL_RIGHTS)):
        return "do everything"
    return ", ".join(rights) or "do nothing"


def _object_text(entry: EntryView) -> str:
    return repr(entry.object)[1:-1] if entry.object else "everything the issuer owns"


_CONDITIONS: Final = {
    "not_after": "not after {}",
    "not_before": "not before {}",
    "client": "sent by client {}",
    "handler": "the handler is {}",
    "max_payload": "the payload has at most {} bytes",
    "require": "capability {} stands beside it",
    "sealed": "nothing is derived from it (sealed)",
    "lineage": "{} is not revoked (lineage)",
    "veil": "it puts with a handler, or gets the newest element (veil)",
}


def _condition_text(caveat: CaveatView) -> str:
    return _CONDITIONS.get(caveat.name, f"{caveat.name} {{}}").format(caveat.value)


def caveat_text(caveat: Caveat) -> str:
    """The value of ``caveat`` for people: a UTC time, a number, a name, hex, or nothing."""
    if caveat.type in (CaveatType.NOT_AFTER, CaveatType.NOT_BEFORE):
        return utc_text(int.from_bytes(caveat.value, "big"))
    if caveat.type == CaveatType.MAX_PAYLOAD:
        return str(int.from_bytes(caveat.value, "big"))
    if caveat.type == CaveatType.HANDLER:
        return repr(caveat.value)[2:-1]
    return caveat.value.hex()


def utc_text(time_us: int) -> str:
    """µs since 1970 as ``2025-01-31T23:59:59.5Z``; beyond year 9999 the plain number of µs."""
    seconds, microseconds = divmod(time_us, 1_000_000)
    days, second = divmod(seconds, 86_400)
    # Days to a date of the proleptic Gregorian calendar, counted in eras of 400 years that begin
    # on a first of March (H. Hinnant, "chrono-compatible low-level date algorithms").
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    year = year_of_era + era * 400 + (month <= 2)
    if year > 9999:
        return f"{time_us} µs"
    fraction = f".{microseconds:06d}".rstrip("0") if microseconds else ""
    clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}{fraction}"
    return f"{year:04d}-{month:02d}-{day:02d}T{clock}Z"
