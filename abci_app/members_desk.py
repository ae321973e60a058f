"""What an operator can ask of a node about the members of the chain.

Not handled here: who may ask (``admin_server``), what the chain takes (``membership``).
"""

from __future__ import annotations

from edgistry.adapters.http import Request
from edgistry.api import block_time_text
from edgistry.codec import Document
from edgistry.errors import InvalidValueError
from edgistry.membership import NodeLeave
from edgistry.transactions import Body, NodeId

from .admin_requests import AdminRoute, body_of, parameters_of
from .member_files import Proposal, body_of_proposal
from .members_api import FormerRow, LeaveRequest, MemberRow, MembersAnswer, SubmittedAnswer
from .outbox import Outbox
from .reader import RegistryReader


class MembersDesk:
    """The members as ``reader`` has them; the node ``node_id`` sends changes by ``outbox``."""

    def __init__(self, reader: RegistryReader, outbox: Outbox, *, node_id: NodeId) -> None:
        self._reader = reader
        self._outbox = outbox
        self._node_id = node_id

    def list(self) -> MembersAnswer:
        """Who the members are, and were."""
        reader = self._reader
        rows = [
            MemberRow(
                node=node.hex(),
                name=member.name,
                power=member.power,
                alive=reader.is_visible(node),
                own=node == self._node_id,
            )
            for node, member in reader.members().items()
        ]
        former = sorted(reader.former().items())
        return MembersAnswer(
            chain_id=reader.parameters.chain_id,
            height=reader.head.height,
            changes=reader.member_changes,
            block_time_us=reader.head.block_time_us,
            members=tuple(sorted(rows, key=lambda row: row.name)),
            former=tuple(
                FormerRow(node=node.hex(), left=block_time_text(each.left_us))
                for node, each in former
            ),
        )

    async def submit(self, proposal: Proposal) -> SubmittedAnswer:
        """Send a signed change.

        Raises:
            InvalidValueError, MalformedError: it is none, or for another chain.
            UnavailableError: the outbox is full.
        """
        if proposal.chain_id != self._reader.parameters.chain_id:
            raise InvalidValueError(f"the proposal is for the chain {proposal.chain_id!r}")
        return await self._send(body_of_proposal(proposal))

    async def leave(self) -> SubmittedAnswer:
        """Let this node leave. Raises UnavailableError as above."""
        return await self._send(NodeLeave(change=self._reader.member_changes + 1))

    async def _send(self, body: Body) -> SubmittedAnswer:
        sequence = await self._outbox.append([body])
        return SubmittedAnswer(sequence=sequence, height=self._reader.head.height)


def member_routes(desk: MembersDesk) -> list[AdminRoute]:
    """Method, path and what answers it."""

    async def listed(request: Request) -> Document:
        parameters_of(request)
        return desk.list()

    async def submit(request: Request) -> Document:
        parameters_of(request)
        return await desk.submit(body_of(request, Proposal))

    async def leave(request: Request) -> Document:
        parameters_of(request)
        body_of(request, LeaveRequest)
        return await desk.leave()

    return [
        ("GET", "/admin/members", listed),
        ("POST", "/admin/members", submit),
        ("POST", "/admin/members/leave", leave),
    ]
