"""Choosing a service for a client that asks for any of a type in an area: the entry node's part.

Rules kept here (privacy.md, *Anycast*):

* The signature is checked before anything is looked for.
* Who can be chosen: a frozen member that is still there with that type and those actions, whose
  node shows and can be asked, and of which the client has not its share by this node's choices.
* Who has less to do than ``MAX_LOAD`` for all clients is preferred. If nobody has, that refuses
  nobody: what others have asked decides who is chosen, and never that nobody is.
* A member whose node does not answer, or grants nothing, is passed over for the next, a few times:
  granting changes nothing. The client learns of one member, by an alias.
* This node has checked what the client asks. So another node that finds fault with it, since its
  clock is wrong, say, is passed over too: no member can turn clients away from the others.
* Who gets nobody is told whether to come back: to have its share of all is 429, none there 404,
  and a refusal to grant is that refusal. A node that is away looks like none there.

Not handled here: who is a member (``memberships``), whose turn it is (``anycast``), what is granted
(``any_grants``), transport (``http_any``).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final

from edgistry.adapters import sodium
from edgistry.anycast_api import AnyGrantAnswer, AnyGrantBody, read_any_body
from edgistry.api import SHARE
from edgistry.errors import (
    GrantRefusedError,
    MembersBusyError,
    NoMemberError,
    NotFoundError,
    Refused,
    UnknownHandleError,
)
from edgistry.handles import TAG_BYTES, HandleKind, Target, parse_handle_text
from edgistry.signed_request import SignedRequest, check_signed
from edgistry.transactions import NodeId, RecordKey, Verify

from .any_grants import AnyGrants
from .choices import Choices
from .entry_desk import FindService
from .epoch_keys import EpochKeys
from .memberships import Group, Memberships
from .peer_api import PassedAnyGrant
from .peer_link import PeerLink, is_away

MAX_LOAD: Final = 16
"""Choices of one service that have not ended: as many requests as a device takes at a time."""
MAX_OWN_LOAD: Final = SHARE
"""The same for one client: as many requests as a home node keeps of it for the service."""
MAX_ASKED: Final = 3
"""Members whose nodes are asked for one client."""


class AnycastDesk:
    """Implements ``PublicAny`` for all services that ``memberships`` list.

    ``local`` grants on this node's services, ``links`` lead to the others.
    """

    def __init__(
        self,
        memberships: Memberships,
        choices: Choices,
        *,
        node_id: NodeId,
        keys: EpochKeys,
        find: FindService,
        is_visible: Callable[[bytes], bool],
        local: AnyGrants,
        links: Mapping[NodeId, PeerLink],
        verify: Verify = sodium.verify,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._memberships = memberships
        self._choices = choices
        self._node_id = node_id
        self._keys = keys
        self._find = find
        self._is_visible = is_visible
        self._local = local
        self._links = links
        self._verify = verify
        self._clock_us = clock_us
        self._draw = draw
        self.chosen = 0
        """Choices since the start."""

    async def any_grant(self, request: SignedRequest) -> AnyGrantAnswer:
        """A service for the client who signed ``request``, and what is granted on it.

        Raises:
            ClientSignatureError: it is not signed, or not lately.
            MalformedError, InvalidValueError, LimitExceededError, UnknownRegionError: what is
                asked for is none.
            NoEpochKeyError: this node can make no handles yet.
            NoMemberError, MembersBusyError: nobody is there, or the client has its share of all.
            GrantRefusedError: those that were asked grant nothing.
        """
        now_us = self._clock_us()
        client = check_signed(request, now_us=now_us, verify=self._verify)
        body, query = read_any_body(request)
        handles = self._keys.handles()
        avoid = {self._avoided(text) for text in body.avoid}
        group = await self._memberships.of(query, epoch=handles.epoch)
        refusal: Refused | None = None
        for _ in range(MAX_ASKED):
            record = self.choose(group, body, client.id, avoid=avoid, now_us=now_us)
            if record is None:
                break
            avoid.add(record)
            service = self._find(record)
            if service is None:
                continue
            target = Target(NodeId(service.home), RecordKey(record))
            alias = handles.alias(self._draw(TAG_BYTES), target)
            passed = PassedAnyGrant(request=request, service=record, handle=alias.data)
            try:
                answer = await self._grants_of(target.node).any_grant(passed)
            except (GrantRefusedError, NotFoundError) as error:
                refusal = error
                continue
            except Refused as error:
                if target.node == self._node_id and not is_away(error):
                    raise
                continue
            self._choices.made(record, client.id, alias=alias.tag, now_us=now_us)
            self.chosen += 1
            # Of a node's answer only what is sealed counts: the handle is this node's own.
            return AnyGrantAnswer(handle=alias.text, sealed=answer.sealed)
        raise self._nobody(group, body, client.id, refusal)

    def choose(
        self,
        group: Group,
        body: AnyGrantBody,
        client_id: bytes,
        *,
        avoid: set[bytes],
        now_us: int,
    ) -> bytes | None:
        """The record key of the member whose turn it is for that client; ``None``: none is fit."""
        wanted = frozenset(body.actions)

        def is_fit(record: bytes) -> bool:
            own = self._choices.own_load(record, client_id, now_us=now_us)
            return own < MAX_OWN_LOAD and self._can_be_asked(record, body.type, wanted, group)

        def is_idle(record: bytes) -> bool:
            return not self._choices.is_loaded(record, MAX_LOAD, now_us=now_us) and is_fit(record)

        chosen = group.members.choose(is_fit=is_idle, avoid=avoid)
        return chosen or group.members.choose(is_fit=is_fit, avoid=avoid)

    def _can_be_asked(
        self, record: bytes, type_name: str, wanted: frozenset[str], group: Group
    ) -> bool:
        profile = group.profiles[record]
        if not wanted.issubset(profile.actions) or not self._is_visible(profile.home):
            return False
        link = self._links.get(NodeId(profile.home))
        if profile.home != self._node_id and (link is None or not link.seems_up):
            return False
        # Last, since it reads the registry: it may have been withdrawn or changed since.
        service = self._find(record)
        return service is not None and (service.home, service.type) == (profile.home, type_name)

    def _grants_of(self, node: NodeId) -> AnyGrants:
        return self._local if node == self._node_id else self._links[node]

    def _avoided(self, text: str) -> bytes:
        """The record behind an alias that will not do; nothing's, if it is of no epoch here."""
        handle = parse_handle_text(text)
        try:
            if handle.kind is not HandleKind.ALIAS:
                return b""
            return self._keys.handles_of(handle.epoch).open(handle).record
        except UnknownHandleError:
            return b""

    def _nobody(
        self, group: Group, body: AnyGrantBody, client_id: bytes, refusal: Refused | None
    ) -> Refused:
        if isinstance(refusal, GrantRefusedError):
            return refusal
        if len(body.avoid) < len(group.profiles) and self._has_share(group, body, client_id):
            return MembersBusyError(f"every {body.type} there has enough to do for you for now")
        return NoMemberError(f"there is no {body.type} in that area that could be asked")

    def _has_share(self, group: Group, body: AnyGrantBody, client_id: bytes) -> bool:
        """Whether somebody would have been chosen, were it not for the client's other choices."""
        avoided = {self._avoided(text) for text in body.avoid}
        wanted = frozenset(body.actions)
        now_us = self._clock_us()
        return any(
            record not in avoided
            and self._choices.own_load(record, client_id, now_us=now_us) >= MAX_OWN_LOAD
            and self._can_be_asked(record, body.type, wanted, group)
            for record in self._choices.loaded_by(client_id)
            if record in group.profiles
        )
