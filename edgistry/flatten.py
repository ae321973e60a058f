"""Flattening: an equivalent capability of one block, which only the issuer can sign (paper §3.1).

Rules kept here:

* The flattened capability grants exactly what the chain granted: the last block's effective
  entries with full objects, and the union of all caveats (smallest not_after, largest not_before,
  smallest max_payload, handlers intersected). Sealed stays sealed. A limit that limits nothing
  (not_after 2^64 - 1, say) is a caveat like any other: all implementations write the same bytes.
* It keeps the grant (the same 11 header bytes), and a lineage caveat for each prefix of the chain,
  so that revoking any of them revokes it too. It revokes nothing itself.

Not handled here: how the new state travels (``Checked.flat``, ``BoundRequest.open_flat``), and when
to flatten (``authority.py``).
"""

from __future__ import annotations

from typing import Final

from .blocks import append_block, blocks_of, header_bytes, root_block
from .capability_chain import Chain
from .caveats import Caveat, CaveatType, lineage
from .errors import CannotFlattenError, CaveatError, InvalidValueError, MalformedError

_TIGHTEST: Final = {
    CaveatType.NOT_AFTER: min,
    CaveatType.NOT_BEFORE: max,
    CaveatType.MAX_PAYLOAD: min,
}


def flatten_chain(chain: Chain) -> Chain:
    """The one-block chain that grants what ``chain`` grants.

    Raises:
        CannotFlattenError: it would have more than 2048 bytes, or no request could satisfy
            ``chain`` (its blocks name different handlers, or one follows a seal), which one block
            cannot say.
    """
    rare = chain.rare
    if rare.handlers is not None and not rare.handlers:
        raise CannotFlattenError("no handler satisfies all blocks of the chain")
    if rare.sealed_early:
        raise CannotFlattenError("a block follows a seal")
    header = header_bytes(epoch=chain.epoch, serial=chain.serial)
    caveats = [*_union(chain), *map(lineage, chain.ids)]
    try:
        return Chain.parse(header + root_block(chain.entries, caveats))
    except (InvalidValueError, MalformedError) as error:
        raise CannotFlattenError(f"the chain has no form of one block: {error}") from None


def _union(chain: Chain) -> set[Caveat]:
    """The caveats of one block that come to the same as those of all blocks."""
    found = {caveat for block in blocks_of(chain) for caveat in block.caveats}
    handlers = chain.rare.handlers or ()
    union = {
        caveat
        for caveat in found
        if caveat.type not in _TIGHTEST
        and (caveat.type != CaveatType.HANDLER or caveat.value in handlers)
    }
    for kind, tightest in _TIGHTEST.items():
        # Values of one type have one length, so they order as the numbers they are.
        same = [caveat for caveat in found if caveat.type == kind]
        if same:
            union.add(tightest(same))
    return union


def flattened_with(chain: Chain, block: bytes) -> Chain:
    """The flattening of ``chain`` and one more ``block`` (bytes with the length field): a mint.

    Raises:
        MalformedError: ``block`` is no child of ``chain``.
        CaveatError: ``chain`` is sealed.
        CannotFlattenError: as in ``flatten_chain``.
    """
    if chain.rare.sealed:
        raise CaveatError("the capability is sealed: nothing derives from it", caveat="sealed")
    try:
        extended = Chain.parse(append_block(chain.public, block))
    except InvalidValueError as error:
        raise MalformedError(str(error)) from None
    if len(extended.ends) != len(chain.ends) + 1:
        raise MalformedError("the payload is not exactly one block")
    return flatten_chain(extended)
