"""What a node says and does about the members of its chain, and about being one no more."""

from __future__ import annotations

import pytest
import structlog

from abci_app.consensus import ConsensusView
from abci_app.member_files import Proposal, sign_proposal
from abci_app.members_desk import MembersDesk
from abci_app.service import NodeService
from edgistry.adapters import crypto
from edgistry.errors import InvalidValueError
from edgistry.kv import MemoryKeyValue
from edgistry.membership import NodeLeave
from edgistry.transactions import owner_tag

from .chain_world import ANN, BOB, CHAIN, SECOND, START_US, Node, World, genesis, put, started

CAROL = Node("carol")


class Sink:
    """Keeps what it is given for the next block."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []

    async def submit(self, transaction: bytes) -> None:
        self.waiting.append(transaction)


class Member:
    """Bob's node over the chain of ``world``."""

    def __init__(self) -> None:
        self.world: World = started(MemoryKeyValue(), genesis(ANN, BOB, CAROL, validating=True))
        self.sink = Sink()
        self.service = NodeService(
            name="bob",
            engine="cometbft",
            chain_id=CHAIN,
            node_id=BOB.id,
            owner=owner_tag(BOB.public_key),
            sign=crypto.signer(BOB.seed),
            store=MemoryKeyValue(),
            reader=self.world.app.reader,
            sink=self.sink,
            view=lambda: ConsensusView(peers=2, catching_up=False),
            clock_us=lambda: self.world.now_us,
            steady_s=lambda: 1.0,
        )
        self.desk = MembersDesk(self.world.app.reader, self.service.outbox, node_id=BOB.id)

    async def block(self) -> list[int]:
        await self.service.outbox.step()
        waiting, self.sink.waiting = self.sink.waiting, []
        return await self.world.block(*waiting)

    def proposal(self, *signers: Node) -> Proposal:
        found = Proposal(
            chain_id=CHAIN,
            change=self.desk.list().changes + 1,
            not_after_us=self.world.now_us + 60 * SECOND,
            removes=BOB.id.hex(),
            signatures={},
        )
        for node in signers:
            found = sign_proposal(found, node.id, crypto.signer(node.seed))
        return found


async def test_the_members_are_listed_by_name_with_what_they_are() -> None:
    bob = Member()
    await bob.block()
    answer = bob.desk.list()
    assert [(each.name, each.power, each.alive, each.own) for each in answer.members] == [
        ("ann", 10, True, False),
        ("bob", 10, True, True),
        ("carol", 10, True, False),
    ]
    assert (answer.chain_id, answer.height, answer.changes) == (CHAIN, 1, 0)
    assert answer.block_time_us == START_US + SECOND


async def test_a_proposal_goes_to_the_chain_through_a_member() -> None:
    bob = Member()
    sent = await bob.desk.submit(bob.proposal(ANN, CAROL))
    assert sent.sequence == 1
    assert await bob.block() == [0]
    answer = bob.desk.list()
    assert [each.name for each in answer.members] == ["ann", "carol"]
    assert [each.node for each in answer.former] == [BOB.id.hex()]
    assert answer.changes == 1


async def test_a_proposal_for_another_chain_is_not_sent() -> None:
    bob = Member()
    other = Proposal(
        chain_id="other", change=1, not_after_us=1, removes=BOB.id.hex(), signatures={}
    )
    with pytest.raises(InvalidValueError):
        await bob.desk.submit(other)
    assert bob.service.outbox.pending == 0


async def test_a_node_that_is_a_member_no_more_says_so_once_in_its_log_and_while_asked() -> None:
    bob = Member()
    await bob.block()
    assert bob.service.ready()[1].reasons == ()
    with structlog.testing.capture_logs() as logs:
        await bob.desk.leave()
        await bob.block()
        await bob.block()
    assert [each["log_level"] for each in logs if "no more" in each["event"]] == ["error"]
    reasons = bob.service.ready()[1].reasons
    assert any("a member no more" in each and "2023-11-14T22:13:22" in each for each in reasons)
    # It reads on, renews nothing, and what it sends is refused.
    assert bob.service.ready()[0]
    assert not await bob.service.leases.renew()
    assert await bob.world.do(BOB, put("x")) != 0


async def test_leaving_is_a_transaction_of_the_node_itself() -> None:
    bob = Member()
    await bob.desk.leave()
    await bob.service.outbox.step()
    assert bob.sink.waiting == [BOB.sign(1, NodeLeave(change=1))]
