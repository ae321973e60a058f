"""What the command line and the node say to each other about mailboxes.

Rules kept here: pure; JSON documents, strict both ways (both sides are one installation).

These name devices and clients: they travel only over the operator's own socket. No envelope or
reply does. Not handled here: the routes (``admin_mailbox``) and what the answers are made from.
"""

from __future__ import annotations

from typing import Annotated

from edgistry.codec import Document, Meta
from edgistry.requests_api import StateName

MAX_REQUESTS_NAMED = 1000


class MailboxEntry(Document):
    """The mailbox of one device."""

    device: str
    queued: int
    leased: int
    acked: int
    bytes: int
    """Of the envelopes of those three."""
    oldest: str
    """When the first of them was submitted, RFC 3339; empty when there is none."""
    seen: str
    """Its last exchange, RFC 3339; empty before the first."""
    back_in_s: int
    """When it then meant to come back; 0 when it did not say."""
    exchanges: int
    awake_ms: int
    """What the device says of itself, summed up, like the two below."""
    sent: int
    received: int
    conflicts: int
    """Exchanges, since the node started, of an agent that another one had replaced: two programs
    use the device's identity."""


class MailboxList(Document):
    """The mailboxes of a node, by device."""

    mailboxes: tuple[MailboxEntry, ...]
    outstanding: int
    """Requests of all of them that have not ended."""
    more: bool
    """Whether there are more than were asked for."""


class RequestEntry(Document):
    """One request, without what is asked."""

    id: str
    """Hexadecimal."""
    device: str
    state: StateName
    client: str
    """Id of the client, hexadecimal; zeros for the node itself."""
    priority: int
    attempts: int
    bytes: int
    submitted: str
    deadline: str
    recalled: bool
    reason: str


class MailboxDetail(Document):
    """One mailbox with the requests that have not ended, in order of arrival."""

    mailbox: MailboxEntry
    requests: tuple[RequestEntry, ...]
    more: bool


class DeadRequests(Document):
    """Requests that never arrived."""

    requests: tuple[RequestEntry, ...]
    more: bool


class RequestsNamed(Document):
    """These dead requests; or ``every`` one."""

    ids: Annotated[tuple[str, ...], Meta(max_length=MAX_REQUESTS_NAMED)]
    every: bool


class RequestsDone(Document):
    count: int
    """Requests that were replayed, or purged."""
