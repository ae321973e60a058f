"""What the operator and the node say to each other about the members of the chain.

Rules kept here: pure; JSON documents, strict both ways.

Not handled here: the use cases (``members_desk``), files that are passed on (``member_files``).
"""

from __future__ import annotations

from edgistry.codec import Document


class MemberRow(Document):
    """A member."""

    node: str
    """Node id, hex."""
    name: str
    power: int
    """In votes; 0: it has no validator."""
    alive: bool
    """Whether its lease lives."""
    own: bool
    """Whether it is the node that was asked."""


class FormerRow(Document):
    """A member no more."""

    node: str
    left: str
    """Block time."""


class MembersAnswer(Document):
    """Who the members are at ``height``, by name."""

    chain_id: str
    height: int
    changes: int
    """How often the members have changed; a proposal has the number after it."""
    block_time_us: int
    members: tuple[MemberRow, ...]
    former: tuple[FormerRow, ...]


class SubmittedAnswer(Document):
    """A change is in the outbox, durably."""

    sequence: int
    height: int


class LeaveRequest(Document):
    """The node is to leave its chain."""
