"""What an operator can do with the node's capabilities: grant them, and revoke them.

Rules kept here:

* A grant is a root capability with a fresh random serial: two grants share no bytes, and their
  replay windows and revocations have nothing to do with each other.
* What was granted is logged with its public id, never with its secret. The node keeps no copy.
* A revocation is answered when it is durable; it is in force before.

Not handled here: who may ask (``admin_server``), and how the secret is kept by who gets it.
"""

from __future__ import annotations

import secrets

from edgistry import caveats
from edgistry.adapters.group_commit import GroupCommitter
from edgistry.adapters.log import get_logger
from edgistry.authority import Authority
from edgistry.capability_chain import Entry
from edgistry.captext import danger_text
from edgistry.rights import check_object, names_of, parse_rights

from .issuing_api import MintAnswer, MintRequest, RevokeAnswer, RevokeRequest

logger = get_logger("edgistry.node.issuing")


class IssuingDesk:
    """Capabilities of ``authority``; ``committer`` writes its store."""

    def __init__(self, authority: Authority, committer: GroupCommitter) -> None:
        self._authority = authority
        self._committer = committer

    def mint(self, asked: MintRequest) -> MintAnswer:
        """A new grant.

        Raises:
            MalformedError, InvalidValueError: an object, right or condition that is none.
        """
        rights = parse_rights(asked.rights)
        conditions = [caveats.handler(name) for name in sorted(set(asked.handlers))]
        if asked.not_before_us is not None:
            conditions.append(caveats.not_before(asked.not_before_us))
        if asked.not_after_us is not None:
            conditions.append(caveats.not_after(asked.not_after_us))
        if asked.client is not None:
            conditions.append(caveats.client(bytes.fromhex(asked.client)))
        if asked.max_payload is not None:
            conditions.append(caveats.max_payload(asked.max_payload))
        made = self._authority.issuer.mint(
            serial=secrets.randbits(32),
            entries=[Entry(rights, check_object(asked.object))],
            caveats=conditions,
        )
        identity = made.id.hex()
        logger.info(
            "a capability was granted", id=identity, rights=names_of(rights), object=asked.object
        )
        return MintAnswer(
            id=identity,
            grant=f"{made.serial:08x}",
            epoch=self._authority.issuer.epoch,
            danger_text=danger_text(made),
        )

    async def revoke(self, asked: RevokeRequest) -> RevokeAnswer:
        """Revoke a capability with all that derive from it.

        Raises:
            DenySetFullError: 256 are revoked already.
        """
        await self._committer.commit(self._authority.deny(bytes.fromhex(asked.id)))
        logger.info("a capability was revoked", id=asked.id)
        return RevokeAnswer(id=asked.id, revoked=len(self._authority.verifier.denied))
